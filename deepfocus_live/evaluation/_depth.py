"""How far off in z masks find what is in focus."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["DepthErrors", "FocusDepth"]


def _none() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True)
class DepthErrors:
    """Differences in depth, called minus true, as a table of values and how often each is found.

    Means over a few slices take few values, so that millions of pixel columns make a short table,
    and percentiles are those of all columns.

    Attributes
    ----------
    values : (N,) float64, ascending
        In slices, or in µm after `scaled`.
    counts : (N,) int64
        Pixel columns with that difference.
    """

    values: NDArray[np.float64] = field(default_factory=_none)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __add__(self, other: DepthErrors) -> DepthErrors:
        return _table(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.counts, other.counts]),
        )

    def scaled(self, z_step_um: float) -> DepthErrors:
        """Return the same in µm."""
        return DepthErrors(self.values * z_step_um, self.counts)

    @property
    def columns(self) -> int:
        """Pixel columns that both call in focus somewhere."""
        return int(self.counts.sum())

    @property
    def median(self) -> float:
        """Median absolute difference; NaN without columns."""
        return self._percentile(50)

    @property
    def p95(self) -> float:
        """95th percentile of the absolute difference; NaN without columns."""
        return self._percentile(95)

    @property
    def bias(self) -> float:
        """Mean difference, positive where masks find focus at higher z; NaN without columns."""
        if not self.columns:
            return math.nan
        return float(np.average(self.values, weights=self.counts))

    def _percentile(self, percent: float) -> float:
        if not self.columns:
            return math.nan
        # The smallest difference that so many columns do not exceed: one that really occurs.
        found = np.percentile(
            np.abs(self.values), percent, weights=self.counts, method="inverted_cdf"
        )
        return float(found)


def _table(values: NDArray[np.float64], counts: NDArray[np.int64]) -> DepthErrors:
    distinct, where = np.unique(values, return_inverse=True)
    # Not `bincount` with weights, which would count in floats.
    summed = np.zeros(len(distinct), np.int64)
    np.add.at(summed, where, counts)
    return DepthErrors(distinct, summed)


class FocusDepth:
    """The mean z at which each pixel column is in focus, by two masks, slice after slice.

    Keeps four maps of the slices' size, however many slices there are.

    Parameters
    ----------
    shape_yx : (int, int)
        Of a slice.
    """

    def __init__(self, shape_yx: tuple[int, int]) -> None:
        self._sums = np.zeros((2, *shape_yx), np.int32)  # enough for 65 000 slices
        self._counts = np.zeros((2, *shape_yx), np.int32)

    def add(self, z: int, called: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> None:
        """Add a slice's masks, (Y, X), without what is undecided."""
        for number, mask in enumerate((called, wanted)):
            np.add(self._sums[number], z, out=self._sums[number], where=mask)
            np.add(self._counts[number], 1, out=self._counts[number], where=mask)

    def errors(self) -> DepthErrors:
        """Return called minus true mean z, in slices, of the columns that both call in focus."""
        both = (self._counts > 0).all(axis=0)
        called, wanted = self._sums[:, both] / self._counts[:, both]
        # Rounded, so that a third is the same third whichever means it came from.
        differences = np.round(called - wanted, 9)
        return _table(differences, np.ones(len(differences), np.int64))
