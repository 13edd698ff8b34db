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
LEAST_CONTRAST = 1.12
"""Noise and specimens without depth stay below 1.06 by every preset, simulated specimens above 1.2
by those that label through z."""


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
    """Return how far the focus score of a place rises above its own median over z.

    Parameters
    ----------
    scores : (Z, By, Bx) float, >= 0
    weak_label : (Z, By, Bx) bool
        What the rule says is in focus.

    Returns
    -------
    float or None
        Largest score over median score, the median over the places that are in focus in any
        slice; >= 1, about 1 where nothing changes through focus. None where nothing is in focus.
    """
    places = weak_label.any(axis=0)
    if not places.any():
        return None
    curves = scores[:, places].astype(np.float64)
    usual = np.maximum(np.median(curves, axis=0), np.finfo(np.float64).tiny ** 0.5)
    return float(np.median(curves.max(axis=0) / usual))


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
            f"focus scores hardly change over z (× {facts.contrast:.2f}, less than "
            f"× {LEAST_CONTRAST:g})"
        )
    return None
