"""How far an overall figure would move with other slices of the same kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.evaluation._overlap import Overlap

__all__ = ["bootstrap_interval"]

_ROUNDS = 2000


def bootstrap_interval(
    overlaps: Sequence[Overlap], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of the pooled IoU and F1, by percentile bootstrap over slices.

    Slices are drawn anew 2000 times [Efron1979]_. Neighbouring slices are alike, so that the
    intervals are rather too narrow; of specimens that were not compared they say nothing.

    Parameters
    ----------
    overlaps : sequence of Overlap
        One per slice.
    seed : int
        The same seed gives the same intervals.

    Returns
    -------
    dict
        ``iou`` and ``f1``, each (low, high), 0..1; NaN with fewer than two slices.

    References
    ----------
    .. [Efron1979] Efron (1979), doi:10.1214/aos/1176344552.

    Examples
    --------
    >>> from deepfocus_live.evaluation import Overlap, bootstrap_interval
    >>> slices = [Overlap(hits=70 + n, misses=30 - n) for n in range(0, 21, 2)]
    >>> sum(slices, Overlap()).iou
    0.8
    >>> low, high = bootstrap_interval(slices)["iou"]
    >>> 0.7 < low < 0.8 < high < 0.9
    True
    """
    counts = np.array([(o.hits, o.false_alarms + o.misses) for o in overlaps], dtype=np.float64)
    n_slices = len(counts)
    if n_slices < 2:
        return {"iou": (np.nan, np.nan), "f1": (np.nan, np.nan)}
    random = np.random.default_rng(seed)
    # How often each slice is drawn is all that matters of a round.
    drawn = random.multinomial(n_slices, np.full(n_slices, 1 / n_slices), size=_ROUNDS)
    hits, wrong = (drawn @ counts).T
    both_empty = hits + wrong == 0
    whole = np.where(both_empty, 1.0, hits + wrong)
    ious = np.where(both_empty, 1.0, hits / whole)
    return {"iou": _middle(ious), "f1": _middle(2 * ious / (1 + ious))}


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
