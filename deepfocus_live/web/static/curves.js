// The focus curves of the last stacks as the daemon tells them, and of one run looked at again.

import { stackKey } from "./slice.js";

const KEPT = 24;
const BEHIND = 3;

function put(stacks, { run, image, t, c }, sizeZ, labelled) {
  const key = stackKey({ run, image, t, c });
  const stack = stacks.get(key) ?? { run, image, t, c, points: new Map(), labelled: false };
  stack.sizeZ = sizeZ;
  stack.labelled ||= Boolean(labelled);
  stacks.delete(key);
  stacks.set(key, stack);
  return { key, stack };
}

export class Curves {
  constructor() {
    this.stacks = new Map();
    this.read = new Map();
  }

  /** Take the points that changed; returns the key of their stack. */
  add(message) {
    const { key, stack } = put(this.stacks, message, message.size_z, message.labelled);
    for (const [z, zUm, sequence, fraction, score, labelled] of message.points) {
      stack.points.set(z, { z, zUm, sequence, fraction, score, labelled });
    }
    while (this.stacks.size > KEPT) this.stacks.delete(this.stacks.keys().next().value);
    return key;
  }

  /** Take all curves of a run that was read back, in place of those of another. */
  addRun(run) {
    this.read.clear();
    for (const stored of run.stacks) {
      const sizeZ = Math.max(run.images[stored.image]?.size_z ?? 1, Math.max(-1, ...stored.z) + 1);
      const { stack } = put(this.read, { ...stored, run: run.id }, sizeZ, stored.labelled);
      stored.z.forEach((z, n) => {
        const value = (name) => stored[name]?.[n] ?? null;
        const point = { zUm: value("z_um"), fraction: value("in_focus_fraction"), score: value("focus_score") };
        stack.points.set(z, { z, sequence: null, ...point, labelled: value("labelled_fraction") });
      });
    }
  }

  markLabelled(place) {
    const stack = this.get(stackKey(place));
    if (stack) stack.labelled = true;
  }

  get(key) {
    return this.stacks.get(key) ?? this.read.get(key) ?? null;
  }

  /** The stacks at the same place and channel before this one, the nearest first. */
  before(stack) {
    if (!stack) return [];
    const keys = Array.from({ length: BEHIND }, (_, n) => stackKey({ ...stack, t: stack.t - 1 - n }));
    return keys.map((key) => this.get(key)).filter(Boolean);
  }
}

export const byZ = (stack) => [...stack.points.values()].sort((a, b) => a.z - b.z);

/**
 * The slice with most in focus, and what to think of it: `complete` when all slices
 * are measured, `nothing` when none has anything in focus, `beyond` when the best is
 * at an end, so that the focus may lie outside of the stack.
 */
export function findBest(stack) {
  const measured = byZ(stack).filter((point) => point.fraction !== null);
  if (!measured.length) return null;
  const best = measured.reduce((one, other) => (other.fraction > one.fraction ? other : one));
  const complete = measured.length === stack.sizeZ;
  const atEnd = best.z === 0 || best.z === stack.sizeZ - 1;
  const nothing = best.fraction === 0;
  return { ...best, complete, nothing, beyond: complete && !nothing && atEnd && stack.sizeZ > 2 };
}
