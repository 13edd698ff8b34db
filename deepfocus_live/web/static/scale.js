// The scale bar: a round length in µm, as long as the picture is drawn.

const LONGEST_PART = 0.22;

/** The largest of 1, 2, 5 × 10ⁿ that is not above `most`. */
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  const steps = [5, 2, 1].filter((step) => step * power <= most * (1 + 1e-9));
  return +((steps[0] ?? 1) * power).toPrecision(1);
}

export function makeScale() {
  const box = document.createElement("div");
  const label = document.createElement("span");
  const bar = document.createElement("i");
  Object.assign(box, { id: "scale", className: "scale", hidden: true });
  label.id = "scale-label";
  bar.id = "scale-bar";
  box.append(label, bar);
  return { box, draw: (pane, header, run) => drawScale({ box, label, bar }, pane, header, run) };
}

function drawScale({ box, label, bar }, pane, header, run) {
  const pixel = run?.pixel_size_um?.um;
  box.hidden = !pixel || !pane.drawn;
  if (box.hidden) return;
  const { placed, picture } = pane.drawn;
  const ratio = pane.canvas.width / Math.max(1, pane.box.clientWidth);
  const umPerScreenPixel = (pixel * picture.factor * ratio) / placed.scale;
  const seen = Math.min(pane.box.clientWidth, (picture.width * placed.scale) / ratio);
  const lengthUm = roundLength(LONGEST_PART * seen * umPerScreenPixel);
  // At the picture's own corner, which is not the pane's when their shapes differ.
  const beside = (whole, from, size) => Math.max(0, (whole - from - size * placed.scale) / ratio).toFixed(1);
  box.style.right = `calc(0.9em + ${beside(pane.size.width, placed.left, picture.width)}px)`;
  box.style.bottom = `calc(0.7em + ${beside(pane.size.height, placed.top, picture.height)}px)`;
  bar.style.width = `${(lengthUm / umPerScreenPixel).toFixed(1)}px`;
  const text = `${lengthUm} µm${run.pixel_size_um.source === "assumed" ? " (assumed)" : ""}`;
  if (label.textContent !== text) label.textContent = text;
}
