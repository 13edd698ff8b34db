// The buttons that change what the daemon does with slices: pause masks, stop after this run.

import { byId, setHidden, setText } from "./elements.js";

export class Buttons {
  constructor(actions) {
    this.actions = actions;
    this.paused = false;
    byId("pause-masks").addEventListener("click", () => this.turnMasks());
    byId("stop-after-run").addEventListener("click", () => this.stop());
  }

  follow(status) {
    this.paused = Boolean(status.masks_paused);
    this.write();
  }

  write() {
    const { actions, paused } = this;
    setHidden("pause-masks", !actions.can(paused ? "resume-masks" : "pause-masks"));
    setHidden("stop-after-run", !actions.can("stop-after-run"));
    setText("pause-masks", paused ? "Resume masks" : "Pause masks");
  }

  turnMasks() {
    if (this.paused) return this.actions.run("resume-masks");
    return this.actions.run("pause-masks", {}, {
      title: "Pause masks?",
      text: "Slices are stored as before. They get their masks when you resume.",
      yes: "Pause masks",
    });
  }

  stop() {
    return this.actions.run("stop-after-run", {}, {
      title: "Stop after this run?",
      text: "The daemon takes no new run, finishes the open ones, and ends. This page ends with it.",
      yes: "Stop after this run",
    });
  }
}
