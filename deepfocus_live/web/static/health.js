// Writes the daemon's state into the page.

import { byId, setText, setValue } from "./elements.js";

const WORDS = {
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

function writeWaiting(waiting) {
  const masks = waiting?.masks ?? 0;
  const frames = waiting?.frames ?? 0;
  setValue("waiting", masks ? `${masks} slices` : "none", frames ? `disk ${frames}` : "");
}

function writeDisk(bytes, forecast) {
  const short = forecast?.fits === false ? `${forecast.frames_fit} frames fit` : "";
  if (bytes === null || bytes === undefined) return setValue("disk", "–");
  const gigabytes = bytes / 1e9;
  return setValue("disk", gigabytes >= 1000 ? `${(gigabytes / 1000).toFixed(1)} TB` : `${gigabytes.toFixed(gigabytes < 10 ? 1 : 0)} GB`, short);
}

export function writeStatus(status) {
  const state = status.state ?? "unknown";
  byId("status").dataset.state = state;
  setText("status", WORDS[state] ?? state);
  writeFrames(status.run);
  setValue("fps", Number.isFinite(status.frames_per_s) ? status.frames_per_s.toFixed(1) : "–");
  writeLatency("to-disk", status.camera_to_durable_ms);
  writeLatency("to-mask", status.camera_to_mask_ms);
  writeWaiting(status.waiting);
  // The run may go to a disk of its own.
  writeDisk(status.forecast?.bytes_free ?? status.disk_free_bytes, status.forecast);
  writeNamed("model", status.model);
  writeNamed("provider", status.provider);
}

/** Names may be longer than their place: the whole of it in the tooltip. */
export function writeNamed(id, name) {
  setValue(id, name || "–");
  byId(id).title = name ?? "";
}

export function writeScreenLatency(samples) {
  if (!samples.length) return;
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  writeLatency("to-screen", { p50: at(0.5), p99: at(0.99) });
}
