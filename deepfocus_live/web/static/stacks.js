// Which stack's all-in-focus image and depth map are shown for a slice.

import { percent } from "./format.js";
import { stackKey } from "./slice.js";

const BACK = 3;

/** Whether a stack that is being taken has all its slices, as far as the page knows. */
function isWhole(curves, place) {
  const stack = curves.get(stackKey(place));
  return !stack || stack.points.size >= stack.sizeZ;
}

const whyNot = ({ refusal, progress }) => refusal ?? `being made: ${percent(progress ?? 0)} %`;

/**
 * {projection, note, place}: the slice's own stack, or, while that is not whole or not
 * made yet, one before it at the same place. `projection` is null where there is none.
 */
export function projectionFor(projections, curves, { run, image, t, c }) {
  const place = { run, image, t, c };
  const whole = isWhole(curves, place);
  const own = whole ? projections.get(place) : { refusal: "shown when the stack is whole" };
  if (own.projection) return { projection: own.projection, note: "", place };
  if (t === 0) return { projection: null, note: whyNot(own), place };
  const before = { ...place, t: t - 1 };
  const last = whole ? projections.peek(before) : projections.get(before);
  if (last?.projection) return { projection: last.projection, note: `stack before (t ${t})`, place: before };
  for (let back = 2; back <= BACK; back += 1) {
    const earlier = { ...place, t: t - back };
    const { projection } = projections.peek(earlier) ?? {};
    if (projection) return { projection, note: `earlier stack (t ${earlier.t + 1})`, place: earlier };
  }
  return { projection: null, note: last && !whole ? `stack before: ${whyNot(last)}` : whyNot(own), place };
}
