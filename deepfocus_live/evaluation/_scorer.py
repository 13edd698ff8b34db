"""Masks against a truth, slice after slice, and all slices together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.evaluation._bootstrap import bootstrap_interval
from deepfocus_live.evaluation._boundary import BoundaryMatch, match_boundaries
from deepfocus_live.evaluation._depth import DepthErrors, FocusDepth
from deepfocus_live.evaluation._overlap import Overlap, count_overlap

__all__ = ["FIGURES", "UNDECIDED", "Comparison", "Scorer", "SliceScore", "pooled"]

UNDECIDED = 2
"""The value of pixels that a mask does not judge."""

FIGURES: tuple[str, ...] = (
    "iou",
    "f1",
    "precision",
    "recall",
    "boundary_f1",
    "false_area",
    "wrong_share",
    "called_share",
    "truth_share",
    "decided_share",
    "kappa",
)
"""What `SliceScore.figures` and `Comparison.figures` hold, in order."""


def _figures(overlap: Overlap, boundary: BoundaryMatch) -> dict[str, float]:
    return {
        name: boundary.f1 if name == "boundary_f1" else float(getattr(overlap, name))
        for name in FIGURES
    }


@dataclass(frozen=True)
class SliceScore:
    """One slice's mask against its truth.

    Attributes
    ----------
    z : int
        The slice's number, as it was added.
    overlap : Overlap
        Of its pixels.
    boundary : BoundaryMatch
        Of its outlines.
    """

    z: int
    overlap: Overlap
    boundary: BoundaryMatch

    @property
    def figures(self) -> dict[str, float]:
        """Ratios by the names in `FIGURES`, in that order; NaN where one is not defined."""
        return _figures(self.overlap, self.boundary)


@dataclass(frozen=True)
class Comparison:
    """Masks against a truth.

    Attributes
    ----------
    slices : tuple of SliceScore
        In the order in which they were added; those that were not judged are not among them.
    depth : DepthErrors
        How far off in z what is in focus is found, in slices.
    """

    slices: tuple[SliceScore, ...] = ()
    depth: DepthErrors = field(default_factory=DepthErrors)

    @property
    def overlap(self) -> Overlap:
        """Of all slices pooled."""
        return sum((score.overlap for score in self.slices), Overlap())

    @property
    def figures(self) -> dict[str, float]:
        """As of a slice, for all slices pooled; pixels are counted, slices are not averaged."""
        boundary = sum((score.boundary for score in self.slices), BoundaryMatch())
        return _figures(self.overlap, boundary)

    def intervals(self, *, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Return the 95 % intervals of ``iou`` and ``f1``, see `bootstrap_interval`."""
        return bootstrap_interval([score.overlap for score in self.slices], seed=seed)

    def worst(self, count: int) -> list[SliceScore]:
        """Return the slices with most pixels wrong, worst first: at most `count`, all with some.

        Not those of the lowest IoU: a few stray pixels in a slice with nothing in focus make
        that 0.
        """
        wrong = [score for score in self.slices if score.overlap.wrong_share > 0]
        return sorted(wrong, key=lambda score: -score.overlap.wrong_share)[:count]


def pooled(comparisons: Iterable[Comparison]) -> Comparison:
    """Return several stacks' comparisons as one; `z` in it is each slice's own."""
    every = list(comparisons)
    return Comparison(
        tuple(score for comparison in every for score in comparison.slices),
        sum((comparison.depth for comparison in every), DepthErrors()),
    )


class Scorer:
    """Compares the masks of one stack with its truth, one slice at a time.

    Parameters
    ----------
    shape_yx : (int, int)
        Of a slice.
    tolerance_px : float
        How far apart boundaries may lie and still match, >= 0; see `match_boundaries`.

    Examples
    --------
    >>> import numpy as np
    >>> from deepfocus_live.evaluation import Scorer
    >>> truth = np.array([[1, 1, 0, 0], [1, 1, 0, 2]], np.uint8)  # 2: undecided
    >>> mask = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], np.uint8)
    >>> scorer = Scorer((2, 4))
    >>> scorer.add(0, mask, truth).figures["iou"]
    0.8
    >>> _ = scorer.add(1, np.zeros_like(mask), np.zeros_like(mask))
    >>> comparison = scorer.finish()
    >>> round(comparison.figures["truth_share"], 3), comparison.overlap.undecided
    (0.267, 1)
    """

    def __init__(self, shape_yx: Sequence[int], *, tolerance_px: float = 4.0) -> None:
        height, width = shape_yx
        self._shape_yx = height, width
        self._tolerance_px = tolerance_px
        self._slices: list[SliceScore] = []
        self._depth = FocusDepth(self._shape_yx)

    def add(self, z: int, mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> SliceScore:
        """Add a slice that both judge.

        Parameters
        ----------
        z : int
            Its number; the focus error is a difference of these.
        mask, truth : (Y, X) uint8
            0 not in focus, 1 in focus, `UNDECIDED`. What either leaves undecided counts nowhere.

        Returns
        -------
        SliceScore

        Raises
        ------
        ValueError
            If one is not of the size that the scorer was made for.
        """
        for states in (mask, truth):
            if states.shape != self._shape_yx:
                raise ValueError(f"slice {z} is {states.shape}, the stack {self._shape_yx}")
        known = (mask != UNDECIDED) & (truth != UNDECIDED)
        called, wanted = mask == 1, truth == 1
        score = SliceScore(
            z,
            count_overlap(called, wanted, known),
            match_boundaries(called, wanted, known, tolerance_px=self._tolerance_px),
        )
        self._slices.append(score)
        self._depth.add(z, called & known, wanted & known)
        return score

    def finish(self) -> Comparison:
        """Return what was found so far."""
        return Comparison(tuple(self._slices), self._depth.errors())
