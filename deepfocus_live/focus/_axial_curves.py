"""What a measure's scores do through focus: the curves of blocks, and what noise makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["AxialCurves", "NoiseEffect"]

RISE = 0.8  # of the way from a block's lowest score to its best: in focus, to the axial rule
PROMINENCE = 0.2  # of a block's rise: what RISE leaves over
DIP = 0.25  # of a block's rise: shallower dips are not asked whether they invert


class NoiseEffect:
    """What added noise does to one measure, block by block, summed up as slices come.

    Attributes
    ----------
    best_z : two (By, Bx) int64
        The best slice with noise added, in two trials.
    """

    def __init__(self, blocks_yx: tuple[int, int]) -> None:
        self.best_z = np.zeros((2, *blocks_yx), np.int64)
        self._best_noisy = np.full((2, *blocks_yx), -np.inf, np.float32)
        self._best_clean = np.full(blocks_yx, -np.inf, np.float32)
        self._best_clean_z = np.full(blocks_yx, -1)
        self._before = np.zeros(blocks_yx)
        self._power = np.zeros(blocks_yx)  # summed over the best slice and its neighbours

    @property
    def counts_at_best(self) -> NDArray[np.float64]:
        """Standard deviation of a score, (By, Bx), where a best slice has two neighbours."""
        deviation: NDArray[np.float64] = np.sqrt(self._power / 3)
        return deviation

    def add(self, z: int, clean: NDArray[np.float32], noisy: Sequence[NDArray[np.float32]]) -> None:
        """Add the scores of the next slice, without noise and in two trials with it."""
        for trial, scores in enumerate(noisy):
            better = scores > self._best_noisy[trial]
            self._best_noisy[trial][better] = scores[better]
            self.best_z[trial][better] = z
        power = (noisy[0].astype(np.float64) - noisy[1]) ** 2 / 2
        self._power += np.where(self._best_clean_z == z - 1, power, 0)
        better = clean > self._best_clean
        self._best_clean[better] = clean[better]
        self._best_clean_z[better] = z
        self._power[better] = (self._before + power)[better]
        self._before = power


class AxialCurves:
    """The curves of the textured blocks of one measure: scores (Z, K) of K blocks."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self._scores = scores.astype(np.float64)
        lowest = self._scores.min(axis=0)
        self._rise = self._scores.max(axis=0) - lowest
        flat = self._rise == 0
        # 0 at a block's lowest score and 1 at its highest; 0 where it never changes.
        self.risen: NDArray[np.float64] = (self._scores - lowest) / np.where(flat, 1, self._rise)

    def good_at(self, z: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return at which blocks the slice `z`, (K,), is in focus to the axial rule."""
        good: NDArray[np.bool_] = np.take_along_axis(self.risen, z[None], axis=0)[0] >= RISE
        return good

    def sensitivity(self, noise: NDArray[np.float64]) -> float:
        """Return the median fall beside the best slice, in units of `noise`, (K,)."""
        z = self._scores.argmax(axis=0)
        inside = np.flatnonzero((z > 0) & (z < len(self._scores) - 1) & (noise > 0))
        if not inside.size:
            return math.nan
        z = z[inside]
        beside = (self._scores[z - 1, inside] + self._scores[z + 1, inside]) / 2
        return float(np.median((self._scores[z, inside] - beside) / noise[inside]))

    def peaks(self) -> NDArray[np.int64]:
        """Return how many maxima each block's curve has, (K,), one at least.

        A maximum counts if on either side the curve falls by `PROMINENCE` of its
        rise before it climbs higher, or ends.
        """
        count = np.zeros(self.risen.shape[1], np.int64)
        climbing = np.ones(count.shape, bool)
        extreme = self.risen[0].copy()
        for risen in self.risen[1:]:
            turned = np.where(climbing, risen < extreme - PROMINENCE, risen > extreme + PROMINENCE)
            count += turned & climbing
            climbing ^= turned
            further = np.where(climbing, risen > extreme, risen < extreme)
            extreme = np.where(turned | further, risen, extreme)
        return count + climbing

    def deepest_dips(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Return the slices of the maxima before and after each block's deepest dip.

        With them, which blocks have a dip at all: deeper than `DIP` of the rise below
        the lower of the two maxima. Each (K,).
        """
        highest_before = np.maximum.accumulate(self.risen, axis=0)
        highest_after = np.maximum.accumulate(self.risen[::-1], axis=0)[::-1]
        depth = np.minimum(highest_before, highest_after) - self.risen
        bottom = depth.argmax(axis=0)
        is_before = np.arange(len(depth))[:, None] <= bottom
        before = np.where(is_before, self.risen, -1).argmax(axis=0)
        after = np.where(is_before, -1, self.risen).argmax(axis=0)
        return before, after, depth.max(axis=0) > DIP
