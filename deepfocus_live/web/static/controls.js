// Buttons, sliders and keys. What they do is up to whoever makes them.

import { byId, setText } from "./elements.js";

const isPressed = (id) => byId(id).getAttribute("aria-pressed") === "true";

export function setPressed(id, pressed) {
  byId(id).setAttribute("aria-pressed", String(pressed));
}

export function writeSlider(z, sizeZ, label) {
  const slider = byId("z-slider");
  slider.disabled = sizeZ < 2;
  slider.max = String(Math.max(0, sizeZ - 1));
  slider.value = String(z);
  setText("z-output", label);
}

export function wireControls({ onFollow, onSlice, onStep, onMask, onOpacity }) {
  byId("follow").addEventListener("click", () => onFollow(!isPressed("follow")));
  byId("mask-toggle").addEventListener("click", () => onMask(!isPressed("mask-toggle")));
  byId("z-slider").addEventListener("input", (event) => onSlice(Number(event.target.value)));
  byId("opacity").addEventListener("input", (event) => {
    setText("opacity-output", `${event.target.value} %`);
    onOpacity(Number(event.target.value) / 100);
  });
  const keys = {
    ArrowLeft: () => onStep(-1),
    ArrowRight: () => onStep(1),
    " ": () => onFollow(!isPressed("follow")),
    m: () => onMask(!isPressed("mask-toggle")),
  };
  document.addEventListener("keydown", (event) => {
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
    // Arrows on the opacity slider and space on a button mean what they always mean.
    if (event.target.id === "opacity" && event.key.startsWith("Arrow")) return;
    if (event.target.tagName === "BUTTON" && event.key === " ") return;
    event.preventDefault();
    action();
  });
}
