// Numbers as people read them.

/** A height with enough digits to tell neighbouring slices apart, and no more than that. */
export function inUm(um, stepUm) {
  const step = Math.abs(stepUm ?? 1);
  return um.toFixed(step >= 1 && Number.isInteger(step) ? 0 : step >= 0.1 ? 1 : 2);
}

/** A part of one in per cent, without the sign. */
export const percent = (part) => (part >= 0.0995 ? (100 * part).toFixed(0) : (100 * part).toFixed(1));

export const clock = (seconds) => new Date(1000 * seconds).toTimeString().slice(0, 8);

export function gigabytes(bytes) {
  const size = bytes / 1e9;
  return size >= 1000 ? `${(size / 1000).toFixed(1)} TB` : `${size.toFixed(size < 10 ? 1 : 0)} GB`;
}

/** A time as minutes, hours or days, whichever says it in few digits. */
export function duration(seconds) {
  const minutes = seconds / 60;
  if (minutes < 1) return `${Math.round(seconds)} s`;
  if (minutes < 120) return `${Math.round(minutes)} min`;
  return minutes < 48 * 60 ? `${(minutes / 60).toFixed(minutes < 600 ? 1 : 0)} h` : `${Math.round(minutes / 1440)} days`;
}
