// What a pane shows, one function for each kind. They draw and keep nothing.

import { placeIn } from "./camera.js";
import { makeHatch } from "./canvas.js";
import { CLIPPED, IN_FOCUS, UNDECIDED, toCss } from "./colours.js";
import { Stamp } from "./stamp.js";

export const KINDS = {
  mask: "Slice and mask",
  raw: "Slice",
  focus: "In focus only",
  sharp: "All in focus",
  depth: "Depth",
};
export const fromStack = (kind) => kind === "sharp" || kind === "depth";

const SQUARES_FROM = 3; // screen pixels for one of the picture
const stamp = new Stamp();

/** Put a picture down where `placed` says; `size` is its size in pixels of the picture it belongs to. */
function put(pen, image, placed, size) {
  drawAt(pen, image, placed, size, placed.scale < SQUARES_FROM);
}

/** The same for what is only there or not: its edges stay sharp. */
function putShape(pen, image, placed, size) {
  drawAt(pen, image, placed, size, placed.scale < 1);
}

function drawAt(pen, image, placed, size, smooth) {
  pen.imageSmoothingEnabled = smooth;
  pen.drawImage(image, placed.left, placed.top, size.width * placed.scale, size.height * placed.scale);
}

const base = ({ slice, layers, look }) => layers.base(slice.bitmap, slice.header.display, look.contrast);

function drawMask(pen, view, scene, placed) {
  const { slice, layers, look } = scene;
  const mask = look.maskVisible ? layers.mask(slice, look.threshold) : null;
  if (mask) {
    const shape = stamp.make(view.width, view.height, (on) => putShape(on, mask.shape, placed, mask.size), () => toCss(IN_FOCUS));
    pen.globalAlpha = look.opacity;
    if (look.maskStyle === "tint") pen.drawImage(shape, 0, 0);
    pen.globalAlpha = Math.min(1, 2.2 * look.opacity);
    pen.drawImage(stamp.outline((look.maskStyle === "tint" ? 1.5 : 2) * look.pixelRatio), 0, 0);
    pen.globalAlpha = 1;
  }
  if (slice.undecided && look.undecided) {
    const period = Math.round(8 * look.pixelRatio);
    const fill = (on) => makeHatch(on, toCss(UNDECIDED), period);
    pen.drawImage(stamp.make(view.width, view.height, (on) => putShape(on, slice.undecided, placed, slice.header), fill), 0, 0);
  }
}

/** Single pixels must not be lost where the picture is drawn smaller: each gets an edge. */
function drawClipped(pen, view, { slice, look }, placed) {
  if (!slice.saturated || !look.clipped) return;
  const fill = () => toCss(CLIPPED);
  pen.drawImage(stamp.make(view.width, view.height, (on) => putShape(on, slice.saturated, placed, slice.header), fill), 0, 0);
  pen.drawImage(stamp.outline(look.pixelRatio), 0, 0);
}

function drawFocus(pen, view, scene, placed) {
  const { slice, layers, look } = scene;
  const mask = layers.mask(slice, look.threshold);
  if (!mask) return;
  const cut = stamp.make(view.width, view.height, (on) => {
    putShape(on, mask.shape, placed, mask.size);
    on.globalCompositeOperation = "source-in";
    put(on, base(scene), placed, slice.header);
  });
  pen.drawImage(cut, 0, 0);
}

const DRAWERS = {
  mask(pen, view, scene, placed) {
    put(pen, base(scene), placed, scene.slice.header);
    drawMask(pen, view, scene, placed);
    drawClipped(pen, view, scene, placed);
  },
  raw(pen, view, scene, placed) {
    put(pen, base(scene), placed, scene.slice.header);
    drawClipped(pen, view, scene, placed);
  },
  focus: drawFocus,
  sharp(pen, view, { projection, layers, look }, placed) {
    const { bitmap, header } = projection;
    put(pen, layers.base(bitmap, header.display, look.contrast, "sharp"), placed, header);
  },
  depth(pen, view, { projection }, placed) {
    const { depth, header } = projection;
    const grow = header.depth.factor;
    put(pen, depth, placed, { width: depth.width * grow, height: depth.height * grow });
  },
};

/** Draw a kind of view; returns where its picture lies, or null if there is nothing to draw. */
export function drawKind(kind, pen, view, scene) {
  pen.globalAlpha = 1;
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, view.width, view.height);
  const picture = fromStack(kind) ? scene.projection?.header : scene.slice?.header;
  if (!picture) return null;
  const placed = placeIn(view, picture, scene.camera);
  pen.save();
  pen.beginPath();
  pen.rect(placed.left, placed.top, picture.width * placed.scale, picture.height * placed.scale);
  pen.clip();
  DRAWERS[kind](pen, view, scene, placed);
  pen.restore();
  return { placed, picture };
}
