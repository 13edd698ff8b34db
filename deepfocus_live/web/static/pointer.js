// Wheel, drag and double click on a pane: zoom and pan, for all panes at once.

import { FITTED, panBy, zoomAt } from "./camera.js";

const PER_NOTCH = 1.0015; // to the power of the wheel's way in pixels

/** A point of the pane in pixels of its canvas. */
function pointOf(event, pane) {
  const box = pane.canvas.getBoundingClientRect();
  const ratio = pane.canvas.width / Math.max(1, box.width);
  return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
}

export function wirePointer(pane, view) {
  const { canvas, box } = pane;
  let held = null;
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (!pane.drawn) return;
      const way = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
      const point = pointOf(event, pane);
      view.setCamera(zoomAt(view.camera, PER_NOTCH ** -way, point, pane.size, pane.drawn.picture));
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !pane.drawn) return;
    canvas.setPointerCapture(event.pointerId);
    held = pointOf(event, pane);
    box.dataset.dragging = "";
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = pointOf(event, pane);
    if (held && pane.drawn) {
      view.setCamera(panBy(view.camera, point.x - held.x, point.y - held.y, pane.size, pane.drawn.picture));
      held = point;
    }
    view.readout.at(pane, point);
  });
  const release = () => {
    held = null;
    delete box.dataset.dragging;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => view.readout.leave());
  canvas.addEventListener("dblclick", () => view.setCamera(FITTED));
}

/** Zoom about the middle of the first pane, for keys. */
export function zoomBy(view, factor) {
  const pane = view.panes[0];
  if (!pane.drawn) return;
  const middle = { x: pane.size.width / 2, y: pane.size.height / 2 };
  view.setCamera(zoomAt(view.camera, factor, middle, pane.size, pane.drawn.picture));
}
