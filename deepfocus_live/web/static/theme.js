// Light or dark: as the system says, until a choice is made here.

import { byId } from "./elements.js";

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : !matchMedia("(prefers-color-scheme: light)").matches;
}

function turnTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage may be forbidden: then it holds until the page is left.
  }
}

export const wireTheme = (onChange) => {
  const turn = () => {
    turnTheme();
    onChange();
  };
  byId("theme").addEventListener("click", turn);
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", onChange);
  return turn;
};
