"""Whether a stack's weak labels may be learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEAST_CONTRAST",
    "LEAST_DECIDED",
    "LEAST_IN_FOCUS",
    "LEAST_SLICES",
    "MOST_IN_FOCUS",
    "StackFacts",
    "contrast_over_z",
    "why_not_learn",
]

LEAST_SLICES = 3
LEAST_DECIDED = 0.25
LEAST_IN_FOCUS = 0.0005
MOST_IN_FOCUS = 0.6
LEAST_CONTRAST = 1.08
"""Noise and specimens without depth stay below 1.05 by every preset, labels of the wrong slices at
1; simulated specimens lie above 1.1 by the presets that label through z, where z-steps are not much
smaller than the depth of field."""


@dataclass(frozen=True)
class StackFacts:
    """What the rule found in one stack.

    Attributes
    ----------
    slices : int
    decided : float
        Share of the pixels where the rule decides, 0..1.
    in_focus : float
        Share of these that is in focus, 0..1.
    trainable : bool
        The rule's own word: False where the specimen drifts sideways.
    contrast : float or None
        See `contrast_over_z`; None: not known.
    """

    slices: int
    decided: float
    in_focus: float
    trainable: bool = True
    contrast: float | None = None


def contrast_over_z(scores: NDArray[np.floating], weak_label: NDArray[np.bool_]) -> float | None:
    """Return how far the focus score, where it is called in focus, is above its place's median.

    Parameters
    ----------
    scores : (Z, By, Bx) float, >= 0
    weak_label : (Z, By, Bx) bool
        What the rule says is in focus.

    Returns
    -------
    float or None
        Score over the median over z of the same place, the median over all that is called in
        focus; about 1 where nothing changes through focus, and not above it where the labels are
        not those of the sharper slices. None where nothing is in focus.
    """
    if not weak_label.any():
        return None
    usual = np.median(scores, axis=0).astype(np.float64)
    usual = np.maximum(usual, np.finfo(np.float64).tiny ** 0.5)
    _, rows, columns = np.nonzero(weak_label)
    return float(np.median(scores[weak_label].astype(np.float64) / usual[rows, columns]))


def why_not_learn(facts: StackFacts) -> str | None:
    """Return in a line why nothing may be learnt from a stack; None if it may."""
    if facts.slices < LEAST_SLICES:
        return f"{facts.slices} slices are too few to compare"
    if not facts.trainable:
        return "the specimen moves sideways during the scan"
    if facts.decided < LEAST_DECIDED:
        return f"the rule decides on {facts.decided:.0%} of it only, less than {LEAST_DECIDED:.0%}"
    if facts.in_focus < LEAST_IN_FOCUS:
        return "the rule finds next to nothing in focus"
    if facts.in_focus > MOST_IN_FOCUS:
        return f"the rule calls {facts.in_focus:.0%} of it in focus, more than {MOST_IN_FOCUS:.0%}"
    if facts.contrast is not None and facts.contrast < LEAST_CONTRAST:
        return (
            f"focus scores hardly change over z (× {facts.contrast:.2f} in focus, less than "
            f"× {LEAST_CONTRAST:g})"
        )
    return None
