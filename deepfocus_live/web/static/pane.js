// One view of the specimen: a canvas, a choice of what it shows, and a note.

import { DEPTH_TABLE } from "./colours.js";
import { drawKind, fromStack, KINDS } from "./draw.js";
import { inUm } from "./format.js";

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function makeColourBar() {
  const canvas = element("canvas", { width: 1, height: 256, ariaHidden: "true" });
  const pen = canvas.getContext("2d");
  DEPTH_TABLE.forEach(([red, green, blue], n) => {
    pen.fillStyle = `rgb(${red} ${green} ${blue})`;
    pen.fillRect(0, 255 - n, 1, 1);
  });
  return canvas;
}

export class Pane {
  constructor(number, kind, onKind) {
    this.number = number;
    this.canvas = element("canvas", { id: number === 1 ? "view" : `view-${number}` });
    this.canvas.setAttribute("role", "img");
    this.pen = this.canvas.getContext("2d", { alpha: false });
    this.chooser = element("select", { ariaLabel: `What view ${number} shows` });
    this.chooser.append(...Object.entries(KINDS).map(([value, text]) => element("option", { value }, text)));
    this.chooser.addEventListener("change", () => {
      this.setKind(this.chooser.value);
      this.chooser.blur();
      onKind(this);
    });
    this.note = element("p", { className: "over note", id: number === 1 ? "mask-note" : "" });
    this.high = element("span");
    this.low = element("span");
    this.bar = element("div", { className: "bar", hidden: true }, this.high, makeColourBar(), this.low);
    this.box = element("div", { className: "pane" }, this.canvas, this.chooser, this.note, this.bar);
    this.drawn = null;
    this.setKind(kind);
  }

  setKind(kind) {
    this.kind = kind;
    this.chooser.value = kind;
    this.box.dataset.kind = kind;
  }

  /** The pane in pixels of its canvas, which are those of the screen. */
  get size() {
    return { width: this.canvas.width, height: this.canvas.height };
  }

  fitCanvas(pixelRatio) {
    const width = Math.max(1, Math.round(this.box.clientWidth * pixelRatio));
    const height = Math.max(1, Math.round(this.box.clientHeight * pixelRatio));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
  }

  draw(scene) {
    this.drawn = drawKind(this.kind, this.pen, this.size, scene);
    const note = fromStack(this.kind) ? scene.stackNote : scene.sliceNote(this.kind);
    if (this.note.textContent !== note) this.note.textContent = note;
    this.writeBar(scene.projection);
    this.canvas.setAttribute("aria-label", `${KINDS[this.kind]}. ${scene.words} ${note}`);
  }

  writeBar(projection) {
    this.bar.hidden = this.kind !== "depth" || !projection;
    if (this.bar.hidden) return;
    const { low, high, unit } = projection.header.depth;
    this.high.textContent = `${inUm(high, (high - low) / 20)} ${unit}`;
    this.low.textContent = `${inUm(low, (high - low) / 20)} ${unit}`;
  }
}
