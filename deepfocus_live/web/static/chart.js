// Draws the focus curve of the stack in view as SVG.

import { byId } from "./elements.js";
import { byZ, findBest } from "./curves.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const EDGE = { left: 0, right: 6, top: 0, bottom: 0 };

function element(name, attributes, text) {
  const node = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/** A round upper end for a part of one: 5 %, 10 %, 20 %, 50 %, 100 %. */
const roundTop = (part) => [0.05, 0.1, 0.2, 0.3, 0.5, 0.75].find((top) => part * 1.05 <= top) ?? 1;

const path = (places) => places.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

export class Chart {
  constructor(onPick) {
    this.svg = byId("curve");
    this.stack = null;
    this.before = [];
    this.zOf = () => null;
    this.svg.addEventListener("click", (event) => {
      const z = this.zOf(event.offsetX);
      if (z !== null) onPick(z);
    });
    new ResizeObserver(() => this.redraw()).observe(this.svg);
  }

  draw(stack, before, z) {
    this.stack = stack;
    this.before = before; // the nearest first
    this.z = z;
    // Several messages may come between two frames of the screen; one drawing will do.
    this.pending ??= requestAnimationFrame(() => {
      this.pending = undefined;
      this.redraw();
    });
  }

  redraw() {
    this.svg.replaceChildren();
    const { clientWidth: width, clientHeight: height } = this.svg;
    if (!this.stack || width < 50 || height < 50) return;
    const scale = this.makeScale(width, height);
    this.drawGrid(scale);
    this.before.forEach((stack, n) => this.drawLine(scale, byZ(stack), "fraction", "before", n + 1));
    this.drawScore(scale);
    this.drawNetwork(scale);
    this.drawLine(scale, byZ(this.stack), "labelled", "rule");
    this.drawBest(scale);
    this.drawHere(scale);
    this.tell();
  }

  makeScale(width, height) {
    const points = byZ(this.stack);
    const em = parseFloat(getComputedStyle(this.svg).fontSize);
    const left = 2.7 * em + EDGE.left;
    const bottom = height - 1.5 * em - EDGE.bottom;
    const top = 0.5 * em + EDGE.top;
    const right = width - EDGE.right;
    const seen = [this.stack, ...this.before].flatMap((stack) => [...stack.points.values()]);
    const most = Math.max(0.01, ...seen.flatMap((point) => [point.fraction ?? 0, point.labelled ?? 0]));
    const high = roundTop(most);
    const last = Math.max(1, this.stack.sizeZ - 1);
    const x = (z) => left + ((right - left) * z) / last;
    const y = (part) => bottom - ((bottom - top) * part) / high;
    this.zOf = (offset) => Math.round(Math.min(1, Math.max(0, (offset - left) / (right - left))) * last);
    return { left, right, top, bottom, high, last, x, y, em, points };
  }

  drawGrid({ left, right, bottom, high, y, x, em, last, points }) {
    for (const part of [0, high / 2, high]) {
      this.put("line", { class: "grid", x1: left, x2: right, y1: y(part), y2: y(part) });
      const label = `${+(100 * part).toFixed(1)}${part === high ? " %" : ""}`;
      this.put("text", { x: left - 0.5 * em, y: y(part) + 0.28 * em, "text-anchor": "end" }, label);
    }
    const toUm = this.umOf(points);
    const ticks = last < 4 ? [0, last] : [0, Math.round(last / 2), last];
    ticks.forEach((z, n) => {
      const anchor = n === 0 ? "start" : n === ticks.length - 1 ? "end" : "middle";
      const unit = n === ticks.length - 1 ? (toUm ? " µm" : "") : "";
      const value = toUm ? `${+toUm(z).toFixed(1)}${unit}` : `slice ${z + 1}`;
      this.put("text", { x: x(z), y: bottom + 1.2 * em, "text-anchor": anchor }, value);
    });
  }

  /** µm at any z, from the first and last slice whose height is known; null without. */
  umOf(points) {
    const known = points.filter((point) => point.zUm !== null);
    if (known.length === 1 && this.stack.sizeZ === 1) return () => known[0].zUm;
    if (known.length < 2) return null;
    const [first, final] = [known[0], known[known.length - 1]];
    const step = (final.zUm - first.zUm) / (final.z - first.z);
    return (z) => first.zUm + (z - first.z) * step;
  }

  drawNetwork(scale) {
    const places = this.places(scale, scale.points, "fraction");
    if (!places.length) return;
    const ends = [[places[places.length - 1][0], scale.bottom], [places[0][0], scale.bottom]];
    this.put("path", { class: "area", d: `${path([...places, ...ends])}Z` });
    this.put("path", { class: "network", d: path(places) });
    if (places.length <= 60) {
      for (const [x, y] of places) this.put("circle", { class: "dot", cx: x, cy: y, r: 2.6 });
    }
  }

  drawLine(scale, points, value, name, ago = 0) {
    const places = this.places(scale, points, value);
    if (places.length) this.put("path", { class: name, d: path(places), "data-ago": ago });
  }

  /** The focus score has no unit and is good within its stack only: its own lowest to its own highest. */
  drawScore(scale) {
    const scores = scale.points.map((point) => point.score).filter((score) => score !== null);
    if (scores.length < 2) return;
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    const span = (0.96 * scale.high) / Math.max(high - low, 1e-12);
    const points = scale.points.map((point) => ({ ...point, score: point.score === null ? null : (point.score - low) * span }));
    this.drawLine(scale, points, "score", "score");
  }

  drawBest({ x, y, em }) {
    this.best = findBest(this.stack);
    if (!this.best || this.best.nothing) return;
    const side = 0.42 * em;
    const [cx, cy] = [x(this.best.z), y(this.best.fraction)];
    const corners = [[cx, cy - side], [cx + side, cy], [cx, cy + side], [cx - side, cy]];
    this.put("path", { class: "best-mark", d: `${path(corners)}Z` });
  }

  drawHere({ x, y, top, bottom, last }) {
    if (this.z === null || this.z > last) return;
    this.put("line", { class: "here", x1: x(this.z), x2: x(this.z), y1: top, y2: bottom });
    const part = this.stack.points.get(this.z)?.fraction ?? null;
    if (part !== null) this.put("circle", { class: "here-dot", cx: x(this.z), cy: y(part), r: 5 });
  }

  places({ x, y, last }, points, value) {
    return points
      .filter((point) => point[value] !== null && point.z <= last)
      .map((point) => [x(point.z), y(point[value])]);
  }

  put(name, attributes, text) {
    this.svg.append(element(name, attributes, text));
  }

  /** Say in the document what is drawn. */
  tell() {
    const points = byZ(this.stack);
    this.svg.dataset.points = points.filter((point) => point.fraction !== null).length;
    this.svg.dataset.scored = points.filter((point) => point.score !== null).length;
    this.svg.dataset.before = this.before.length;
    this.svg.dataset.labelled = points.filter((point) => point.labelled !== null).length;
    this.svg.dataset.bestZ = this.best?.z ?? "";
    this.svg.dataset.z = this.z ?? "";
  }
}
