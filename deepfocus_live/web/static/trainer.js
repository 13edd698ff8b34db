// How the learning goes: what it does, its loss and IoU, and when it learns next.

import { byId, setHidden, setText } from "./elements.js";
import { percent } from "./format.js";

function writeFigures(pairs) {
  const key = JSON.stringify(pairs);
  const list = byId("trainer-figures");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...pairs.map(([name, value]) => {
      const box = document.createElement("div");
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      box.append(term, text);
      return box;
    }),
  );
}

function words(learning, told) {
  if (learning?.on === false) return "Nothing to learn from: masks or labels are switched off.";
  const { running, profile, progress } = learning?.trainer ?? {};
  if (running) return `Learning now, profile ${profile}${progress?.message ? `: ${progress.message}` : ""}`;
  if (told?.waiting) return `${told.waiting} passed the gate and takes over ${learning.swap.replace("-", " ")}`;
  if (told?.watched) return `${told.watched} has taken over and is watched${told.watch ? `: ${told.watch}` : ""}`;
  return told?.outlook ? `Learns later: ${told.outlook}` : "";
}

/** `learning` as the status has it, `told` its entry of the profile in view. */
export function writeTrainer(learning, told) {
  const progress = (learning?.trainer?.running && learning.trainer.progress) || {};
  setText("trainer-text", words(learning, told));
  setText("trainer-decision", told?.decision ?? "");
  setHidden("trainer-progress", !learning?.trainer?.running);
  byId("trainer-progress").value = progress.done ?? 0;
  const figures = [];
  if (Number.isFinite(progress.done)) figures.push(["done", `${percent(progress.done)} %`]);
  if (Number.isFinite(progress.loss)) figures.push(["loss", progress.loss.toFixed(3)]);
  if (Number.isFinite(progress.iou)) figures.push(["IoU, held out", progress.iou.toFixed(3)]);
  writeFigures(figures);
}
