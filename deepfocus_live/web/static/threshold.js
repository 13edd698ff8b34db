// A mask from the network's probability, at any threshold. No document in here.

/** The smallest 8-bit value that counts as in focus from `threshold` (0 … 1) on. */
export const levelOf = (threshold) => Math.max(0, Math.min(256, Math.ceil(threshold * 255 - 1e-9)));

/**
 * The mask as RGBA, white and opaque where in focus, and the part of it that is.
 * `rgba` holds the probability in its red bytes.
 */
export function thresholdInto(rgba, threshold) {
  const level = levelOf(threshold);
  const mask = new Uint8ClampedArray(rgba.length);
  const words = new Uint32Array(mask.buffer);
  let count = 0;
  for (let at = 0; at < words.length; at += 1) {
    if (rgba[4 * at] < level) continue;
    words[at] = 0xffffffff;
    count += 1;
  }
  return { mask, part: words.length ? count / words.length : 0 };
}
