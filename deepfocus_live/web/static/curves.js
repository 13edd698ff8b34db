// The focus curves of the last stacks, as the daemon tells them.

import { stackKey } from "./slice.js";

const KEPT = 24;

export class Curves {
  constructor() {
    this.stacks = new Map();
  }

  /** Take the points that changed; returns the key of their stack. */
  add(message) {
    const key = stackKey(message);
    const { run, image, t, c } = message;
    const stack = this.stacks.get(key) ?? { run, image, t, c, points: new Map() };
    stack.sizeZ = message.size_z;
    for (const [z, zUm, sequence, fraction, score, labelled] of message.points) {
      stack.points.set(z, { z, zUm, sequence, fraction, score, labelled });
    }
    this.stacks.delete(key);
    this.stacks.set(key, stack);
    while (this.stacks.size > KEPT) this.stacks.delete(this.stacks.keys().next().value);
    return key;
  }

  get(key) {
    return this.stacks.get(key) ?? null;
  }

  /** The stack at the same place and channel, one time point earlier. */
  before(stack) {
    return stack && this.get(stackKey({ ...stack, t: stack.t - 1 }));
  }

  clear() {
    this.stacks.clear();
  }
}

export const byZ = (stack) => [...stack.points.values()].sort((a, b) => a.z - b.z);

/** The slice with most in focus, and whether the focus may lie beyond the stack's ends. */
export function findBest(stack) {
  const measured = byZ(stack).filter((point) => point.fraction !== null);
  if (!measured.length) return null;
  const best = measured.reduce((one, other) => (other.fraction > one.fraction ? other : one));
  const complete = measured.length === stack.sizeZ;
  const atEnd = best.z === 0 || best.z === stack.sizeZ - 1;
  return { ...best, complete, beyond: complete && atEnd && stack.sizeZ > 2 };
}
