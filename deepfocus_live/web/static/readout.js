// What lies under the pointer: place, counts, probability, height.
//
// At once from what the page has, which is the shrunk 8-bit picture; the camera's
// own counts come from the daemon when the pointer rests on a stored slice.

import { toPicture } from "./camera.js";
import { readPixels } from "./canvas.js";
import { toCounts } from "./contrast.js";
import { fromStack } from "./draw.js";
import { inUm } from "./format.js";

const RESTS_AFTER_MS = 150;

function rows(list, pairs) {
  list.replaceChildren(
    ...pairs.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      return [term, text];
    }),
  );
}

export class Readout {
  constructor(view) {
    this.view = view;
    this.box = document.createElement("dl");
    this.box.id = "readout";
    this.box.className = "over readout";
    this.box.hidden = true;
    this.pane = null;
  }

  at(pane, point) {
    this.pane = pane;
    this.point = point;
    if (this.box.parentNode !== pane.box) pane.box.append(this.box);
    this.exact = null;
    this.write();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), RESTS_AFTER_MS);
  }

  leave() {
    this.pane = null;
    clearTimeout(this.timer);
    this.box.hidden = true;
  }

  /** The pixel of the picture under the pointer, or null outside of it. */
  place() {
    const { pane, point } = this;
    if (!pane?.drawn) return null;
    const { placed, picture } = pane.drawn;
    const { x, y } = toPicture(point, placed);
    const inside = x >= 0 && y >= 0 && x < picture.width && y < picture.height;
    return inside ? { x, y, header: picture } : null;
  }

  write() {
    if (!this.pane) return;
    const place = this.place();
    this.box.hidden = !place;
    if (!place) return;
    const { x, y, header } = place;
    const full = { x: Math.floor(x * header.factor), y: Math.floor(y * header.factor) };
    const um = this.view.run?.pixel_size_um?.um;
    const pairs = [["x, y", `${full.x}, ${full.y} px`]];
    if (um) pairs.push(["", `${(full.x * um).toFixed(1)}, ${(full.y * um).toFixed(1)} µm`]);
    pairs.push(...(fromStack(this.pane.kind) ? this.ofStack(x, y) : this.ofSlice(x, y, full)));
    rows(this.box, pairs);
  }

  ofSlice(x, y, full) {
    const { slice, layers } = this.view;
    const exact = this.exact && this.exact.key === this.keyOf(full) ? this.exact : null;
    const counts = exact ? [exact.counts].flat().join(", ") : this.nearCounts(slice.bitmap, slice.header, x, y, "pixels");
    const pairs = [["counts", counts]];
    let probability = exact?.probability ?? null;
    if (probability === null && slice.probability) {
      const { width, height } = slice.probability;
      const grow = slice.header.probability_factor;
      const [i, j] = [Math.floor(full.x / grow), Math.floor(full.y / grow)];
      if (i < width && j < height) probability = layers.probability(slice.probability)[4 * (j * width + i)] / 255;
    }
    pairs.push(["probability", probability === null ? "–" : probability.toFixed(2)]);
    return pairs;
  }

  ofStack(x, y) {
    const { projection } = this.view.projectionOf(this.view.slice.header);
    if (!projection) return [];
    if (this.pane.kind === "sharp") {
      return [["counts", this.nearCounts(projection.bitmap, projection.header, x, y, "sharp pixels")]];
    }
    const { width, factor, low, high, unit } = projection.header.depth;
    const code = projection.codes[Math.floor(y / factor) * width + Math.floor(x / factor)];
    const height = low + ((code - 1) / 65534) * (high - low);
    return [["height", code ? `${inUm(height, (high - low) / 100)} ${unit}` : "not known"]];
  }

  nearCounts(bitmap, { display, colour }, x, y, name) {
    if (!display) return "–";
    const rgba = this.view.layers.once(name, bitmap, "", () => readPixels(bitmap));
    const at = 4 * (Math.floor(y) * bitmap.width + Math.floor(x));
    const counts = Array.from(rgba.slice(at, at + (colour ? 3 : 1)), (grey) => Math.round(toCounts(grey, display)));
    return `≈ ${counts.join(", ")}`;
  }

  keyOf(full) {
    return `${this.view.slice.key} ${full.x} ${full.y}`;
  }

  async ask() {
    const place = this.place();
    if (!place || fromStack(this.pane.kind)) return;
    const { run, image, t, c, z, factor } = this.view.slice.header;
    const full = { x: Math.floor(place.x * factor), y: Math.floor(place.y * factor) };
    const key = this.keyOf(full);
    try {
      const answer = await fetch(`/api/pixel?${new URLSearchParams({ run, image, t, c, z, ...full })}`);
      if (!answer.ok) return;
      this.exact = { key, ...(await answer.json()) };
      this.write();
    } catch {
      // The nearby value stays.
    }
  }
}
