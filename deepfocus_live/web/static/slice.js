// What is known of one slice: its header, its picture, its mask when there is one.

import { decode, unpack } from "./message.js";

export const stackKey = (place) => JSON.stringify([place.run, place.image, place.t, place.c]);
const sliceKey = (place) => JSON.stringify([place.run, place.image, place.t, place.c, place.z]);

/** Read a message of kind picture, stored or mask; of the last, `bitmap` is null. */
export async function readSlice(buffer) {
  const { header, parts } = unpack(buffer);
  const [bitmap, maskBitmap, undecided, saturated] = await Promise.all(
    ["picture", "mask", "undecided", "saturated"].map((name) => decode(parts[name])),
  );
  const slice = { header, bitmap, maskBitmap, undecided, saturated };
  return { ...slice, key: sliceKey(header), stack: stackKey(header), probability: null, coded: parts.probability ?? null };
}

/** Add what a message of kind mask brought. */
export function addMask(slice, { header, maskBitmap, coded }) {
  slice.header = { ...slice.header, mask: header.mask, threshold: header.threshold, probability_factor: header.probability_factor };
  slice.maskBitmap = maskBitmap;
  slice.coded = coded;
  slice.probability = null;
}

/** Decode the probability, which most slices are shown without. */
export async function needProbability(slice) {
  if (!slice.probability && slice.coded) slice.probability = await decode(slice.coded);
  return slice;
}
