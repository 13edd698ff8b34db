// The depth map's colours: equal steps of depth look like equal steps of colour.
//
// A curve from dark blue over green to light yellow in OKLab, a space in which
// distances are those that an eye sees, walked at an even pace. Lightness only
// rises, so the order survives every kind of colour blindness and a grey print.

const DARK = [0.26, 0.01, -0.13];
const MIDDLE = [0.6, -0.17, -0.02];
const LIGHT = [0.94, -0.03, 0.17];
const STEPS = 2048;

function bend(t) {
  const [a, b, c] = [(1 - t) ** 2, 2 * t * (1 - t), t ** 2];
  return DARK.map((dark, n) => a * dark + b * MIDDLE[n] + c * LIGHT[n]);
}

const distance = (one, other) => Math.hypot(...one.map((value, n) => value - other[n]));

/** sRGB bytes of an OKLab colour (Ottosson 2020, bottosson.github.io/posts/oklab). */
function toBytes([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const encode = (v) => (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);
  return linear.map((value) => Math.round(255 * Math.min(1, Math.max(0, encode(Math.max(0, value))))));
}

/** 256 colours as [r, g, b], dark for the lowest. */
export function makeDepthTable() {
  const places = Array.from({ length: STEPS + 1 }, (_, n) => bend(n / STEPS));
  const walked = [0];
  for (let n = 1; n <= STEPS; n += 1) walked.push(walked[n - 1] + distance(places[n], places[n - 1]));
  const table = [];
  for (let n = 0, at = 0; n < 256; n += 1) {
    while (at < STEPS && walked[at] < (walked[STEPS] * n) / 255) at += 1;
    table.push(toBytes(places[at]));
  }
  return table;
}

export const DEPTH_TABLE = makeDepthTable();

/** The table as Plotly wants it: [[0 … 1, "rgb(…)"], …]. */
export const depthScale = () =>
  DEPTH_TABLE.filter((_, n) => n % 15 === 0).map(([r, g, b], n, kept) => [n / (kept.length - 1), `rgb(${r},${g},${b})`]);

// What lies over a slice. Told apart by every kind of colour blindness, and by
// pattern as well: plain, hatched, solid.
export const IN_FOCUS = [255, 176, 0];
export const UNDECIDED = [86, 180, 233];
export const CLIPPED = [213, 94, 0];
export const toCss = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
