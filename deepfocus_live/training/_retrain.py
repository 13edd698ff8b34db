"""Fine-tuning on the user's own stacks: label, learn, export, gate, register."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepfocus_live.errors import InputError
from deepfocus_live.focus import DEFAULT_PRESET, Conditions
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import ModelVersion, Registry, seal
from deepfocus_live.model.export import export_onnx
from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.model.weights import load_network
from deepfocus_live.stacks import open_stacks
from deepfocus_live.training._batches import BatchMaker
from deepfocus_live.training._evaluate import empty_share, held_out_slices, model_iou, network_iou
from deepfocus_live.training._examples import LabelledStack, SliceStack, split, with_weak_labels
from deepfocus_live.training._fit import Checkpoint, FitResult, fit
from deepfocus_live.training._gate import Scores, refusal
from deepfocus_live.training._package import write_model
from deepfocus_live.training._precision import Precision, fastest_precision
from deepfocus_live.training._report import Progress, RetrainReport

__all__ = ["retrain"]

_FINE_TUNING_RATE = 1e-4
_FROM_SCRATCH_RATE = 1e-3
_EXPORT_SLACK_S = 0.5  # files, checksums and the registry, beside what is measured


def _ignore(_: Progress) -> None:
    """Tell nobody."""


def retrain(
    stacks: Sequence[SliceStack | Path | str],
    *,
    registry: Registry,
    minutes: float,
    profile: str = "default",
    preset: str = DEFAULT_PRESET,
    conditions: Conditions | None = None,
    start_from: ModelVersion | None = None,
    from_scratch: bool = False,
    activate: bool = False,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] = _ignore,
) -> RetrainReport:
    """Teach the network a kind of specimen from unannotated stacks, and register what came of it.

    Labels every stack by rule, holds some out, trains for what is left of `minutes`, exports the
    best weights, compares them with the parent's through the gate, and adds the new version to the
    registry whether it passed or not. Blocking; meant for a process of its own, and works with
    `spawn`.

    Parameters
    ----------
    stacks : sequence of stacks or paths
        Opened stacks, or whatever `deepfocus_live.stacks.open_stacks` opens.
    registry : Registry
    minutes : float
        Of the whole call, > 0; kept within a tenth.
    profile : str
        Whose current model is replaced.
    preset : str
        How stacks are labelled.
    conditions : Conditions, optional
        How they were imaged; what a stack itself says of its calibration goes before.
    start_from : ModelVersion, optional
        By default the profile's current model.
    from_scratch : bool
        Start from random weights; `start_from`, or the current model, is then only compared with.
    activate : bool
        Make the new version current if it passes the gate.
    threads : int, optional
        CPU threads for training; by default torch's choice.
    seed : int
    progress : callable
        Called from time to time with a `Progress`.

    Returns
    -------
    RetrainReport

    Raises
    ------
    InputError
        If no stack can be opened or learnt from, the specimen drifts sideways in all of them,
        nothing is in focus anywhere, `minutes` is too short for a single step, or the parent's
        weights cannot be used. Nothing is registered then.
    """
    if not minutes > 0:
        raise InputError(f"minutes is {minutes}; it must be above 0")
    settings = _Settings(
        minutes, profile, preset, conditions, from_scratch, activate, threads, seed
    )
    parent = start_from or registry.current(profile)
    with tempfile.TemporaryDirectory(prefix="deepfocus-retrain-") as folder:
        return _Retraining(settings, registry, parent, Path(folder), progress).run(stacks)


@dataclass(frozen=True)
class _Settings:
    minutes: float
    profile: str
    preset: str
    conditions: Conditions | None
    from_scratch: bool
    activate: bool
    threads: int | None
    seed: int


class _Retraining:
    """One call of `retrain`, with its clock running from the start."""

    def __init__(
        self,
        settings: _Settings,
        registry: Registry,
        parent: ModelVersion,
        folder: Path,
        progress: Callable[[Progress], None],
    ) -> None:
        self._began = time.monotonic()
        self._settings = settings
        self._registry = registry
        self._parent = parent
        self._folder = folder
        self._progress = progress
        self._left_out: list[str] = []
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self._network = self._starting_network()

    def run(self, stacks: Sequence[SliceStack | Path | str]) -> RetrainReport:
        """Do it all, in order."""
        if self._parent.fallback_reason is not None:
            self._tell("label", self._parent.fallback_reason)
        labelled = self._label(stacks)
        learn, held, words = split(labelled)
        self._examples = held_out_slices(held)
        measured = time.monotonic()
        before = self._scores(self._parent)
        template = self._make_template()
        reserve_s = 1.3 * (time.monotonic() - measured) + _EXPORT_SLACK_S
        precision = fastest_precision(self._network)
        result = self._learn(learn, precision, reserve_s)
        staged, after = self._export(template, self._card(labelled, result, precision))
        return self._register(staged, before, after, result, precision, words)

    def _starting_network(self) -> FocusNetwork:
        if self._settings.from_scratch:
            return FocusNetwork(Architecture())
        return load_network(self._parent)

    def _label(self, stacks: Sequence[SliceStack | Path | str]) -> list[LabelledStack]:
        settings, reduction = self._settings, self._network.architecture.reduction
        labelled = []
        with contextlib.ExitStack() as files:
            for stack in _opened(stacks, files):
                self._tell("label", f"labelling {stack.name}")
                one = with_weak_labels(
                    stack,
                    preset=settings.preset,
                    reduction=reduction,
                    conditions=self._conditions_of(stack),
                )
                if one.trainable:
                    labelled.append(one)
                else:
                    self._leave_out(one.name)
        if not labelled and self._left_out:
            raise InputError(f"no stack is left to learn from: {'; '.join(self._left_out)}")
        if not labelled:
            raise InputError("no stack was given to learn from")
        return labelled

    def _conditions_of(self, stack: SliceStack) -> Conditions | None:
        """Return the conditions, without a flat field that is not of this stack's size."""
        conditions = self._settings.conditions
        flat = None if conditions is None else conditions.flat_field
        if conditions is None or flat is None or flat.shape == stack.shape[1:]:
            return conditions
        self._tell("label", f"{stack.name} has another size than the flat field: done without it")
        return replace(conditions, flat_field=None)

    def _leave_out(self, name: str) -> None:
        line = f"{name} is left out: the specimen moves sideways during the scan"
        self._left_out.append(line)
        self._tell("label", line)

    def _make_template(self) -> Path:
        """Return a graph for the export at the end; it is traced now if the parent's differs.

        Also shows what the export at the end will take, which the deadline has to leave room for.
        """
        template = self._folder / "template.onnx"
        export_onnx(self._network, template, name="template", template=self._parent.onnx)
        return template

    def _learn(
        self, learn: list[LabelledStack], precision: Precision, reserve_s: float
    ) -> FitResult:
        settings = self._settings
        precision.prepare(self._network)
        result = fit(
            self._network,
            BatchMaker(learn, seed=settings.seed),
            judge=lambda network: network_iou(network, self._examples),
            learning_rate=_FROM_SCRATCH_RATE if settings.from_scratch else _FINE_TUNING_RATE,
            precision=precision,
            deadline=self._began + 60.0 * settings.minutes - reserve_s,
            on_checkpoint=self._tell_checkpoint,
        )
        if result.steps == 0:
            raise InputError(
                f"{settings.minutes:g} minutes are too short: labelling and judging took "
                f"{time.monotonic() - self._began:.0f} s and left no time to learn; give more"
            )
        return result

    def _card(
        self, labelled: list[LabelledStack], result: FitResult, precision: Precision
    ) -> dict[str, Any]:
        settings = self._settings
        return {
            "parent": self._parent_name,
            "profile": settings.profile,
            "trained_on": [stack.name for stack in labelled],
            "settings": {
                "preset": settings.preset,
                "minutes": settings.minutes,
                "seed": settings.seed,
                "steps": result.steps,
                "best_step": result.best_step,
                "precision": precision.name,
            },
        }

    def _export(self, template: Path, card: dict[str, Any]) -> tuple[ModelVersion, Scores]:
        self._tell("export", "exporting and judging")
        now = datetime.datetime.now(datetime.UTC)
        name = self._registry.free_name(f"{self._settings.profile}-{now:%Y%m%d-%H%M%S}")
        real_slice = self._examples[len(self._examples) // 2][0].astype(np.uint16)
        staged = write_model(
            self._folder / name,
            self._network,
            name=name,
            card=card,
            template=template,
            slices=real_slice[np.newaxis],
        )
        return staged, self._scores(staged)

    def _scores(self, version: ModelVersion) -> Scores:
        # What runs beside the microscope is the exported graph, not torch: so that is judged.
        model = InFocusModel.load(version, provider="cpu", threads=self._settings.threads)
        return Scores(model_iou(model, self._examples), empty_share(model))

    def _register(
        self,
        staged: ModelVersion,
        before: Scores,
        after: Scores,
        result: FitResult,
        precision: Precision,
        words: str,
    ) -> RetrainReport:
        settings, refused = self._settings, refusal(after, before)
        metrics = {
            "held_out": words,
            "iou_before": round(before.iou, 4),
            "iou_after": round(after.iou, 4),
            "empty_share_before": round(before.empty_share, 5),
            "empty_share_after": round(after.empty_share, 5),
            "gate": refused or "passed",
        }
        seal(staged.path, {**staged.card, "metrics": metrics})
        version = self._registry.add(staged.path)
        activated = settings.activate and refused is None
        if activated:
            self._registry.use(version.name, settings.profile)
        return RetrainReport(
            name=version.name,
            path=version.path,
            parent=self._parent_name,
            profile=settings.profile,
            iou_before=before.iou,
            iou_after=after.iou,
            empty_share_before=before.empty_share,
            empty_share_after=after.empty_share,
            held_out=words,
            steps=result.steps,
            minutes=(time.monotonic() - self._began) / 60.0,
            passed=refused is None,
            activated=activated,
            reason=_reason(refused, activated),
            precision=precision.name,
            left_out=tuple(self._left_out),
        )

    @property
    def _parent_name(self) -> str | None:
        return None if self._settings.from_scratch else self._parent.name

    def _tell(self, stage: str, message: str) -> None:
        self._progress(Progress(stage, self._done(), message))

    def _tell_checkpoint(self, checkpoint: Checkpoint, _: float) -> None:
        message = (
            f"step {checkpoint.step}, loss {checkpoint.loss:.3f}, "
            f"held-out IoU {checkpoint.score:.3f}"
        )
        self._progress(
            Progress(
                "train",
                self._done(),
                message,
                step=checkpoint.step,
                loss=checkpoint.loss,
                iou=checkpoint.score,
            )
        )

    def _done(self) -> float:
        return min((time.monotonic() - self._began) / (60.0 * self._settings.minutes), 1.0)


def _opened(
    stacks: Sequence[SliceStack | Path | str], files: contextlib.ExitStack
) -> Iterator[SliceStack]:
    """Yield stacks, opening those given by path; `files` closes these again."""
    for stack in stacks:
        if isinstance(stack, (str, Path)):
            yield from [files.enter_context(opened) for opened in open_stacks(stack)]
        else:
            yield stack


def _reason(refused: str | None, activated: bool) -> str:
    if refused is not None:
        return f"refused: {refused}"
    return "passed the gate" if activated else "passed the gate; not asked to activate"
