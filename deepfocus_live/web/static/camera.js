// Zoom and pan as numbers: which part of a picture fills a pane. No document in here.
//
// A camera is {zoom, x, y}: 1 fits the picture into the pane; x and y are the
// middle of the pane as parts of the picture, so that one camera serves panes
// and pictures of any size.

export const FITTED = Object.freeze({ zoom: 1, x: 0.5, y: 0.5 });
const MOST_ZOOM = 64;

/** Where the picture lies in the pane: `scale` pane pixels per picture pixel, and its corner. */
export function placeIn(view, picture, camera) {
  const scale = camera.zoom * Math.min(view.width / picture.width, view.height / picture.height);
  return {
    scale,
    left: view.width / 2 - camera.x * picture.width * scale,
    top: view.height / 2 - camera.y * picture.height * scale,
  };
}

/** The place in the picture, in its pixels, under a point of the pane. */
export function toPicture(point, { scale, left, top }) {
  return { x: (point.x - left) / scale, y: (point.y - top) / scale };
}

/** Keep the picture in the pane: centred where it is smaller, without a gap where it is larger. */
function hold(camera, view, picture) {
  const zoom = Math.min(MOST_ZOOM, Math.max(1, camera.zoom));
  const { scale } = placeIn(view, picture, { ...camera, zoom });
  const along = (at, seen, whole) => {
    const half = seen / (2 * whole * scale);
    return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, at));
  };
  return {
    zoom,
    x: along(camera.x, view.width, picture.width),
    y: along(camera.y, view.height, picture.height),
  };
}

/** Zoom by a factor; what is under `point` stays under it. */
export function zoomAt(camera, factor, point, view, picture) {
  const before = toPicture(point, placeIn(view, picture, camera));
  const zoom = Math.min(MOST_ZOOM, Math.max(1, camera.zoom * factor));
  const { scale } = placeIn(view, picture, { ...camera, zoom });
  const x = (before.x - (point.x - view.width / 2) / scale) / picture.width;
  const y = (before.y - (point.y - view.height / 2) / scale) / picture.height;
  return hold({ zoom, x, y }, view, picture);
}

/** Move the picture by pane pixels. */
export function panBy(camera, dx, dy, view, picture) {
  const { scale } = placeIn(view, picture, camera);
  const x = camera.x - dx / (scale * picture.width);
  const y = camera.y - dy / (scale * picture.height);
  return hold({ ...camera, x, y }, view, picture);
}
