"""What `retrain` tells while it works, and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from deepfocus_live.training._fit import Checkpoint
from deepfocus_live.training._gate import Check

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
        Of the last look at the network; None where it has not been looked at. The IoU is that on
        what was held out, less what was forgotten and what is seen in empty fields.
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
    truth : str
        What that IoU is measured against: "weak labels" or "hand-made masks".
    empty_share_before, empty_share_after : float
        Largest share called in focus in noise and empty fields, 0..1.
    held_out : str
        What was held out, in words.
    steps, best_step : int
        Training steps done, and after how many of them the weights were taken.
    best_blend : float
        How far these are on the way from the weights before to those of that step, 0..1.
    minutes : float
        Of the whole call, the time before a kill included.
    passed : bool
        Whether the gate let it through.
    activated : bool
        Whether it is now the profile's current model.
    reason : str
        Why it was or was not activated.
    precision : str
        How this machine trained.
    trained_on : str
        What it trained on, and where that is not a GPU, why.
    checks : tuple of Check
        What the gate asked, with the figures before and after.
    stopped_early : bool
        Whether it ended before its time, as nothing was gained any more.
    resumed_at_step : int or None
        Where a training that was killed was gone on with.
    start_score : float
        What the first point of `history` is compared with.
    history : tuple of Checkpoint
        Every look at the network while it learnt.
    learnt_from : tuple of str
        One line for each stack: its name and what its labels are.
    left_out : tuple of str
        One line for each stack that nothing was learned from: which, and why.
    notes : tuple of str
        What else a person should know, a line each.
    settings, seconds : mapping
        How it was taught, and where the time went.
    """

    name: str
    path: Path
    parent: str | None
    profile: str
    iou_before: float
    iou_after: float
    truth: str
    empty_share_before: float
    empty_share_after: float
    held_out: str
    steps: int
    best_step: int
    best_blend: float
    minutes: float
    passed: bool
    activated: bool
    reason: str
    precision: str
    trained_on: str
    checks: tuple[Check, ...] = ()
    stopped_early: bool = False
    resumed_at_step: int | None = None
    start_score: float = 0.0
    history: tuple[Checkpoint, ...] = ()
    learnt_from: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The report to be read in a browser; beside it lies `report.json`."""
        return self.path / "report.html"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        shallow: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        shallow["path"], shallow["report"] = str(self.path), str(self.page)
        shallow["checks"] = [{**asdict(check), "change": check.change} for check in self.checks]
        shallow["history"] = [asdict(checkpoint) for checkpoint in self.history]
        shallow["settings"], shallow["seconds"] = dict(self.settings), dict(self.seconds)
        return shallow
