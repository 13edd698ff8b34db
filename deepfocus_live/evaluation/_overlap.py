"""Pixels that two masks share, and every ratio that follows from their counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Overlap", "count_overlap", "iou", "ratio"]


def ratio(part: float, whole: float) -> float:
    """Return part / whole, NaN where there is no whole."""
    return part / whole if whole else math.nan


@dataclass(frozen=True)
class Overlap:
    """How many decided pixels were called in focus, and how many are.

    Overlaps add up: the sum's ratios are those of all pixels pooled.

    Attributes
    ----------
    hits : int
        Called in focus, and in focus.
    false_alarms : int
        Called in focus, but not in focus.
    misses : int
        In focus, but not called so.
    rejections : int
        Neither.
    undecided : int
        Pixels that count nowhere: the truth, or the mask itself, does not say.

    Examples
    --------
    Two slices pooled; in the second nothing is in focus, nor called so:

    >>> from deepfocus_live.evaluation import Overlap
    >>> both = Overlap(hits=60, misses=20, rejections=20) + Overlap(rejections=100)
    >>> both.iou, both.recall, both.truth_share
    (0.75, 0.75, 0.4)
    """

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    rejections: int = 0
    undecided: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.hits + other.hits,
            self.false_alarms + other.false_alarms,
            self.misses + other.misses,
            self.rejections + other.rejections,
            self.undecided + other.undecided,
        )

    @property
    def decided(self) -> int:
        """Pixels that count."""
        return self.hits + self.false_alarms + self.misses + self.rejections

    @property
    def precision(self) -> float:
        """Share of what is called in focus that is, 0..1; NaN where nothing is called."""
        return ratio(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        """Share of what is in focus that is called so, 0..1; NaN where nothing is."""
        return ratio(self.hits, self.hits + self.misses)

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; 1 where both are empty, NaN where nothing is decided."""
        return self._agreement(self.hits + self.false_alarms + self.misses, self.hits)

    @property
    def f1(self) -> float:
        """F1 (Dice), 0..1; 1 where both are empty, NaN where nothing is decided."""
        return self._agreement(2 * self.hits + self.false_alarms + self.misses, 2 * self.hits)

    def _agreement(self, whole: int, part: int) -> float:
        if whole == 0 and self.decided:
            return 1.0
        return ratio(part, whole)

    @property
    def false_area(self) -> float:
        """Share of what is not in focus that is called so, 0..1; NaN where everything is."""
        return ratio(self.false_alarms, self.false_alarms + self.rejections)

    @property
    def wrong_share(self) -> float:
        """Share of the decided pixels that the two disagree about, 0..1; NaN where none is."""
        return ratio(self.false_alarms + self.misses, self.decided)

    @property
    def called_share(self) -> float:
        """Share of the decided pixels that is called in focus, 0..1; NaN where none is."""
        return ratio(self.hits + self.false_alarms, self.decided)

    @property
    def truth_share(self) -> float:
        """Share of the decided pixels that is in focus, 0..1; NaN where none is."""
        return ratio(self.hits + self.misses, self.decided)

    @property
    def decided_share(self) -> float:
        """Share of all pixels that count, 0..1; NaN where there are no pixels."""
        return ratio(self.decided, self.decided + self.undecided)

    @property
    def kappa(self) -> float:
        """Agreement beyond what chance would give, at most 1; Cohen's kappa.

        NaN where chance alone gives full agreement (both empty, or both everything) and where
        nothing is decided. Cohen (1960), doi:10.1177/001316446002000104.
        """
        called, wanted = self.called_share, self.truth_share
        by_chance = called * wanted + (1 - called) * (1 - wanted)
        return ratio(1 - self.wrong_share - by_chance, 1 - by_chance)


def count_overlap(
    called: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> Overlap:
    """Count the pixels that two masks agree and disagree about.

    Parameters
    ----------
    called, wanted : bool, one shape
        What a mask calls in focus, and what is.
    known : bool of that shape, or None
        Where both say anything; None is everywhere. The rest is counted as undecided.

    Returns
    -------
    Overlap

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    for mask in (wanted, known):
        if mask is not None and mask.shape != called.shape:
            raise ValueError(f"masks have shapes {called.shape} and {mask.shape}: give one shape")
    if known is not None:
        called, wanted = called & known, wanted & known
    n_known = int(called.size if known is None else np.count_nonzero(known))
    hits = int(np.count_nonzero(called & wanted))
    false_alarms = int(np.count_nonzero(called)) - hits
    misses = int(np.count_nonzero(wanted)) - hits
    return Overlap(
        hits,
        false_alarms,
        misses,
        n_known - hits - false_alarms - misses,
        called.size - n_known,
    )


def iou(
    called: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> float:
    """Return the intersection over union of two masks.

    Parameters
    ----------
    called, wanted : bool, one shape
        What a mask calls in focus, and what is.
    known : bool of that shape, or None
        Where `wanted` says anything; None is everywhere. The rest counts nowhere.

    Returns
    -------
    float
        0..1; 1 where both are empty, NaN where nothing is known.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from deepfocus_live.evaluation import iou
    >>> called = np.array([[True, True, False, False]])
    >>> wanted = np.array([[True, False, True, False]])
    >>> round(iou(called, wanted), 3)
    0.333
    >>> iou(called, wanted, known=np.array([[True, True, False, False]]))
    0.5
    """
    return count_overlap(called, wanted, known).iou
