// The page: puts the parts together and holds what is in view.

import { Chart } from "./chart.js";
import { connect } from "./connection.js";
import { setPressed, wireControls, writeSlider } from "./controls.js";
import { Curves } from "./curves.js";
import { byId, setHidden, setText } from "./elements.js";
import { writeNamed, writeScreenLatency, writeStatus } from "./health.js";
import { Live } from "./live.js";
import { readHeader, readMessage } from "./message.js";
import { Notes } from "./notes.js";
import { inUm, writeBest, writeRun, writeSlice } from "./readings.js";
import { drawScale } from "./scale.js";
import { addMask } from "./slice.js";
import { Stored } from "./stored.js";
import { View } from "./view.js";

const LATENCIES_KEPT = 200;
const CONNECTION_WORDS = { connecting: "connecting", open: "connected", silent: "no answer", lost: "lost" };
const BANNERS = {
  silent: ["The daemon does not answer", "What you see is old. It may be overloaded or stuck."],
  lost: ["The daemon is gone", "What you see is old. Trying to connect again …"],
};

const page = { run: null, follow: true, wanted: null, latencies: [], pid: null };
const view = new View();
const curves = new Curves();
const notes = new Notes();
const chart = new Chart((z) => scrubTo(z));
const stored = new Stored(showHeld, () => setText("mask-note", "this slice is not there yet"));
const live = new Live((slice) => {
  if (page.follow) show(slice);
});

// What is in view ------------------------------------------------------------

function show(slice) {
  const sameStack = view.slice?.stack === slice.stack;
  view.show(slice);
  writeSlice(slice, page.run, view);
  drawScale(view.canvas, slice.header, page.run);
  writeMode();
  drawCurve();
  if (!sameStack) writeBest(curves.get(slice.stack), page.run);
}

function showHeld(slice) {
  if (!page.follow) show(slice);
}

function drawCurve() {
  const slice = view.slice;
  if (!slice) return;
  const stack = curves.get(slice.stack);
  chart.draw(stack, curves.before(stack), slice.header.z);
  const sizeZ = Math.max(slice.header.size_z, stack?.sizeZ ?? 1);
  const { z, z_um: zUm } = slice.header;
  const height = zUm === null ? "" : ` · ${inUm(zUm, page.run?.z_step_um?.um)} µm`;
  writeSlider(page.wanted ?? z, sizeZ, `${z + 1} / ${sizeZ}${height}`);
}

function writeMode() {
  const ended = page.run?.ended && view.slice?.header.run === page.run.run;
  const mode = !page.follow ? "held" : ended ? "ended" : "live";
  const words = { held: "HELD · space for live", ended: "RUN ENDED · last slice", live: "LIVE" };
  byId("mode").dataset.mode = mode;
  setText("mode", words[mode]);
  setHidden("mode", !view.slice);
}

// What the user does ---------------------------------------------------------

function follow(on) {
  page.follow = on;
  page.wanted = on ? null : (view.slice?.header.z ?? null);
  setPressed("follow", on);
  stored.cancel();
  if (on && live.shown) show(live.shown);
  writeMode();
}

function scrubTo(z) {
  const slice = view.slice;
  if (!slice) return;
  const sizeZ = Number(byId("z-slider").max) + 1;
  const wanted = Math.min(sizeZ - 1, Math.max(0, z));
  if (page.follow) follow(false);
  page.wanted = wanted;
  byId("z-slider").value = String(wanted);
  stored.want({ ...slice.header, z: wanted });
}

function step(by) {
  if (view.slice) scrubTo(Number(byId("z-slider").value) + by);
}

function setMask(visible) {
  setPressed("mask-toggle", visible);
  view.setMask({ visible });
  if (view.slice) writeSlice(view.slice, page.run, view);
}

// What the daemon tells ------------------------------------------------------

function onRun(run) {
  page.run = run;
  writeRun(run);
  writeMode();
}

function onPoints(message) {
  const key = curves.add(message);
  const slice = view.slice;
  if (!slice || key !== slice.stack) return;
  drawCurve();
  writeBest(curves.get(key), page.run);
  const masked = message.points.some(([z, , , fraction]) => z === slice.header.z && fraction !== null);
  if (!page.follow && masked && !slice.maskBitmap) stored.want(slice.header);
}

function onStatus(status) {
  // Another process counts pictures and remembers curves anew.
  if (page.pid !== null && status.pid !== page.pid) startAnew();
  page.pid = status.pid ?? page.pid;
  writeStatus(status);
  notes.setWarnings(status.warnings ?? []);
}

function startAnew() {
  live.forget();
  page.latencies = [];
}

const HANDLERS = {
  run: onRun,
  points: onPoints,
  notes: (message) => notes.add(message.notes),
  status: (message) => onStatus(message.status),
};

// One after the other: a mask is decoded faster than the picture it belongs to.
let decoding = Promise.resolve();

function onBinary(buffer) {
  decoding = decoding.then(() => onImages(buffer)).catch((error) => console.error(error));
}

async function onImages(buffer) {
  const { kind, number } = readHeader(buffer);
  try {
    const message = await readMessage(buffer);
    if (kind === "picture") onPicture(message);
    else onMask(message);
  } finally {
    // The daemon sends the next picture only when this one is out of the way.
    if (kind === "picture") send({ drawn: number });
  }
}

function onPicture(message) {
  live.picture(message);
  if (message.header.mask) writeModel(message.header.mask);
  const latency = Date.now() - 1000 * message.header.taken_at;
  // Only on the daemon's own machine do both clocks agree.
  const local = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  const fresh = !page.run?.ended && latency >= 0 && latency < 10000;
  if (!local || !fresh) return;
  page.latencies = [...page.latencies, latency].slice(-LATENCIES_KEPT);
  writeScreenLatency(page.latencies);
}

function onMask(message) {
  live.mask(message);
  writeModel(message.header.mask);
  const slice = view.slice;
  if (page.follow || slice?.header.number !== message.header.number) return;
  if (!slice.maskBitmap) addMask(slice, message);
  show(slice);
}

function writeModel(mask) {
  writeNamed("model", mask.model);
  writeNamed("provider", mask.provider);
}

function onConnection(state) {
  document.body.dataset.connection = state;
  setText("connection", CONNECTION_WORDS[state]);
  const banner = BANNERS[state];
  setHidden("banner", !banner);
  if (banner) {
    setText("banner-title", banner[0]);
    setText("banner-text", banner[1]);
  }
  if (state === "lost") {
    byId("status").dataset.state = "unknown";
    setText("status", "unknown");
    notes.clear();
  }
}

wireControls({
  onFollow: follow,
  onSlice: scrubTo,
  onStep: step,
  onMask: setMask,
  onOpacity: (opacity) => view.setMask({ opacity }),
});
new ResizeObserver(() => drawScale(view.canvas, view.slice?.header, page.run)).observe(view.canvas);
const scheme = location.protocol === "https:" ? "wss" : "ws";
const send = connect(`${scheme}://${location.host}/ws`, {
  onText: (message) => HANDLERS[message.type]?.(message),
  onBinary,
  onState: onConnection,
});
