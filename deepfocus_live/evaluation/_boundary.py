"""Whether two masks have their outlines in the same places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.evaluation._overlap import ratio

__all__ = ["BoundaryMatch", "match_boundaries"]

_SLACK_PX = 1e-6  # distances of pixels are roots of whole numbers: none lies that close to another


@dataclass(frozen=True)
class BoundaryMatch:
    """How many boundary pixels have one of the other mask's within the tolerance.

    Matches add up, like overlaps.

    Attributes
    ----------
    called, wanted : int
        Boundary pixels of either mask that are judged.
    called_near, wanted_near : int
        Those of them that have one of the other mask's near.
    """

    called_near: int = 0
    called: int = 0
    wanted_near: int = 0
    wanted: int = 0

    def __add__(self, other: BoundaryMatch) -> BoundaryMatch:
        return BoundaryMatch(
            self.called_near + other.called_near,
            self.called + other.called,
            self.wanted_near + other.wanted_near,
            self.wanted + other.wanted,
        )

    @property
    def f1(self) -> float:
        """Boundary F1, 0..1; 0 where one mask has no boundary, NaN where neither has."""
        if not self.called or not self.wanted:
            return 0.0 if self.called or self.wanted else math.nan
        precision, recall = self.called_near / self.called, self.wanted_near / self.wanted
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    @property
    def precision(self) -> float:
        """Share of the called boundary near the wanted one, 0..1; NaN where none is called."""
        return ratio(self.called_near, self.called)

    @property
    def recall(self) -> float:
        """Share of the wanted boundary near the called one, 0..1; NaN where none is wanted."""
        return ratio(self.wanted_near, self.wanted)


def match_boundaries(
    called: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
    *,
    tolerance_px: float = 4.0,
) -> BoundaryMatch:
    """Match the boundaries of two masks of one slice.

    A mask's boundary is those of its pixels that have a pixel above, below, left or right that
    is not in the mask; the edge of the slice is no boundary. A boundary pixel is matched when
    the other mask has one within the tolerance. The F1 of the shares matched is that of
    [Csurka2013]_, as used on whole outlines in [Perazzi2016]_; here the matches of several slices
    can be pooled, and where neither mask has a boundary there is nothing to score (there: 1).

    Parameters
    ----------
    called, wanted : (Y, X) bool
        What a mask calls in focus, and what is.
    known : (Y, X) bool or None
        Where both say anything; None is everywhere. The true boundary may lie anywhere in the
        rest, so boundary pixels within the tolerance of it are not judged.
    tolerance_px : float
        Euclidean, at least 0.

    Returns
    -------
    BoundaryMatch

    References
    ----------
    .. [Csurka2013] Csurka et al. (2013), "What is a good evaluation measure for semantic
       segmentation?", BMVC, doi:10.5244/C.27.32.
    .. [Perazzi2016] Perazzi et al. (2016), "A benchmark dataset and evaluation methodology for
       video object segmentation", CVPR, doi:10.1109/CVPR.2016.85.
    """
    outlines = [np.argwhere(_boundary(mask)) for mask in (called, wanted)]
    judged = outlines
    if known is not None and not known.all():
        # The outermost pixels of the rest are nearer than those inside it. Beside it a mask seems
        # to end: that is no boundary, however small the tolerance.
        rest, reach_px = np.argwhere(_boundary(~known)), max(tolerance_px, 1.0)
        judged = [
            pixels[known[tuple(pixels.T)] & _far(pixels, rest, reach_px)] for pixels in outlines
        ]
    near = [
        int(np.count_nonzero(~_far(pixels, others, tolerance_px)))
        for pixels, others in zip(judged, reversed(outlines), strict=True)
    ]
    return BoundaryMatch(near[0], len(judged[0]), near[1], len(judged[1]))


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that have a neighbour outside it."""
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    return mask & ~inside


def _far(
    pixels: NDArray[np.intp], others: NDArray[np.intp], tolerance_px: float
) -> NDArray[np.bool_]:
    """Return which pixels (N, 2) have none of the others within the tolerance."""
    # Boundaries are few among a slice's pixels: a tree of them answers in a tenth of the time
    # of a distance transform, with the same distances.
    from scipy.spatial import KDTree  # slow to import

    if not len(pixels) or not len(others):
        return np.ones(len(pixels), dtype=bool)
    nearest, _ = KDTree(others).query(pixels, distance_upper_bound=tolerance_px + _SLACK_PX)
    far: NDArray[np.bool_] = np.isinf(nearest)
    return far
