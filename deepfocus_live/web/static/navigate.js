// Where in a run: run, position, channel, time point, slice. Only shows and asks;
// what is in view is decided by whoever made it.

import { byId, setText } from "./elements.js";
import { inUm } from "./format.js";

function options(select, entries, value) {
  const key = JSON.stringify(entries);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...entries.map(([id, text]) => Object.assign(document.createElement("option"), { value: id, textContent: text })));
  }
  if (select.value !== value) select.value = value;
}

const pickOf = (id) => byId(id).closest("label");

export class Navigate {
  /** `onPlace` is asked for {image, c, t, z}, `onRun` for a run by its id, "" being the live one. */
  constructor({ onPlace, onRun, onOpen }) {
    this.onPlace = onPlace;
    this.sizes = { image: 1, c: 1, t: 1, z: 1 };
    this.place = { image: 0, c: 0, t: 0, z: 0 };
    byId("z-slider").addEventListener("input", (event) => this.go({ z: Number(event.target.value) }));
    byId("t-slider").addEventListener("input", (event) => this.go({ t: Number(event.target.value) }));
    byId("image-select").addEventListener("change", (event) => this.picked(event, "image"));
    byId("channel-select").addEventListener("change", (event) => this.picked(event, "c"));
    byId("run-select").addEventListener("change", (event) => {
      onRun(event.target.value);
      event.target.blur();
    });
    byId("run-select").addEventListener("pointerdown", onOpen);
    byId("run-select").addEventListener("focus", onOpen);
  }

  picked(event, axis) {
    this.go({ [axis]: Number(event.target.value) });
    event.target.blur();
  }

  go(change) {
    this.place = { ...this.place, ...change };
    this.onPlace(this.place);
  }

  /** One on or back along an axis, if there is one. */
  step(axis, by) {
    const to = Math.min(this.sizes[axis] - 1, Math.max(0, this.place[axis] + by));
    if (to !== this.place[axis]) this.go({ [axis]: to });
  }

  /** Round and round, for an axis with few values. */
  turn(axis) {
    if (this.sizes[axis] > 1) this.go({ [axis]: (this.place[axis] + 1) % this.sizes[axis] });
  }

  /** Show where we are: a slice's header, its run, and where we want to be if that is elsewhere. */
  write(header, sizes, run, wanted) {
    this.sizes = sizes;
    const { image, c, t, z } = wanted ?? header;
    this.place = { image, c, t, z };
    const slider = byId("z-slider");
    slider.disabled = sizes.z < 2;
    slider.max = String(Math.max(0, sizes.z - 1));
    slider.value = String(z);
    const height = header.z_um === null ? "" : ` · ${inUm(header.z_um, run?.z_step_um?.um)} µm`;
    setText("z-output", `${header.z + 1} / ${sizes.z}${height}`);
    pickOf("t-slider").hidden = sizes.t < 2;
    byId("t-slider").max = String(Math.max(0, sizes.t - 1));
    byId("t-slider").value = String(t);
    setText("t-output", `${header.t + 1} / ${sizes.t}`);
    this.writeNames("image-select", run?.imageNames ?? [], sizes.image, image, "position");
    this.writeNames("channel-select", run?.channelNames ?? [], sizes.c, c, "channel");
  }

  writeNames(id, names, size, value, word) {
    pickOf(id).hidden = size < 2;
    const entries = Array.from({ length: size }, (_, n) => [String(n), names[n] ?? `${word} ${n + 1}`]);
    options(byId(id), entries, String(value));
  }

  writeRuns(list, live, inView) {
    const entries = [["", live ? `live: ${live.name}` : "live"]];
    for (const run of list) {
      if (run.id === live?.run && !live.ended) continue;
      entries.push([run.id, run.started ? `${run.name} · ${whenOf(run.started)}` : run.name]);
    }
    options(byId("run-select"), entries, inView);
  }
}

function whenOf(started) {
  const when = new Date(typeof started === "number" ? 1000 * started : started);
  if (Number.isNaN(when.getTime())) return String(started);
  return when.toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
}
