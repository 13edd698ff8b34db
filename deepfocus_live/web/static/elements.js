// Reads and writes of the document by id, in one place.

export const byId = (id) => document.getElementById(id);

/** Write text only when it changed: twenty writes a second would else lay out the page anew. */
export function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

/** Write a value with a small addition behind it, such as a unit. */
export function setValue(id, value, small = "") {
  const element = byId(id);
  const key = `${value}|${small}`;
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(value);
  if (small) {
    const addition = document.createElement("small");
    addition.textContent = ` ${small}`;
    element.append(addition);
  }
}

export function setHidden(id, hidden) {
  byId(id).hidden = hidden;
}
