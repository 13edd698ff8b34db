"""The gate that decides whether a retrained model may become the current one.

It must not be worse than its parent on data held out from this training, and must stay silent where
there is nothing. Agreement with weak labels alone would pass a network that agrees with wrong
labels; the empty fields are truth that no label made.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MAX_EMPTY_SHARE", "Scores", "refusal"]

MAX_EMPTY_SHARE = 0.01
"""Largest share of an empty field that may be called in focus."""


@dataclass(frozen=True)
class Scores:
    """What the gate looks at, measured on the exported model.

    Attributes
    ----------
    iou : float
        Intersection over union on the held-out stacks, 0..1.
    empty_share : float
        Largest share called in focus in any of the noise and empty fields, 0..1.
    """

    iou: float
    empty_share: float


def refusal(candidate: Scores, parent: Scores) -> str | None:
    """Return why the candidate may not become current, or None if it may."""
    reasons = []
    if candidate.iou < parent.iou:
        reasons.append(f"held-out IoU fell from {parent.iou:.4f} to {candidate.iou:.4f}")
    if candidate.empty_share > MAX_EMPTY_SHARE:
        reasons.append(
            f"{candidate.empty_share:.2%} of an empty field is called in focus "
            f"({MAX_EMPTY_SHARE:.0%} allowed)"
        )
    return "; ".join(reasons) or None
