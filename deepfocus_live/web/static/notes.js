// The last notes and the standing warnings.

import { byId } from "./elements.js";
import { clock } from "./format.js";

const SHOWN = 6;

function line({ level, text, at }) {
  const item = document.createElement("li");
  item.dataset.level = level;
  const when = document.createElement("time");
  when.textContent = at ? clock(at) : "now";
  const what = document.createElement("span");
  what.textContent = text;
  item.append(when, what);
  return item;
}

export class Notes {
  constructor() {
    this.notes = [];
    this.warnings = [];
  }

  add(notes) {
    this.notes = [...this.notes, ...notes].slice(-SHOWN);
    this.write();
  }

  setWarnings(warnings) {
    if (JSON.stringify(warnings) === JSON.stringify(this.warnings)) return;
    this.warnings = warnings;
    this.write();
  }

  clear() {
    this.notes = [];
    this.write();
  }

  write() {
    const standing = this.warnings.map(({ text, count, last_at }) => ({
      level: "warning",
      text: count > 1 ? `${text} (×${count})` : text,
      at: last_at,
    }));
    const newestFirst = [...this.notes].reverse();
    byId("notes").replaceChildren(...[...standing, ...newestFirst].slice(0, SHOWN).map(line));
  }
}
