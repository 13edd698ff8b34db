// Writes the daemon's state into the page.

import { byId, setText, setValue } from "./elements.js";
import { duration, gigabytes, percent } from "./format.js";

const WORDS = {
  starting: "starting",
  ready: "ready",
  acquiring: "acquiring",
  "catching-up": "catching up",
  stopping: "stopping",
};

function writeLatency(id, latency) {
  if (!latency || latency.p50 === null) return setValue(id, "–");
  const digits = latency.p50 < 10 ? 1 : 0;
  return setValue(id, `${latency.p50.toFixed(digits)} ms`, `p99 ${latency.p99.toFixed(digits)}`);
}

function writeCount(id, count, expected) {
  setValue(id, String(count ?? "–"), expected ? `/ ${expected}` : "");
}

function writeProgress(id, count, whole) {
  const bar = byId(id);
  bar.max = Math.max(1, whole ?? 1);
  bar.value = count ?? 0;
}

function writeFrames(run) {
  const whole = run?.frames_expected ?? run?.frames_received;
  writeCount("frames-received", run?.frames_received, run?.frames_expected);
  writeCount("frames-durable", run?.frames_durable);
  writeCount("frames-masked", run?.frames_masked);
  writeProgress("progress-durable", run?.frames_durable, whole);
  writeProgress("progress-masked", run?.frames_masked, whole);
}

function mark(id, bad) {
  byId(id).classList.toggle("bad", Boolean(bad));
}

/** How much of the time between two slices goes by until the mask is there. */
function writeShare(latency, framesPerSecond) {
  const share = latency?.p50 && framesPerSecond ? (latency.p50 * framesPerSecond) / 1000 : null;
  setValue("mask-share", share === null ? "–" : `${percent(share)} %`, share === null ? "" : "p50");
}

function writeWaiting({ waiting, masks_paused: paused }) {
  const masks = waiting?.masks ?? 0;
  const frames = waiting?.frames ?? 0;
  setValue("waiting", masks ? `${masks} slices` : "none", paused ? "masks paused" : "");
  setValue("waiting-disk", frames ? `${frames} frames` : "none");
}

function writeRing(fill) {
  setValue("ring-fill", Number.isFinite(fill) ? `${percent(fill)} %` : "–");
  mark("ring-fill", fill > 0.8);
}

/** The run may go to a disk of its own, which the forecast is about. */
function writeDisk(forecast, diskFree) {
  const bytes = forecast?.bytes_free ?? diskFree;
  const short = forecast?.fits === false;
  setValue("disk", Number.isFinite(bytes) ? gigabytes(bytes) : "–");
  const fits = short ? `${forecast.frames_fit} frames fit` : "";
  const lasts = forecast?.full_in_s;
  setValue("disk-time", Number.isFinite(lasts) ? duration(lasts) : "–", fits);
  mark("disk", short);
  mark("disk-time", short);
}

/** Names may be longer than their place: the whole of it in the tooltip. */
export function writeNamed(id, name) {
  setValue(id, name || "–");
  byId(id).title = name ?? "";
}

export function writeStatus(status) {
  const state = status.state ?? "unknown";
  byId("status").dataset.state = state;
  setText("status", (WORDS[state] ?? state) + (status.masks_paused ? " · masks paused" : ""));
  writeFrames(status.run);
  setValue("fps", Number.isFinite(status.frames_per_s) ? status.frames_per_s.toFixed(1) : "–");
  writeLatency("to-disk", status.camera_to_durable_ms);
  writeLatency("to-mask", status.camera_to_mask_ms);
  writeShare(status.camera_to_mask_ms, status.frames_per_s);
  writeWaiting(status);
  writeRing(status.ring_fill);
  writeDisk(status.forecast, status.disk_free_bytes);
  writeNamed("model", status.model);
  writeNamed("provider", status.provider);
}

export function writeClipped({ saturated_fraction: part }) {
  const small = part > 0 && part < 0.0005;
  setValue("clipped-part", Number.isFinite(part) ? `${small ? "< 0.1" : percent(part)} %` : "–");
}

export function writeScreenLatency(samples) {
  if (!samples.length) return;
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  writeLatency("to-screen", { p50: at(0.5), p99: at(0.99) });
}
