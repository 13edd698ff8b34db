// The views of the slice in view: one, two or four panes with one camera and one look.

import { FITTED } from "./camera.js";
import { byId, setText } from "./elements.js";
import { fromStack } from "./draw.js";
import { Layers } from "./layers.js";
import { Pane } from "./pane.js";
import { wirePointer } from "./pointer.js";
import { Readout } from "./readout.js";
import { makeScale } from "./scale.js";
import { needProbability } from "./slice.js";
import { loadSetting, saveSetting } from "./settings.js";

const KINDS_AT_FIRST = ["mask", "sharp", "focus", "depth"];

export class View {
  /** `projectionOf(header)` gives {projection, note} for the stack of a slice. */
  constructor(projectionOf) {
    this.projectionOf = projectionOf;
    this.slice = null;
    this.run = null;
    this.camera = FITTED;
    this.layers = new Layers();
    this.readout = new Readout(this);
    this.look = {
      maskVisible: true,
      maskStyle: "tint",
      opacity: 0.4,
      threshold: null,
      undecided: true,
      clipped: true,
      contrast: null,
      pixelRatio: window.devicePixelRatio || 1,
    };
    const kinds = loadSetting("kinds", KINDS_AT_FIRST);
    this.panes = kinds.map((kind, n) => new Pane(n + 1, kind, () => this.onKind()));
    this.scale = makeScale();
    this.panes[0].box.append(this.scale.box);
    for (const pane of this.panes) wirePointer(pane, this);
    byId("panes").append(...this.panes.map((pane) => pane.box));
    this.setCount(loadSetting("panes", 1));
    new ResizeObserver(() => this.resize()).observe(byId("panes"));
  }

  get shown() {
    return this.panes.slice(0, this.count);
  }

  setCount(count) {
    this.count = count;
    byId("panes").dataset.count = count;
    this.panes.forEach((pane, n) => {
      pane.box.hidden = n >= count;
    });
    for (const choice of [1, 2, 4]) byId(`panes-${choice}`).setAttribute("aria-pressed", String(choice === count));
    saveSetting("panes", count);
    this.resize();
  }

  onKind() {
    saveSetting("kinds", this.panes.map((pane) => pane.kind));
    this.draw();
  }

  resize() {
    this.look.pixelRatio = window.devicePixelRatio || 1;
    for (const pane of this.shown) pane.fitCanvas(this.look.pixelRatio);
    this.draw();
  }

  /** Bring a slice into view. */
  show(slice) {
    this.slice = slice;
    this.draw();
    if (this.look.threshold !== null) this.loadProbability();
  }

  setLook(changes) {
    Object.assign(this.look, changes);
    if (this.look.threshold !== null) this.loadProbability();
    this.draw();
  }

  setCamera(camera) {
    this.camera = camera;
    this.draw();
  }

  async loadProbability() {
    const { slice } = this;
    if (!slice?.coded || slice.probability) return;
    await needProbability(slice);
    if (this.slice === slice) this.draw();
  }

  /** The part of the slice in focus, at the threshold in use; null without a mask. */
  get part() {
    return this.slice ? (this.layers.mask(this.slice, this.look.threshold)?.part ?? null) : null;
  }

  draw() {
    const { slice, layers, look, camera } = this;
    if (!slice) return;
    const wanted = this.shown.some((pane) => fromStack(pane.kind));
    const { projection = null, note = "" } = wanted ? this.projectionOf(slice.header) : {};
    const { header } = slice;
    const words = `Slice ${header.z + 1} of ${header.size_z}.`;
    const sliceNote = (kind) => this.noteOf(kind);
    for (const pane of this.shown) pane.draw({ slice, layers, look, camera, projection, words, sliceNote, stackNote: note });
    this.scale.draw(this.panes[0], slice.header, this.run);
    this.readout.write();
    const zoomed = camera.zoom > 1.001;
    setText("fit", zoomed ? `fit · ${camera.zoom.toFixed(1)} ×` : "fit");
    byId("fit").disabled = !zoomed;
    this.tell(header);
  }

  /** Say something in place of the first pane's note, until it is drawn again. */
  setNote(text) {
    setText("mask-note", text);
  }

  noteOf(kind) {
    const { slice, look } = this;
    if (kind === "raw") return "";
    if (!slice.maskBitmap) return "no mask of this slice yet";
    if (kind === "mask" && !look.maskVisible) return "mask hidden";
    if (look.threshold !== null && !slice.coded) return "model's own mask: no probability is kept";
    if (kind === "focus" && this.part === 0) return "nothing in focus in this slice";
    return slice.header.provisional ? "provisional: stack not labelled yet" : "";
  }

  /** Say in the document what is drawn. */
  tell(header) {
    const masked = this.slice.maskBitmap !== null;
    const told = this.panes[0].canvas.dataset;
    told.run = header.run;
    told.image = header.image;
    told.t = header.t;
    told.c = header.c;
    told.z = header.z;
    told.sequence = header.sequence_number ?? "";
    told.maskSequence = masked ? (header.sequence_number ?? "stored") : "";
    told.maskVisible = String(masked && this.look.maskVisible);
    told.part = this.part ?? "";
    told.zoom = this.camera.zoom.toFixed(3);
  }
}
