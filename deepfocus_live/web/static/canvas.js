// Small helpers for canvases that are never seen.

export function makeCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}

/** The RGBA bytes of a picture. */
export function readPixels(bitmap) {
  const canvas = makeCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

/** A canvas that shows RGBA bytes. */
export function fromPixels(rgba, width, height) {
  const canvas = makeCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas;
}

/** Diagonal stripes, `period` pixels apart. */
export function makeHatch(context, colour, period) {
  const tile = makeCanvas(period, period);
  const pen = tile.getContext("2d");
  pen.fillStyle = colour;
  for (let y = 0; y < period; y += 1) {
    for (let k = 0; k < Math.ceil(period / 3); k += 1) pen.fillRect((y + k) % period, y, 1, 1);
  }
  return context.createPattern(tile, "repeat");
}
