// What this browser remembers of how its user likes the page. Never of the specimen.

export function loadSetting(name, fallback) {
  try {
    const text = localStorage.getItem(`page.${name}`);
    const value = text === null ? fallback : JSON.parse(text);
    return Array.isArray(value) === Array.isArray(fallback) && typeof value === typeof fallback ? value : fallback;
  } catch {
    return fallback;
  }
}

export function saveSetting(name, value) {
  try {
    localStorage.setItem(`page.${name}`, JSON.stringify(value));
  } catch {
    // Storage may be forbidden: then it is forgotten.
  }
}
