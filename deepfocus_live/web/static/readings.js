// Writes what is told of the slice in view into the page.

import { byId, setHidden, setText } from "./elements.js";
import { findBest } from "./curves.js";

const percent = (part) => (part >= 0.0995 ? (100 * part).toFixed(0) : (100 * part).toFixed(1));

/** Enough digits to tell neighbouring slices apart, and no more than that. */
export function inUm(zUm, stepUm) {
  const step = Math.abs(stepUm ?? 1);
  return zUm.toFixed(step >= 1 && Number.isInteger(step) ? 0 : step >= 0.1 ? 1 : 2);
}

function writePlace(header, run) {
  const many = [];
  if (header.size_t > 1) many.push(`t ${header.t + 1}/${header.size_t}`);
  const positions = run?.images ?? 1;
  const name = header.image_name;
  many.unshift(positions > 1 ? `${name} (${header.image + 1}/${positions})` : name);
  many.push(header.channel);
  setHidden("place", false);
  setText("place", many.join("  ·  "));
}

function writeZ(header, run) {
  const known = header.z_um !== null;
  setText("z-value", known ? inUm(header.z_um, run?.z_step_um?.um) : String(header.z + 1));
  setText("z-unit", known ? "µm" : `/ ${header.size_z}`);
  setText("z-count", known ? `slice ${header.z + 1} of ${header.size_z}` : "height not known");
}

export function writeSlice(slice, run, { maskVisible }) {
  const { header, maskBitmap } = slice;
  setHidden("empty", true);
  writePlace(header, run);
  writeZ(header, run);
  const part = header.mask?.in_focus_fraction ?? null;
  setText("fraction", part === null ? "–" : percent(part));
  setText("fraction-note", maskBitmap ? `of slice ${header.z + 1}` : "mask to come");
  setHidden("mask-note", Boolean(maskBitmap) && maskVisible);
  setText("mask-note", maskBitmap ? "mask hidden" : "no mask of this slice yet");
  byId("view").setAttribute(
    "aria-label",
    `Slice ${header.z + 1} of ${header.size_z}${part === null ? "" : `, ${percent(part)} % in focus`}`,
  );
}

export function writeBest(stack, run) {
  const best = stack && findBest(stack);
  const element = byId("best");
  element.dataset.bestZ = best?.z ?? "";
  element.classList.toggle("beyond", Boolean(best?.beyond));
  if (!best) return setText("best", "no mask yet");
  const where = best.zUm === null ? `slice ${best.z + 1}` : `${inUm(best.zUm, run?.z_step_um?.um)} µm`;
  const word = best.beyond ? "focus not reached? best at the end," : best.complete ? "best" : "best so far";
  return setText("best", `◆ ${word} ${where}`);
}

export function writeRun(run) {
  setText("run", run ? run.name : "no run yet");
  if (!run) return setText("run-detail", "");
  const parts = [`${run.width_px} × ${run.height_px} px`];
  if (run.pixel_size_um) parts.push(`${+run.pixel_size_um.um.toFixed(4)} µm/px (${run.pixel_size_um.source})`);
  else parts.push("pixel size not known");
  if (run.z_step_um) parts.push(`z step ${+run.z_step_um.um.toFixed(3)} µm (${run.z_step_um.source})`);
  parts.push(`profile ${run.profile}`);
  return setText("run-detail", parts.join("  ·  "));
}
