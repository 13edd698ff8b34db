// Shapes drawn as they lie in a pane, in one colour or pattern, with an edge of even
// width at any zoom. Two canvases are used again and again.

import { makeCanvas } from "./canvas.js";

export class Stamp {
  constructor() {
    this.shape = makeCanvas(1, 1);
    this.edge = makeCanvas(1, 1);
  }

  static begin(canvas, width, height) {
    // Setting the size also empties it, but makes it anew each time.
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, width, height);
    return context;
  }

  /** `draw(context)` puts the shape down; `fill(context)` gives what it is filled with. */
  make(width, height, draw, fill) {
    const context = Stamp.begin(this.shape, width, height);
    draw(context);
    if (fill) {
      context.globalCompositeOperation = "source-in";
      context.fillStyle = fill(context);
      context.fillRect(0, 0, width, height);
    }
    return this.shape;
  }

  /** The edge around the shape made last: the shape moved about, less the shape. */
  outline(reach) {
    const { width, height } = this.shape;
    const context = Stamp.begin(this.edge, width, height);
    for (const [dx, dy] of [[reach, 0], [-reach, 0], [0, reach], [0, -reach]]) {
      context.drawImage(this.shape, dx, dy);
    }
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.shape, 0, 0);
    return this.edge;
  }
}
