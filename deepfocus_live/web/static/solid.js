// What the 3-D view draws, as Plotly's traces. No document in here.

import { depthScale } from "./colours.js";

const MOST_COLUMNS = 180;
const MOST_POINTS = 24000;
const LONGEST = 1.2;

const range = (count, place) => Array.from({ length: count }, (_, n) => place(n));

/**
 * The height at a place given in blocks of the depth map: between the middles of the
 * blocks around it, those that are known. Null in a block that is not known itself.
 */
function heightAt(heights, width, height, x, y) {
  const own = heights[Math.min(height - 1, Math.floor(y)) * width + Math.min(width - 1, Math.floor(x))];
  if (Number.isNaN(own)) return null;
  const [left, top] = [Math.floor(x - 0.5), Math.floor(y - 0.5)];
  let [sum, weights] = [0, 0];
  for (const [i, j] of [[left, top], [left + 1, top], [left, top + 1], [left + 1, top + 1]]) {
    const value = i < 0 || j < 0 || i >= width || j >= height ? NaN : heights[j * width + i];
    const weight = (1 - Math.abs(x - 0.5 - i)) * (1 - Math.abs(y - 0.5 - j));
    if (Number.isNaN(value)) continue;
    sum += weight * value;
    weights += weight;
  }
  return weights ? sum / weights : own;
}

/** The brightness of RGBA bytes at a pixel. */
function greyAt(rgba, width, height, x, y) {
  const at = 4 * (Math.min(height - 1, Math.floor(y)) * width + Math.min(width - 1, Math.floor(x)));
  return (rgba[at] + rgba[at + 1] + rgba[at + 2]) / 3;
}

/** The depth map as a surface, with the all-in-focus image on it. `heights` has NaN where unknown. */
export function makeSurface(heights, header, rgba) {
  const { depth, width, height } = header;
  // Finer than the depth map where that is coarse, for the picture's sake.
  const step = Math.max(1, Math.max(width, height) / MOST_COLUMNS);
  const across = range(Math.floor(width / step), (i) => (i + 0.5) * step);
  const down = range(Math.floor(height / step), (j) => (j + 0.5) * step);
  const heightOf = (x, y) => heightAt(heights, depth.width, depth.height, x / depth.factor, y / depth.factor);
  const um = header.pixel_um ?? 1;
  return {
    type: "surface",
    x: across.map((x) => x * um),
    y: down.map((y) => y * um),
    z: down.map((y) => across.map((x) => heightOf(x, y))),
    surfacecolor: down.map((y) => across.map((x) => greyAt(rgba, width, height, x, y))),
    colorscale: [[0, "rgb(0,0,0)"], [1, "rgb(255,255,255)"]],
    cmin: 0,
    cmax: 255,
    showscale: false,
    connectgaps: false,
    lighting: { ambient: 0.9, diffuse: 0.25, specular: 0.02 },
    hovertemplate: `x %{x:.1f}<br>y %{y:.1f}<br>height %{z:.1f} ${depth.unit}<extra></extra>`,
  };
}

/** What is in focus as points, coloured by height: at most 24,000, evenly picked. */
export function makePoints(voxels, header) {
  const { width, height, depth, voxel_um: voxel, z_um: zUm } = header;
  const inFocus = voxels.reduce((count, value) => count + (value > 0), 0);
  const every = Math.max(1, inFocus / MOST_POINTS);
  const points = { x: [], y: [], z: [] };
  let seen = 0;
  let next = 0;
  for (let at = 0; at < voxels.length; at += 1) {
    if (!voxels[at]) continue;
    seen += 1;
    if (seen <= next) continue;
    next += every;
    const k = Math.floor(at / (width * height));
    points.x.push(((at % width) + 0.5) * (voxel?.x ?? 1));
    points.y.push((Math.floor((at % (width * height)) / width) + 0.5) * (voxel?.y ?? 1));
    points.z.push(zUm?.[k] ?? k);
  }
  const heights = zUm ?? [0, depth - 1];
  const marker = { size: 2.4, opacity: 0.75, color: points.z, colorscale: depthScale(), cmin: Math.min(...heights), cmax: Math.max(...heights) };
  return { type: "scatter3d", mode: "markers", ...points, marker, hovertemplate: "x %{x:.1f}<br>y %{y:.1f}<br>z %{z:.1f}<extra></extra>" };
}

/** Sides of the box that the plot lies in, so that a µm is as long each way; heights times `stretch`. */
export function aspectOf({ x, y, z }, stretch) {
  const side = (values, many) => {
    const ends = values.reduce(([low, high], v) => (v === null ? [low, high] : [Math.min(low, v), Math.max(high, v)]), [Infinity, -Infinity]);
    return Math.max(many, ends[1] - ends[0]) || many;
  };
  const [width, height] = [side(x, 1), side(y, 1)];
  const most = Math.max(width, height);
  const tall = side(z.flat(), most / 50) * stretch;
  return { x: (LONGEST * width) / most, y: (LONGEST * height) / most, z: Math.min(3, (LONGEST * tall) / most) };
}
