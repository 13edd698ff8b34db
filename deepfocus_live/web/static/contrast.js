// Contrast by hand, as a table over the 8-bit picture. No document in here.

/** The counts that a grey value of the picture stands for. */
export function toCounts(grey, display) {
  return display.low + (grey / 255) * (display.high - display.low);
}

/**
 * The grey value to show for each of the picture's 256.
 *
 * The picture holds `display.low` … `display.high` counts; what lies outside
 * was cut off before and cannot come back.
 */
export function greyTable(display, { low, high }) {
  const table = new Uint8ClampedArray(256);
  const span = Math.max(high - low, 1e-6);
  for (let grey = 0; grey < 256; grey += 1) {
    table[grey] = (255 * (toCounts(grey, display) - low)) / span;
  }
  return table;
}

/** Run RGBA bytes through a table, in place; each colour by itself. */
export function applyTable(rgba, table) {
  for (let at = 0; at < rgba.length; at += 4) {
    rgba[at] = table[rgba[at]];
    rgba[at + 1] = table[rgba[at + 1]];
    rgba[at + 2] = table[rgba[at + 2]];
  }
  return rgba;
}
