// The page: makes the parts and passes on between them what happens.

import { Actions } from "./actions.js";
import { writeConnection } from "./banner.js";
import { Buttons } from "./buttons.js";
import { FITTED } from "./camera.js";
import { Chart } from "./chart.js";
import { connect } from "./connection.js";
import { Controls, isPressed, setPressed } from "./controls.js";
import { Curves, findBest } from "./curves.js";
import { byId } from "./elements.js";
import { writeClipped, writeNamed, writeScreenLatency, writeStatus } from "./health.js";
import { Hold } from "./hold.js";
import { wireKeys } from "./keys.js";
import { Learning } from "./learning.js";
import { Live } from "./live.js";
import { readHeader } from "./message.js";
import { Navigate } from "./navigate.js";
import { Notes } from "./notes.js";
import { zoomBy } from "./pointer.js";
import { Projections } from "./projections.js";
import { fromMessage, writeBest, writeRun, writeSlice } from "./readings.js";
import { Runs } from "./runs.js";
import { addMask, readSlice, stackKey } from "./slice.js";
import { Space } from "./space.js";
import { projectionFor } from "./stacks.js";
import { Stored } from "./stored.js";
import { wireTabs } from "./tabs.js";
import { wireTheme } from "./theme.js";
import { View } from "./view.js";

const LATENCIES_KEPT = 200;
const ZOOM_STEP = 1.4;

const page = { latencies: [], pid: null };
const curves = new Curves();
const notes = new Notes();
const projections = new Projections(() => {
  view.draw();
  space.follow(view.slice?.header ?? null);
});
const projectionOf = (place) => projectionFor(projections, curves, place);
const view = new View(projectionOf);
const space = new Space(projectionOf);
const stored = new Stored((slice) => hold.onStored(slice), () => view.setNote("this slice is not there yet"));
const live = new Live((slice) => hold.onLive(slice));
const runs = new Runs(() => writeRuns());
const hold = new Hold({ view, live, stored, runs, curves, onShow });
const chart = new Chart((z) => goTo({ z }));
const controls = new Controls(view, () => view.slice && writeSlice(view.slice, hold.run, view));
const navigate = new Navigate({
  onPlace: (place) => goTo(place),
  onRun: (id) => hold.goToRun(id),
  onOpen: () => runs.refresh(),
});
const actions = new Actions(() => {
  learning.refresh();
  buttons.write();
});
const buttons = new Buttons(actions);
const learning = new Learning(actions);

// What comes into view -------------------------------------------------------

function onShow(slice) {
  const { header } = slice;
  controls.follow(header);
  writeSlice(slice, hold.run, view);
  writeClipped(header);
  writeRun(hold.run);
  writeCurve();
  writeBest(curves.get(slice.stack), hold.run);
  space.follow(header);
}

function writeCurve() {
  const { slice } = view;
  if (!slice) return;
  const stack = curves.get(slice.stack);
  chart.draw(stack, curves.before(stack), slice.header.z);
  writePlace();
}

function writePlace() {
  const { header, stack } = view.slice;
  const sizes = {
    image: hold.run?.images ?? 1,
    c: hold.run?.channelNames?.length ?? 1,
    t: header.size_t,
    z: Math.max(header.size_z, curves.get(stack)?.sizeZ ?? 1),
  };
  navigate.write(header, sizes, hold.run, hold.wanted);
  writeRuns();
}

function writeRuns() {
  const inView = hold.run?.run;
  const isLive = !inView || (inView === hold.liveRun?.run && !hold.liveRun.ended) || hold.follow;
  navigate.writeRuns(runs.list, hold.liveRun, isLive ? "" : inView);
}

// What the user does ---------------------------------------------------------

function goTo(change) {
  hold.goTo({ ...navigate.place, ...change });
  if (view.slice) writePlace();
}

function goToBest() {
  const best = view.slice && findBest(curves.get(view.slice.stack) ?? { points: new Map() });
  if (best) goTo({ z: best.z });
}

function showPanes(count) {
  space.setOpen(false);
  view.setCount(count);
}

function turnSpace() {
  if (space.open) return showPanes(view.count);
  for (const count of [1, 2, 4]) setPressed(`panes-${count}`, false);
  return space.setOpen(true);
}

// What the daemon tells ------------------------------------------------------

function onRun(message) {
  hold.setLiveRun(fromMessage(message));
  if (hold.follow) writeRun(hold.liveRun);
  runs.refresh();
}

function onPoints(message) {
  const key = curves.add(message);
  const { slice } = view;
  if (!slice || key !== slice.stack) return;
  writeCurve();
  writeBest(curves.get(key), hold.run);
  const masked = message.points.some(([z, , , fraction]) => z === slice.header.z && fraction !== null);
  if (!hold.follow && masked && !slice.maskBitmap) stored.want(slice.header);
}

async function onLabelled(place) {
  curves.markLabelled(place);
  projections.retry(place);
  const { slice } = view;
  if (slice?.stack === stackKey(place)) await settle(slice);
  else view.draw();
  space.follow(view.slice?.header ?? null);
  if (!byId("panel-learning").hidden) readLearning();
}

