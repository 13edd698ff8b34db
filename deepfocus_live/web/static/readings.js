// Writes what is told of the slice in view into the page.

import { findBest } from "./curves.js";
import { byId, setHidden, setText } from "./elements.js";
import { inUm, percent } from "./format.js";

function writePlace(header, run) {
  const many = [];
  if (header.size_t > 1) many.push(`t ${header.t + 1}/${header.size_t}`);
  const positions = run?.images ?? 1;
  const name = header.image_name;
  many.unshift(positions > 1 ? `${name} (${header.image + 1}/${positions})` : name);
  many.push(header.channel);
  setHidden("place", false);
  setText("place", many.join("  ·  "));
  byId("place").title = many.join("  ·  ");
}

function writeZ(header, run) {
  const known = header.z_um !== null;
  setText("z-value", known ? inUm(header.z_um, run?.z_step_um?.um) : String(header.z + 1));
  setText("z-unit", known ? "µm" : `/ ${header.size_z}`);
  setText("z-count", known ? `slice ${header.z + 1} of ${header.size_z}` : "height not known");
}

/** The numbers of the slice in view; `part` in focus is at the threshold in use. */
export function writeSlice(slice, run, { part, look }) {
  const { header, maskBitmap } = slice;
  setHidden("empty", true);
  writePlace(header, run);
  writeZ(header, run);
  setText("fraction", part === null ? "–" : percent(part));
  const from = look.threshold === null ? `of slice ${header.z + 1}` : `from ${look.threshold.toFixed(2)} on`;
  setText("fraction-note", maskBitmap ? from : "mask to come");
}

export function writeBest(stack, run) {
  const best = stack && findBest(stack);
  const element = byId("best");
  element.dataset.bestZ = best?.z ?? "";
  element.classList.toggle("beyond", Boolean(best?.beyond || (best?.nothing && best.complete)));
  if (!best) return setText("best", "no mask yet");
  if (best.nothing) return setText("best", best.complete ? "focus not reached: nothing in focus" : "nothing in focus so far");
  const where = best.zUm === null ? `slice ${best.z + 1}` : `${inUm(best.zUm, run?.z_step_um?.um)} µm`;
  if (best.beyond) return setText("best", `focus not reached? best at the end, ${where}`);
  return setText("best", `◆ ${best.complete ? "best" : "best so far"} ${where}`);
}

export function writeRun(run) {
  setText("run", run ? run.name : "no run yet");
  if (!run) return setText("run-detail", "");
  const parts = [`${run.width_px} × ${run.height_px} px`];
  if (run.pixel_size_um) parts.push(`${+run.pixel_size_um.um.toFixed(4)} µm/px (${run.pixel_size_um.source})`);
  else parts.push("pixel size not known");
  if (run.z_step_um) parts.push(`z step ${+run.z_step_um.um.toFixed(3)} µm (${run.z_step_um.source})`);
  if (run.profile) parts.push(`profile ${run.profile}`);
  return setText("run-detail", parts.join("  ·  "));
}

/** A run as the page uses it, from the socket's message `run`. */
export const fromMessage = (message) => ({ ...message, channelNames: message.channels });

/** The same, from `/api/runs`. */
export function fromList(run) {
  return {
    ...run,
    run: run.id,
    ended: run.state !== "open",
    images: run.images.length,
    imageNames: run.images.map((image) => image.name),
    channelNames: run.channels.map((channel) => channel.name),
    profile: run.channels[0]?.profile,
  };
}
