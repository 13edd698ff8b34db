// The scale bar: a round length in µm, as long as the picture is drawn.

import { byId, setHidden, setText } from "./elements.js";

const LONGEST_PART = 0.22;

/** The largest of 1, 2, 5 × 10ⁿ that is not above `most`. */
function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  const steps = [5, 2, 1].filter((step) => step * power <= most);
  return steps[0] * power;
}

export function drawScale(view, header, run) {
  const pixel = run?.pixel_size_um?.um;
  setHidden("scale", !pixel);
  if (!pixel || !header) return;
  const box = view.getBoundingClientRect();
  const zoom = Math.min(box.width / header.width, box.height / header.height);
  const umPerScreenPixel = (pixel * header.factor) / zoom;
  const lengthUm = roundLength(LONGEST_PART * zoom * header.width * umPerScreenPixel);
  // At the picture's own corner, which is not the canvas's when their shapes differ.
  const { style } = byId("scale");
  style.right = `calc(1.1em + ${((box.width - zoom * header.width) / 2).toFixed(1)}px)`;
  style.bottom = `calc(0.9em + ${((box.height - zoom * header.height) / 2).toFixed(1)}px)`;
  byId("scale-bar").style.width = `${(lengthUm / umPerScreenPixel).toFixed(1)}px`;
  const assumed = run.pixel_size_um.source === "assumed" ? " (assumed)" : "";
  setText("scale-label", `${lengthUm} µm${assumed}`);
}
