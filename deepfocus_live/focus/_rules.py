"""Rules: from the focus scores of a finished stack to what is in focus.

A rule is a plain function from scores (Z, By, Bx) to a `Decision`. It sees the
slices that arrived, in z order, and at least `MIN_SLICES` of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_SLICES", "Decision", "axial_rule", "nothing_in_focus", "stack_otsu_rule"]

MIN_SLICES = 3  # fewer have no slice with a neighbour on either side


@dataclass(frozen=True)
class Decision:
    """What a rule says of every block of every slice.

    Attributes
    ----------
    weak_label, undecided : (Z, By, Bx) bool
        In focus, and where the rule will not say; never both.
    threshold : float
        The score that a place had to pass, in the measure's unit; NaN where the
        rule was not asked.
    """

    weak_label: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    threshold: float


def axial_rule(
    scores: NDArray[np.float32], *, rise: float = 0.8, ends_undecided: bool = False
) -> Decision:
    """In focus where a place's score has risen most of the way to its own best.

    A place is in focus at z where its score is at least `rise` of the way from its
    own minimum to its own maximum over the stack, and that maximum is above
    Otsu's threshold (1979, doi:10.1109/TSMC.1979.4310076) over all places' maxima. It
    always finds a winner: on noise and on stacks that never come into focus too.

    Parameters
    ----------
    scores : (Z, By, Bx) float32
        Of one stack.
    rise : float
        0 to 1.
    ends_undecided : bool
        Whether places whose best slice is the first or the last are undecided
        where they would be in focus: their focus may lie beyond the stack.

    Returns
    -------
    Decision
    """
    lowest, highest = scores.min(axis=0), scores.max(axis=0)
    threshold = _otsu(highest)
    # A place that never changes has risen nowhere, however high its contrast.
    found = (highest > threshold) & (highest > lowest)
    risen = found & (scores >= lowest + np.float32(rise) * (highest - lowest))
    undecided = np.zeros_like(risen)
    if ends_undecided:
        best = scores.argmax(axis=0)
        undecided = risen & ((best == 0) | (best == len(scores) - 1))
    return Decision(risen & ~undecided, undecided, threshold)


def stack_otsu_rule(scores: NDArray[np.float32]) -> Decision:
    """In focus where the score is above one Otsu threshold for the whole stack.

    The paper's rule (doi:10.1038/s41598-023-38490-2). It finds contrast rather than
    focus: a dark blurred object is above the threshold (Otsu 1979,
    doi:10.1109/TSMC.1979.4310076) in every slice.

    Parameters
    ----------
    scores : (Z, By, Bx) float32
        Of one stack.

    Returns
    -------
    Decision
        Never undecided.
    """
    threshold = _otsu(scores)
    above = scores > threshold
    return Decision(above, np.zeros_like(above), threshold)


def nothing_in_focus(shape: tuple[int, int, int]) -> Decision:
    """Return the decision for a stack too short to compare slices, `shape` (Z, By, Bx)."""
    return Decision(np.zeros(shape, bool), np.zeros(shape, bool), float("nan"))


def _otsu(values: NDArray[np.float32]) -> float:
    """Return Otsu's threshold of `values`; their value where they are all the same."""
    from skimage import filters  # slow to import, needed once per stack

    otsu: Any = filters.threshold_otsu
    # Flat, because scikit-image warns of a colour image where the last axis is 3 or 4.
    return float(otsu(values.ravel().astype(np.float64)))
