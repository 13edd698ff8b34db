// The 3-D view of a stack, drawn by Plotly, which is loaded when it is first looked at.

import { readPixels } from "./canvas.js";
import { byId, setHidden, setText } from "./elements.js";
import { percent } from "./format.js";
import { unpack } from "./message.js";
import { askUntilMade, stackQuery, toHeights } from "./projections.js";
import { stackKey } from "./slice.js";
import { aspectOf, makePoints, makeSurface } from "./solid.js";

const PLOTLY = "/static/plotly.min.js";
const AFTER_A_LOOK_MS = 300;

let loading = null;

function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = PLOTLY;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = null;
      reject(new Error("Plotly could not be loaded: is the Python package plotly installed?"));
    };
    document.head.append(script);
  });
  return loading;
}

const hasWebGl = () => Boolean(document.createElement("canvas").getContext("webgl2") ?? document.createElement("canvas").getContext("webgl"));

export class Space {
  /** `projectionOf(place)` gives {projection, note, place} of the stack to show. */
  constructor(projectionOf) {
    this.projectionOf = projectionOf;
    this.open = false;
    this.kind = "surface";
    this.place = null;
    this.drawn = "";
    this.volumes = new Map();
    byId("space-surface").addEventListener("click", () => this.setKind("surface"));
    byId("space-volume").addEventListener("click", () => this.setKind("volume"));
    byId("space-stretch").addEventListener("change", () => this.draw());
    new ResizeObserver(() => {
      if (this.open && this.drawn) window.Plotly?.Plots.resize(byId("space-plot"));
    }).observe(byId("space-plot"));
  }

  setOpen(open) {
    this.open = open;
    setHidden("space-box", !open);
    setHidden("panes", open);
    byId("space").setAttribute("aria-pressed", String(open));
    if (open) this.draw();
  }

  setKind(kind) {
    this.kind = kind;
    byId("space-surface").setAttribute("aria-pressed", String(kind === "surface"));
    byId("space-volume").setAttribute("aria-pressed", String(kind === "volume"));
    this.draw();
  }

  /** Follow the slice in view to its stack. */
  follow(place) {
    this.place = place;
    if (!this.open) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.draw(), AFTER_A_LOOK_MS);
  }

  themeChanged() {
    this.drawn = "";
    if (this.open) this.draw();
  }

  async draw() {
    if (!this.open || !this.place) return;
    if (!hasWebGl()) return this.say("This browser cannot draw in 3-D: WebGL is switched off or missing. All else works without it.");
    const { projection, note, place } = this.projectionOf(this.place);
    if (!projection) return this.say(note);
    try {
      if (!window.Plotly) this.say("loading …");
      await loadPlotly();
      await (this.kind === "surface" ? this.drawSurface(projection, note) : this.drawVolume(place, note));
    } catch (error) {
      this.say(error.message);
    }
  }

  async drawSurface(projection, note) {
    const { header } = projection;
    const stretch = Number(byId("space-stretch").value);
    const known = header.in_focus_part === null ? "" : `height known for ${percent(header.in_focus_part)} %`;
    const words = [note, known].filter(Boolean).join(" · ");
    await this.plot(`surface ${stackKey(header)} ${stretch}`, words, header.depth.unit, header.pixel_um, stretch, () =>
      makeSurface(toHeights(projection.codes, header.depth), header, readPixels(projection.bitmap)),
    );
  }

  async drawVolume(place, note) {
    const volume = await this.volumeOf(place);
    if (!volume || this.kind !== "volume") return;
    const { header, voxels } = volume;
    const stretch = Number(byId("space-stretch").value);
    const unit = header.z_um ? "µm" : "slices";
    const words = [note, "what is in focus, coloured by height; not optical sectioning"].filter(Boolean).join(" · ");
    await this.plot(`volume ${stackKey(header)} ${stretch}`, words, unit, header.voxel_um?.x, stretch, () => makePoints(voxels, header));
  }

  async volumeOf(place) {
    const key = stackKey(place);
    if (this.volumes.has(key)) return this.volumes.get(key);
    const answer = await askUntilMade(`/api/volume?${stackQuery(place)}`, (part) => this.say(`being made: ${percent(part ?? 0)} %`));
    if (!answer.ok) {
      this.say((await answer.json()).error);
      return null;
    }
    const { header, parts } = unpack(await answer.arrayBuffer());
    const volume = { header, voxels: parts.volume.bytes };
    this.volumes.clear();
    this.volumes.set(key, volume);
    return volume;
  }

  async plot(key, words, zUnit, pixelUm, stretch, makeTrace) {
    this.say(words);
    if (key === this.drawn) return;
    this.drawn = key;
    const trace = makeTrace();
    const aspect = aspectOf(trace, stretch);
    const box = byId("space-plot");
    const colour = getComputedStyle(box).color;
    const grid = getComputedStyle(byId("space-stretch")).borderColor;
    const flat = pixelUm ? "µm" : "px";
    const axis = (title, more) => ({ title: { text: title }, color: colour, gridcolor: grid, zeroline: false, showspikes: false, ...more });
    const scene = {
      xaxis: axis(`x, ${flat}`),
      // Rows count downwards, as in the picture.
      yaxis: axis(`y, ${flat}`, { autorange: "reversed" }),
      zaxis: axis(`z, ${zUnit}`, { nticks: aspect.z < 0.3 ? 2 : 5 }),
      aspectmode: "manual",
      aspectratio: aspect,
      camera: { eye: { x: 0.3, y: -1.4, z: 1.1 }, center: { x: 0, y: 0, z: -0.15 } },
      uirevision: "kept",
    };
    const layout = { scene, uirevision: "kept", margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", font: { color: colour, size: 12 } };
    await window.Plotly.react(box, [trace], layout, { displayModeBar: false, displaylogo: false, responsive: false });
    box.dataset.drawn = key;
  }

  say(text) {
    setText("space-note", text);
  }
}
