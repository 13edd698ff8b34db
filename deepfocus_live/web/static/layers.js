// The pictures that a slice is drawn from, each made when it is first needed.

import { fromPixels, readPixels } from "./canvas.js";
import { applyTable, greyTable } from "./contrast.js";
import { thresholdInto } from "./threshold.js";

export class Layers {
  constructor() {
    this.made = new Map();
  }

  /** Keep what `make` made under a name until what it is made `from`, or its `key`, changes. */
  once(name, from, key, make) {
    const known = this.made.get(name);
    if (known && known.from === from && known.key === key) return known.made;
    const made = make();
    this.made.set(name, { from, key, made });
    return made;
  }

  /** A picture through the contrast set by hand, if there is one. */
  base(bitmap, display, contrast, name = "base") {
    if (!contrast || !display) return bitmap;
    const key = [display.low, display.high, contrast.low, contrast.high].join();
    return this.once(name, bitmap, key, () =>
      fromPixels(applyTable(readPixels(bitmap), greyTable(display, contrast)), bitmap.width, bitmap.height),
    );
  }

  /**
   * {shape, part, size}: the mask, the part of the slice that it covers, and the size at
   * which it is drawn, in pixels of the picture. Null where there is no mask.
   */
  mask(slice, threshold) {
    const { header, maskBitmap: mask, probability } = slice;
    if (!mask && !probability) return null;
    if (threshold !== null && probability) {
      const { width, height } = probability;
      const made = this.once("mask", probability, threshold, () => {
        const { mask: rgba, part } = thresholdInto(this.probability(probability), threshold);
        return { shape: fromPixels(rgba, width, height), part };
      });
      const grow = header.probability_factor / header.factor;
      return { ...made, size: { width: width * grow, height: height * grow } };
    }
    return mask && { shape: mask, part: header.mask?.in_focus_fraction ?? null, size: header };
  }

  /** The network's probability as RGBA bytes, 0 … 255 in red. */
  probability(bitmap) {
    return this.once("probability", bitmap, "", () => readPixels(bitmap));
  }
}
