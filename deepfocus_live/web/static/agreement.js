// How well network and rule agree, stack by stack, as a small curve from 0 to 1.

import { byId, setHidden, setText } from "./elements.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const MOST = 60;

function put(svg, name, attributes, text) {
  const node = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  svg.append(node);
}

export function writeAgreement(agreement) {
  const known = agreement.filter(({ iou }) => Number.isFinite(iou)).slice(-MOST);
  setHidden("agreement-box", known.length === 0);
  if (!known.length) return;
  setText("agreement-last", `IoU ${known[known.length - 1].iou.toFixed(2)}`);
  const svg = byId("agreement");
  const { clientWidth: width, clientHeight: height } = svg;
  if (!width) return;
  const em = parseFloat(getComputedStyle(svg).fontSize);
  const [left, right, top, bottom] = [1.9 * em, width - 6, 0.4 * em, height - 0.4 * em];
  const x = (n) => (known.length < 2 ? right : left + ((right - left) * n) / (known.length - 1));
  const y = (iou) => bottom - (bottom - top) * iou;
  svg.replaceChildren();
  svg.dataset.points = known.length;
  for (const level of [0, 0.5, 1]) {
    put(svg, "line", { class: "grid", x1: left, x2: right, y1: y(level), y2: y(level) });
    put(svg, "text", { x: left - 0.4 * em, y: y(level) + 0.28 * em, "text-anchor": "end" }, String(level));
  }
  const line = known.map(({ iou }, n) => `${n ? "L" : "M"}${x(n).toFixed(1)} ${y(iou).toFixed(1)}`).join("");
  put(svg, "path", { d: line });
  known.forEach(({ iou }, n) => put(svg, "circle", { cx: x(n), cy: y(iou), r: known.length > 30 ? 1.6 : 2.6 }));
  svg.setAttribute("aria-label", `Agreement of network and rule, last ${known.length} stacks: ${known.map(({ iou }) => iou.toFixed(2)).join(", ")}`);
}
