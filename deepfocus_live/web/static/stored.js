// Fetches earlier slices. One at a time: while one is under way, only the last wish is kept.

import { readSlice } from "./slice.js";

export class Stored {
  constructor(onSlice, onMissing) {
    this.onSlice = onSlice;
    this.onMissing = onMissing;
    this.busy = false;
    this.wish = null;
  }

  want(place) {
    this.wish = place;
    if (!this.busy) this.fetchAll();
  }

  cancel() {
    this.wish = null;
  }

  async fetchAll() {
    this.busy = true;
    while (this.wish) {
      const place = this.wish;
      this.wish = null;
      const slice = await this.fetchOne(place);
      // Shown even if there is a newer wish, so that dragging shows what passes by.
      if (slice) this.onSlice(slice);
      else if (!this.wish) this.onMissing(place);
    }
    this.busy = false;
  }

  async fetchOne({ run, image, t, c, z }) {
    try {
      const answer = await fetch(`/api/slice?${new URLSearchParams({ run, image, t, c, z })}`);
      return answer.ok ? await readSlice(await answer.arrayBuffer()) : null;
    } catch {
      return null;
    }
  }
}
