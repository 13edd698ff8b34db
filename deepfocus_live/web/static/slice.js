// What is known of one slice: its header, its picture, its mask when there is one.

export const stackKey = (place) => JSON.stringify([place.run, place.image, place.t, place.c]);
export const sliceKey = (place) => JSON.stringify([place.run, place.image, place.t, place.c, place.z]);

export function makeSlice({ header, bitmap, maskBitmap }) {
  return { key: sliceKey(header), stack: stackKey(header), header, bitmap, maskBitmap };
}

export function addMask(slice, { header, maskBitmap }) {
  slice.header = { ...slice.header, mask: header.mask };
  slice.maskBitmap = maskBitmap;
}