/** The stack in view was labelled: its mask is provisional no more, and undecided can be had. */
async function settle(slice) {
  slice.header = { ...slice.header, provisional: false };
  const again = await stored.fetchOne(slice.header);
  slice.undecided = again?.undecided ?? null;
  if (view.slice === slice) view.draw();
}

async function readLearning() {
  learning.refresh();
  const id = view.slice?.header.run ?? hold.liveRun?.run;
  const run = id && (await runs.read(id));
  if (run) learning.setAgreement(run.agreement);
}

function onStatus(status) {
  // Another process counts pictures and remembers curves anew.
  if (page.pid !== null && status.pid !== page.pid) startAnew();
  page.pid = status.pid ?? page.pid;
  writeStatus(status);
  buttons.follow(status);
  learning.follow(status, hold.liveRun?.profile);
  notes.setWarnings(status.warnings ?? []);
}

function startAnew() {
  live.forget();
  page.latencies = [];
  actions.begin();
}

const HANDLERS = {
  run: onRun,
  points: onPoints,
  labelled: onLabelled,
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
    const slice = await readSlice(buffer);
    if (kind === "picture") onPicture(slice);
    else onMask(slice);
  } finally {
    // The daemon sends the next picture only when this one is out of the way.
    if (kind === "picture") send({ drawn: number });
  }
}

function onPicture(slice) {
  live.picture(slice);
  if (slice.header.mask) writeModel(slice.header.mask);
  const latency = Date.now() - 1000 * slice.header.taken_at;
  // Only on the daemon's own machine do both clocks agree.
  const local = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  const fresh = !hold.liveRun?.ended && latency >= 0 && latency < 10000;
  if (!local || !fresh) return;
  page.latencies = [...page.latencies, latency].slice(-LATENCIES_KEPT);
  writeScreenLatency(page.latencies);
}

function onMask(message) {
  live.mask(message);
  writeModel(message.header.mask);
  const { slice } = view;
  if (hold.follow || slice?.header.number !== message.header.number) return;
  if (!slice.maskBitmap) addMask(slice, message);
  hold.show(slice);
}

function writeModel(mask) {
  writeNamed("model", mask.model);
  writeNamed("provider", mask.provider);
}

function onConnection(state) {
  writeConnection(state);
  if (state === "open") {
    actions.begin();
    runs.refresh();
  }
  if (state === "lost") notes.clear();
}

// Wires ----------------------------------------------------------------------

const click = (id, action) => byId(id).addEventListener("click", action);
const press = (id) => () => byId(id).click();
const turnTheme = wireTheme(() => {
  space.themeChanged();
  chart.redraw();
});
wireTabs(["focus", "health", "learning"], (name) => {
  if (name === "learning") readLearning();
  if (name === "focus") chart.redraw();
});
click("follow", () => hold.setFollow(!isPressed("follow")));
click("fit", () => view.setCamera(FITTED));
click("space", turnSpace);
for (const count of [1, 2, 4]) click(`panes-${count}`, () => showPanes(count));
wireKeys([
  [["ArrowLeft", "ArrowRight"], "slice below, above", (by) => navigate.step("z", by)],
  [["ArrowUp", "ArrowDown"], "time point before, after", (by) => navigate.step("t", by)],
  [["PageUp", "PageDown"], "position before, after", (by) => navigate.step("image", by)],
  [["Home", "End"], "first, last slice", (by) => goTo({ z: by < 0 ? 0 : navigate.sizes.z - 1 })],
  [["b"], "best slice of the stack", goToBest],
  [["c"], "next channel", () => navigate.turn("c")],
  [[" "], "follow the microscope, or stay", press("follow")],
  [["r"], "choose a run", () => byId("run-select").focus()],
  [["m"], "mask", press("mask-toggle")],
  [["o"], "mask as tint or contour", press("mask-style")],
  [["[", "]"], "threshold lower, higher", (by) => controls.nudgeThreshold(by)],
  [["\\"], "the model's own threshold", press("threshold-reset")],
  [["u"], "undecided", press("undecided")],
  [["k"], "clipped pixels", press("clipped")],
  [["a"], "contrast automatic or by hand", press("contrast-auto")],
  [["-", "+"], "zoom out, in (or the wheel)", (by) => zoomBy(view, ZOOM_STEP ** by)],
  [["0"], "all of it in view (or double click)", press("fit")],
  [["1"], "one view", () => showPanes(1)],
  [["2"], "two views", () => showPanes(2)],
  [["4"], "four views", () => showPanes(4)],
  [["3"], "three dimensions", turnSpace],
  [["t"], "light or dark", turnTheme],
  [["?"], "these keys", press("help")],
]);
const scheme = location.protocol === "https:" ? "wss" : "ws";
const send = connect(`${scheme}://${location.host}/ws`, {
  onText: (message) => HANDLERS[message.type]?.(message),
  onBinary,
  onState: onConnection,
});
