// All-in-focus image and depth map of a stack: asked for, waited for, kept.

import { fromPixels } from "./canvas.js";
import { DEPTH_TABLE } from "./colours.js";
import { decode, unpack } from "./message.js";
import { stackKey } from "./slice.js";

const KEPT = 6;
const ASK_AGAIN_MS = 500;
const TRY_AGAIN_MS = 3000;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Heights as the part `depth` codes them; NaN where none is known. */
export function toHeights(codes, { low, high }) {
  const heights = new Float32Array(codes.length);
  for (let at = 0; at < codes.length; at += 1) {
    heights[at] = codes[at] ? low + ((codes[at] - 1) / 65534) * (high - low) : NaN;
  }
  return heights;
}

/** The codes in colour, clear where no height is known. */
function colourCodes(codes, table = DEPTH_TABLE) {
  const rgba = new Uint8ClampedArray(4 * codes.length);
  for (let at = 0; at < codes.length; at += 1) {
    if (!codes[at]) continue;
    const [red, green, blue] = table[Math.round(((codes[at] - 1) / 65534) * 255)];
    rgba.set([red, green, blue, 255], 4 * at);
  }
  return rgba;
}

/** Little-endian 16-bit numbers of a part, which need not begin at an even address. */
const codesOf = ({ bytes }) => new Uint16Array(bytes.slice().buffer);

async function readProjection(buffer) {
  const { header, parts } = unpack(buffer);
  const codes = codesOf(parts.depth);
  const { width, height } = header.depth;
  const depth = fromPixels(colourCodes(codes), width, height);
  return { header, bitmap: await decode(parts.picture), codes, depth };
}

/** Ask until it is made. Resolves to a response that is not 202. */
export async function askUntilMade(address, onProgress) {
  for (;;) {
    const answer = await fetch(address);
    if (answer.status !== 202) return answer;
    const { state, progress } = await answer.json();
    onProgress(state === "working" ? progress : 0);
    await wait(ASK_AGAIN_MS);
  }
}

export const stackQuery = ({ run, image, t, c }) => new URLSearchParams({ run, image, t, c });

export class Projections {
  /** `onChange` is told whenever one is there, got further, or cannot be had. */
  constructor(onChange) {
    this.onChange = onChange;
    this.known = new Map();
  }

  /** {projection} or {progress} or {refusal}, as far as it is known; asks for it if need be. */
  get(place) {
    const key = stackKey(place);
    const known = this.known.get(key);
    const stale = known?.refusal && performance.now() - known.at > TRY_AGAIN_MS;
    if (known && !stale) return known;
    const entry = known ?? { progress: 0 };
    entry.at = performance.now();
    this.known.set(key, entry);
    while (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
    this.ask(place, entry);
    return entry;
  }

  async ask(place, entry) {
    try {
      const answer = await askUntilMade(`/api/projection?${stackQuery(place)}`, (progress) => {
        entry.progress = progress;
        this.onChange();
      });
      if (answer.ok) {
        entry.projection = await readProjection(await answer.arrayBuffer());
        entry.refusal = null;
      } else {
        entry.refusal = (await answer.json()).error;
      }
    } catch {
      entry.refusal = "could not be read";
    }
    entry.at = performance.now();
    this.onChange();
  }

  /** The same, without asking. */
  peek(place) {
    return this.known.get(stackKey(place)) ?? null;
  }

  /** A stack was labelled: what was refused before may be had now. */
  retry(place) {
    const entry = this.known.get(stackKey(place));
    if (entry?.refusal) this.known.delete(stackKey(place));
  }
}
