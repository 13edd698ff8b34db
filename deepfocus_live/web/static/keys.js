// The keyboard: one table, from which the keys and their list are made.

import { byId } from "./elements.js";

/** Rows are [keys, words, action]; `steps` of a pair are told as -1 and 1. */
export function wireKeys(table) {
  const actions = new Map();
  for (const [keys, , action] of table) {
    keys.forEach((key, n) => actions.set(key, () => action(keys.length === 2 ? 2 * n - 1 : 1)));
  }
  byId("key-list").replaceChildren(...table.map(([keys, words]) => row(keys, words)));
  document.addEventListener("keydown", (event) => {
    const action = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!action || event.ctrlKey || event.altKey || event.metaKey || isTakenBy(event)) return;
    event.preventDefault();
    action();
  });
  const list = byId("keys");
  byId("keys-close").addEventListener("click", () => list.close());
  byId("help").addEventListener("click", () => list.showModal());
}

/** Whether a key means what it always means where the focus is. */
function isTakenBy({ key, target }) {
  if (document.querySelector("dialog[open]")) return true;
  const arrow = key.startsWith("Arrow") || key.startsWith("Page") || key === "Home" || key === "End";
  if (target.tagName === "SELECT") return true;
  if (target.tagName === "BUTTON") return key === " " || (arrow && target.role === "tab");
  // On the z slider arrows mean the same as everywhere else.
  return target.type === "range" && target.id !== "z-slider" && arrow;
}

const NAMES = { " ": "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageUp: "page ↑", PageDown: "page ↓" };

function row(keys, words) {
  const box = document.createElement("div");
  const term = document.createElement("dt");
  const text = document.createElement("dd");
  term.append(
    ...keys.map((key) => {
      const cap = document.createElement("kbd");
      cap.textContent = NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key);
      return cap;
    }),
  );
  text.textContent = words;
  box.append(term, text);
  return box;
}
