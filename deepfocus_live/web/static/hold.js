// What is in view and why: the live slice that is followed, or one that was gone to.

import { setPressed } from "./controls.js";
import { setHidden, setText, byId } from "./elements.js";
import { fromList } from "./readings.js";

const MODE_WORDS = { held: "HELD · space for live", ended: "RUN ENDED · last slice", live: "LIVE" };

export class Hold {
  /** `onShow` is told of each slice that comes into view, with its run. */
  constructor({ view, live, stored, runs, curves, onShow }) {
    Object.assign(this, { view, live, stored, runs, curves, onShow });
    this.follow = true;
    this.liveRun = null;
    this.run = null;
    this.wanted = null;
  }

  setLiveRun(run) {
    this.liveRun = run;
    this.writeMode();
  }

  show(slice) {
    const { run } = slice.header;
    if (this.run?.run !== run || run === this.liveRun?.run) this.run = this.runOf(run);
    this.view.run = this.run;
    this.view.show(slice);
    this.writeMode();
    this.onShow(slice);
  }

  runOf(id) {
    if (id === this.liveRun?.run) return this.liveRun;
    const listed = this.runs.find(id);
    return listed && fromList(listed);
  }

  onLive(slice) {
    if (this.follow) this.show(slice);
  }

  onStored(slice) {
    if (!this.follow) this.show(slice);
  }

  setFollow(on) {
    this.follow = on;
    const { header } = this.view.slice ?? {};
    this.wanted = on || !header ? null : { image: header.image, c: header.c, t: header.t, z: header.z };
    setPressed("follow", on);
    this.stored.cancel();
    if (on && this.live.shown) this.show(this.live.shown);
    this.writeMode();
  }

  /** Go to a place of the run in view. */
  goTo(place) {
    const { slice } = this.view;
    if (!slice) return;
    if (this.follow) this.setFollow(false);
    this.wanted = { ...place };
    this.stored.want({ run: slice.header.run, ...place });
  }

  /** Go to another run: to the best slice of its first stack. */
  async goToRun(id) {
    if (!id) return this.setFollow(true);
    const run = await this.runs.read(id);
    const stack = run?.stacks[0];
    if (!stack) return this.view.setNote("this run has no slice that can be shown");
    this.curves.addRun(run);
    this.setFollow(false);
    const z = stack.best_z ?? stack.z[Math.floor(stack.z.length / 2)];
    this.wanted = { image: stack.image, c: stack.c, t: stack.t, z };
    return this.stored.want({ run: id, ...this.wanted });
  }

  writeMode() {
    const ended = this.liveRun?.ended && this.view.slice?.header.run === this.liveRun.run;
    const mode = !this.follow ? "held" : ended ? "ended" : "live";
    byId("mode").dataset.mode = mode;
    setText("mode", MODE_WORDS[mode]);
    setHidden("mode", !this.view.slice);
  }
}
