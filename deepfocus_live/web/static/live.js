// Decides which live slice is shown.
//
// A mask is never laid over another slice than its own. While masks keep up, a
// slice is shown at once and its mask laid over it. When a mask comes after the
// next slice did, masks are slower than the camera: from then on a slice is
// shown together with its mask, until masks have kept up for a while. If no mask
// comes at all, slices are shown without.

import { addMask } from "./slice.js";

const KEPT = 6;
const WITHOUT_MASK_AFTER_MS = 700;
const KEPT_UP_FOR = 10;

export class Live {
  constructor(onShow) {
    this.onShow = onShow;
    this.shown = null;
    this.newest = null;
    this.kept = new Map();
    this.paired = false;
    this.keptUp = 0;
    this.maskedAt = -Infinity;
    this.timer = 0;
  }

  picture(slice) {
    this.keep(slice);
    this.newest = slice;
    const masksCome = performance.now() - this.maskedAt < WITHOUT_MASK_AFTER_MS;
    if (slice.maskBitmap || !this.paired || !masksCome) this.show(slice);
    else this.showLater();
    if (slice.maskBitmap) this.maskedAt = performance.now();
  }

  mask(message) {
    const slice = this.kept.get(message.header.number);
    if (!slice) return;
    addMask(slice, message);
    this.maskedAt = performance.now();
    this.learnPace(slice);
    const later = this.shown === null || slice.header.number >= this.shown.header.number;
    if (later || !this.shown.maskBitmap) this.show(slice);
    if (this.shown !== this.newest) this.showLater();
  }

  learnPace(slice) {
    this.keptUp = slice === this.newest ? this.keptUp + 1 : 0;
    if (this.keptUp >= KEPT_UP_FOR) this.paired = false;
    else if (slice !== this.newest && !this.shown?.maskBitmap) this.paired = true;
  }

  show(slice) {
    clearTimeout(this.timer);
    this.shown = slice;
    this.onShow(slice);
  }

  showLater() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.show(this.newest), WITHOUT_MASK_AFTER_MS);
  }

  keep(slice) {
    this.kept.set(slice.header.number, slice);
    // Bitmaps are left to the browser: one of these may still be in view.
    while (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
  }

  /** A daemon that was started anew counts pictures from 1 again. */
  forget() {
    clearTimeout(this.timer);
    this.kept.clear();
    this.shown = null;
    this.newest = null;
    this.paired = false;
  }
}
