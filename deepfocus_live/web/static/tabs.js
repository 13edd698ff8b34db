// Tabs as the ARIA pattern has them: arrows go from one to the next.

import { byId } from "./elements.js";

export function wireTabs(names, onOpen) {
  const tabs = names.map((name) => byId(`tab-${name}`));
  function open(n) {
    tabs.forEach((tab, k) => {
      tab.setAttribute("aria-selected", String(k === n));
      tab.tabIndex = k === n ? 0 : -1;
      byId(`panel-${names[k]}`).hidden = k !== n;
    });
    onOpen(names[n]);
  }
  tabs.forEach((tab, n) => {
    tab.addEventListener("click", () => open(n));
    tab.addEventListener("keydown", ({ key }) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!way) return;
      const next = (n + way + tabs.length) % tabs.length;
      open(next);
      tabs[next].focus();
    });
  });
  return (name) => open(names.indexOf(name));
}
