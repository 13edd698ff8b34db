// How the slice is shown: mask, threshold, what is marked, contrast.

import { byId, setText } from "./elements.js";

export const isPressed = (id) => byId(id).getAttribute("aria-pressed") === "true";
export const setPressed = (id, pressed) => byId(id).setAttribute("aria-pressed", String(pressed));

const NUDGE = 0.02;

export class Controls {
  /** `onChange` is told after each change, when the view is drawn anew. */
  constructor(view, onChange) {
    this.view = view;
    this.onChange = onChange;
    this.modelsThreshold = null;
    this.display = null;
    byId("mask-toggle").addEventListener("click", () => this.toggle("mask-toggle", "maskVisible"));
    byId("undecided").addEventListener("click", () => this.toggle("undecided", "undecided"));
    byId("clipped").addEventListener("click", () => this.toggle("clipped", "clipped"));
    byId("mask-style").addEventListener("click", () => this.turnStyle());
    byId("opacity").addEventListener("input", (event) => {
      setText("opacity-output", `${event.target.value} %`);
      this.set({ opacity: Number(event.target.value) / 100 });
    });
    byId("threshold").addEventListener("input", (event) => this.setThreshold(Number(event.target.value)));
    byId("threshold-reset").addEventListener("click", () => this.setThreshold(null));
    byId("contrast-auto").addEventListener("click", () => this.setAuto(!isPressed("contrast-auto")));
    byId("contrast-low").addEventListener("input", () => this.onHandles("contrast-low"));
    byId("contrast-high").addEventListener("input", () => this.onHandles("contrast-high"));
  }

  set(changes) {
    this.view.setLook(changes);
    this.onChange();
  }

  toggle(id, name) {
    const on = !isPressed(id);
    setPressed(id, on);
    this.set({ [name]: on });
  }

  turnStyle() {
    const maskStyle = this.view.look.maskStyle === "tint" ? "contour" : "tint";
    byId("mask-style").dataset.style = maskStyle;
    setText("mask-style", maskStyle);
    this.set({ maskStyle });
  }

  /** `null` goes back to the model's own threshold, and to its own mask. */
  setThreshold(threshold) {
    byId("threshold-reset").disabled = threshold === null;
    byId("threshold").value = String(threshold ?? this.modelsThreshold ?? 0.5);
    this.set({ threshold });
    this.writeThreshold();
  }

  nudgeThreshold(steps) {
    const now = Number(byId("threshold").value);
    this.setThreshold(Math.min(0.99, Math.max(0.01, +(now + NUDGE * steps).toFixed(2))));
  }

  writeThreshold() {
    const { threshold } = this.view.look;
    const models = this.modelsThreshold;
    setText("threshold-output", threshold === null ? (models === null ? "model's" : models.toFixed(2)) : threshold.toFixed(2));
    byId("threshold-output").title = threshold === null ? "the model's own threshold" : "yours, in this view only";
  }

  setAuto(auto) {
    setPressed("contrast-auto", auto);
    if (!auto) return this.onHandles();
    byId("contrast-low").value = "0";
    byId("contrast-high").value = "255";
    return this.set({ contrast: null });
  }

  /** The handles stand for counts between what the automatic contrast made black and white. */
  onHandles(moved = "contrast-low") {
    const { display } = this;
    if (!display) return;
    const [low, high] = [byId("contrast-low"), byId("contrast-high")];
    if (Number(low.value) >= Number(high.value)) {
      // One handle stops at the other.
      if (moved === "contrast-low") low.value = String(Number(high.value) - 1);
      else high.value = String(Number(low.value) + 1);
    }
    setPressed("contrast-auto", false);
    const counts = (input) => display.low + (Number(input.value) / 255) * (display.high - display.low);
    this.set({ contrast: { low: counts(low), high: counts(high) } });
    this.writeContrast();
  }

  writeContrast() {
    const shown = this.view.look.contrast ?? this.display;
    setText("contrast-output", shown ? `${Math.round(shown.low)} – ${Math.round(shown.high)}` : "–");
  }

  /** Take over what a slice says of itself. */
  follow({ threshold, display }) {
    // A slice that has no mask yet does not say.
    this.modelsThreshold = threshold ?? this.modelsThreshold;
    if (this.view.look.threshold === null && this.modelsThreshold !== null) {
      byId("threshold").value = String(this.modelsThreshold);
    }
    // While set by hand, the handles keep the counts that they stand for.
    if (!this.view.look.contrast) this.display = display ?? null;
    this.writeThreshold();
    this.writeContrast();
  }
}
