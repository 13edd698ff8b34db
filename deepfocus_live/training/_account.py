"""What is written down of a training once it is judged: its report, and the model's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepfocus_live.focus import Conditions
from deepfocus_live.model import ModelVersion
from deepfocus_live.model.network import Architecture
from deepfocus_live.training._anchor import ANCHOR_VERSION, anchor_checksum
from deepfocus_live.training._device import TrainingDevice
from deepfocus_live.training._evaluate import JudgedSlice
from deepfocus_live.training._examples import LabelledStack
from deepfocus_live.training._fit import FitResult
from deepfocus_live.training._gate import Scores, Verdict
from deepfocus_live.training._judging import held_out_sources
from deepfocus_live.training._precision import Precision
from deepfocus_live.training._report import RetrainReport
from deepfocus_live.training._split import Parts

__all__ = ["BATCH", "CROP_PX", "REHEARSAL_SHARE", "Account", "Judged", "Settings", "Trained"]

_FINE_TUNING_RATE = 3e-4
_FROM_SCRATCH_RATE = 1e-3
BATCH = 8
CROP_PX = 256
REHEARSAL_SHARE = 0.25  # of the crops that show something


@dataclass(frozen=True)
class Settings:
    """How one call trains; as of `retrain`."""

    minutes: float
    profile: str
    preset: str
    conditions: Conditions | None
    from_scratch: Architecture | None = None
    activate: bool = False
    fresh: bool = False
    threads: int | None = None
    seed: int = 0
    memory_mb: int = 2100
    gpu_memory_mb: int | None = None
    nobody_asks: bool = False

    @property
    def learning_rate(self) -> float:
        """At the start."""
        return _FROM_SCRATCH_RATE if self.from_scratch else _FINE_TUNING_RATE

    def as_dict(self) -> dict[str, Any]:
        """Return what the result depends on, as plain values."""
        return {
            "minutes": self.minutes,
            "preset": self.preset,
            "seed": self.seed,
            "from_scratch": self.from_scratch is not None,
            "learning_rate": self.learning_rate,
            "batch": BATCH,
            "crop_px": CROP_PX,
            "rehearsal_share": REHEARSAL_SHARE,
            "anchor_version": ANCHOR_VERSION,
        }


@dataclass(frozen=True)
class Trained:
    """What the gate and the report need to know of the training."""

    result: FitResult
    device: TrainingDevice
    precision: Precision
    resumed_at: int | None


@dataclass(frozen=True)
class Judged:
    """What the gate measured and decided, and slices to show."""

    before: Scores
    after: Scores
    verdict: Verdict
    worst: Sequence[JudgedSlice]


@dataclass(frozen=True)
class Account:
    """All that is known of a training in the end."""

    settings: Settings
    parent: str | None
    reduction: int
    labelled: Sequence[LabelledStack]
    parts: Parts
    trained: Trained
    judged: Judged
    left_out: Sequence[str]
    notes: Sequence[str]
    seconds: Mapping[str, float]
    minutes: float

    @property
    def activates(self) -> bool:
        """Whether the new version becomes the current one."""
        return self.settings.activate and self.judged.verdict.passed

    def report(self, staged: ModelVersion) -> RetrainReport:
        """Return the report on a version that is about to be registered."""
        result, judged = self.trained.result, self.judged
        return RetrainReport(
            name=staged.name,
            path=staged.path,
            parent=self.parent,
            profile=self.settings.profile,
            iou_before=judged.before.held_out,
            iou_after=judged.after.held_out,
            truth="weak labels" if judged.after.by_hand is None else "hand-made masks",
            empty_share_before=judged.before.empty_share,
            empty_share_after=judged.after.empty_share,
            held_out=self.parts.words,
            steps=result.steps,
            best_step=result.best_step,
            best_blend=result.best_blend,
            minutes=self.minutes,
            passed=judged.verdict.passed,
            activated=self.activates,
            reason=_reason(judged.verdict, self.activates),
            precision=self.trained.precision.name,
            trained_on=self.trained.device.words,
            checks=judged.verdict.checks,
            stopped_early=result.stopped_early,
            resumed_at_step=self.trained.resumed_at,
            start_score=result.start_score,
            history=tuple(result.checkpoints),
            learnt_from=tuple(_described(stack) for stack in self.labelled),
            left_out=tuple(self.left_out),
            notes=tuple(self.notes),
            settings=self.settings.as_dict(),
            seconds={name: round(seconds, 2) for name, seconds in self.seconds.items()},
        )

    def card(self, report: RetrainReport) -> dict[str, Any]:
        """Return what the version's card says of its training."""
        verdict = self.judged.verdict
        return {
            "trained_on": [stack.name for stack in self.labelled],
            "held_out": held_out_sources([*self.parts.held, *self.parts.held_replay]),
            "settings": {
                **self.settings.as_dict(),
                "steps": report.steps,
                "best_step": report.best_step,
                "best_blend": report.best_blend,
                "precision": report.precision,
            },
            "metrics": {
                "held_out": report.held_out,
                "truth": report.truth,
                "iou_before": round(report.iou_before, 4),
                "iou_after": round(report.iou_after, 4),
                "empty_share_before": round(report.empty_share_before, 5),
                "empty_share_after": round(report.empty_share_after, 5),
                "gate": verdict.refusal or "passed",
                "checks": verdict.as_list(),
                "anchor": {
                    "version": ANCHOR_VERSION,
                    "checksum": anchor_checksum(self.reduction),
                },
            },
        }


def _described(stack: LabelledStack) -> str:
    """Return a stack's line in the report."""
    count = len(stack.slices)
    by_hand = 0 if stack.hand_made is None else int(stack.hand_made.sum())
    again = ", replayed" if stack.replay else ""
    if by_hand == 0:
        return f"{stack.name}: {count} slices, weak labels{again}"
    if by_hand == count:
        return f"{stack.name}: {count} slices, hand-made masks{again}"
    return (
        f"{stack.name}: {count} slices, hand-made masks of {by_hand}, weak labels of the "
        f"others{again}"
    )


def _reason(verdict: Verdict, activated: bool) -> str:
    if verdict.refusal is not None:
        return f"refused: {verdict.refusal}"
    return "passed the gate" if activated else "passed the gate; not asked to activate"
