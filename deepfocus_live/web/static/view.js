// Draws one slice with its mask as tint and outline over it.

import { byId } from "./elements.js";

const TINT = "#ffb000";

function offscreen(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** The mask in colour. */
function tinted(mask) {
  const canvas = offscreen(mask.width, mask.height);
  const context = canvas.getContext("2d");
  context.drawImage(mask, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = TINT;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The mask's edge: the mask moved about, less the mask. */
function outlined(tint) {
  const canvas = offscreen(tint.width, tint.height);
  const context = canvas.getContext("2d");
  const reach = Math.max(1, Math.round(Math.max(tint.width, tint.height) / 800));
  for (const [dx, dy] of [[reach, 0], [-reach, 0], [0, reach], [0, -reach]]) {
    context.drawImage(tint, dx, dy);
  }
  context.globalCompositeOperation = "destination-out";
  context.drawImage(tint, 0, 0);
  return canvas;
}

export class View {
  constructor() {
    this.canvas = byId("view");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.slice = null;
    this.opacity = 0.4;
    this.maskVisible = true;
    this.overlay = null;
  }

  show(slice) {
    this.slice = slice;
    this.draw();
  }

  setMask({ visible = this.maskVisible, opacity = this.opacity }) {
    this.maskVisible = visible;
    this.opacity = opacity;
    if (this.slice) this.draw();
  }

  draw() {
    const { bitmap, header } = this.slice;
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.context.globalAlpha = 1;
    this.context.drawImage(bitmap, 0, 0);
    if (this.slice.maskBitmap && this.maskVisible) this.drawMask();
    this.tell(header);
  }

  drawMask() {
    const mask = this.slice.maskBitmap;
    if (this.overlay?.mask !== mask) {
      const tint = tinted(mask);
      this.overlay = { mask, tint, outline: outlined(tint) };
    }
    const { width, height } = this.canvas;
    this.context.globalAlpha = this.opacity;
    this.context.drawImage(this.overlay.tint, 0, 0, width, height);
    this.context.globalAlpha = Math.min(1, 2.2 * this.opacity);
    this.context.drawImage(this.overlay.outline, 0, 0, width, height);
  }

  /** Say in the document what is drawn. */
  tell(header) {
    const masked = this.slice.maskBitmap !== null;
    const told = this.canvas.dataset;
    told.run = header.run;
    told.image = header.image;
    told.t = header.t;
    told.c = header.c;
    told.z = header.z;
    told.sequence = header.sequence_number ?? "";
    told.maskSequence = masked ? (header.sequence_number ?? "stored") : "";
    told.maskVisible = String(masked && this.maskVisible);
  }
}
