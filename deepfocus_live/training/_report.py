"""What `retrain` tells while it works, and when it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Progress", "RetrainReport"]


@dataclass(frozen=True)
class Progress:
    """One message on the way.

    Attributes
    ----------
    stage : str
        "label", "train" or "export".
    done : float
        Share of the whole call that is done, 0..1.
    step : int
        Training steps so far.
    loss, iou : float or None
        Of the last look at the network; None where it has not been looked at.
    message : str
        For people.
    """

    stage: str
    done: float
    message: str
    step: int = 0
    loss: float | None = None
    iou: float | None = None


@dataclass(frozen=True)
class RetrainReport:
    """What retraining did.

    Attributes
    ----------
    name : str
        Of the new version.
    path : path
        Its folder in the registry.
    parent : str or None
        The version it was started from; None: from random weights.
    profile : str
    iou_before, iou_after : float
        On the held-out data, by the exported models, 0..1. Before: the parent's, or the profile's
        current model's where training started from random weights.
    empty_share_before, empty_share_after : float
        Largest share called in focus in noise and empty fields, 0..1.
    held_out : str
        What was held out, in words.
    steps : int
    minutes : float
        Of the whole call.
    passed : bool
        Whether the gate let it through.
    activated : bool
        Whether it is now the profile's current model.
    reason : str
        Why it was or was not activated.
    precision : str
        How this machine trained.
    left_out : tuple of str
        One line for each stack that nothing was learned from: which, and why.
    """

    name: str
    path: Path
    parent: str | None
    profile: str
    iou_before: float
    iou_after: float
    empty_share_before: float
    empty_share_after: float
    held_out: str
    steps: int
    minutes: float
    passed: bool
    activated: bool
    reason: str
    precision: str
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}
