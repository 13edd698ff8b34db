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
from deepfocus_live.training._anchor import (
    ANCHOR_VERSION,
    anchor_checksum,
    anchor_set,
    rehearsal_stacks,
)
from deepfocus_live.training._batches import BatchMaker
from deepfocus_live.training._device import TrainingDevice, choose_threads, training_device
from deepfocus_live.training._evaluate import SliceScore
from deepfocus_live.training._examples import LabelledStack, SliceStack
from deepfocus_live.training._fit import Checkpoint, FitResult, FitState, fit
from deepfocus_live.training._gate import Scores, Verdict, judge_candidate
from deepfocus_live.training._inputs import Given, choose_slices, fingerprint, gather
from deepfocus_live.training._judging import (
    Evidence,
    held_out_sources,
    old_stacks,
    rehearsal_parts,
)
from deepfocus_live.training._label import with_labels
from deepfocus_live.training._package import write_model
from deepfocus_live.training._page import write_report
from deepfocus_live.training._precision import Precision, fastest_precision
from deepfocus_live.training._report import Progress, RetrainReport
from deepfocus_live.training._split import split
from deepfocus_live.training._state import SAVE_EVERY_S, SavedTraining, StateFile

__all__ = ["retrain"]

_FINE_TUNING_RATE = 3e-4
_FROM_SCRATCH_RATE = 1e-3
_BATCH = 8
_CROP_PX = 256
_REHEARSAL_SHARE = 0.25  # of the crops that show something
_LOOKS = 10
_PATIENCE = 4  # looks without a gain, after half the time
_EXPORT_SLACK_S = 1.0  # export, report, checksums and the registry, beside what is measured
_LABELLING_SHARE = 0.4  # of the time; stacks that are not labelled by then are left out
_SIMULATION_SHARE = 0.15  # of the time; rehearsal goes without the stacks not made by then
_MOST_BYTES = 1.5e9  # of slices in memory
_OLD_STACK_BYTES = 2e8


def _ignore(_: Progress) -> None:
    """Tell nobody."""


def retrain(
    stacks: Sequence[SliceStack | Path | str],
    *,
    registry: Registry,
    minutes: float,
    pairs: Sequence[tuple[Path | str, Path | str]] = (),
    profile: str = "default",
    preset: str = DEFAULT_PRESET,
    conditions: Conditions | None = None,
    start_from: ModelVersion | None = None,
    from_scratch: Architecture | None = None,
    activate: bool = False,
    fresh: bool = False,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] = _ignore,
) -> RetrainReport:
    """Teach the network a kind of specimen, and register what came of it.

    Labels every stack by rule, puts hand-made masks in their place where there are some, holds
    some stacks out, trains for what is left of `minutes`, exports the best weights, compares them
    with the parent's through the gate, and adds the new version with a report to the registry
    whether it passed or not. Blocking; meant for a process of its own, and works with `spawn`. If
    that is killed, the next call with the same stacks and settings goes on from where it was.

    Parameters
    ----------
    stacks : sequence of stacks or paths
        Opened stacks, or whatever `deepfocus_live.stacks.open_stacks` opens. The label `corrected`
        of an OME-Zarr or a run is used by itself.
    registry : Registry
    minutes : float
        Of the whole call, > 0; kept within a tenth. What was spent before a kill counts.
    pairs : sequence of (path, path)
        Stacks with their hand-made masks, as `deepfocus_live.stacks.open_masks` opens them.
    profile : str
        Whose current model is replaced.
    preset : str
        How stacks are labelled.
    conditions : Conditions, optional
        How they were imaged; what a stack itself says of its calibration goes before.
    start_from : ModelVersion, optional
        By default the profile's current model.
    from_scratch : Architecture, optional
        Start from random weights of this network; `start_from`, or the current model, is then only
        compared with.
    activate : bool
        Make the new version current if it passes the gate.
    fresh : bool
        Begin anew, whatever a killed training has left.
    threads : int, optional
        CPU threads for training; by default as many as torch would take, or one if others keep
        the cores busy.
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
        nothing is in focus anywhere, masks do not fit, `minutes` is too short for a single step,
        or the parent's weights cannot be used. Nothing is registered then.
    OSError
        If the new model cannot be saved. Nothing is registered then.
    """
    if not minutes > 0:
        raise InputError(f"minutes is {minutes}; it must be above 0")
    settings = _Settings(
        minutes, profile, preset, conditions, from_scratch, activate, fresh, threads, seed
    )
    parent = start_from or registry.current(profile)
    with tempfile.TemporaryDirectory(prefix="deepfocus-retrain-") as folder:
        return _Retraining(settings, registry, parent, Path(folder), progress).run(stacks, pairs)


@dataclass(frozen=True)
class _Settings:
    minutes: float
    profile: str
    preset: str
    conditions: Conditions | None
    from_scratch: Architecture | None
    activate: bool
    fresh: bool
    threads: int | None
    seed: int

    @property
    def learning_rate(self) -> float:
        return _FROM_SCRATCH_RATE if self.from_scratch else _FINE_TUNING_RATE

    def as_dict(self) -> dict[str, Any]:
        """Return what the result depends on, as plain values."""
        return {
            "minutes": self.minutes,
            "preset": self.preset,
            "seed": self.seed,
            "from_scratch": self.from_scratch is not None,
            "learning_rate": self.learning_rate,
            "batch": _BATCH,
            "crop_px": _CROP_PX,
            "rehearsal_share": _REHEARSAL_SHARE,
            "anchor_version": ANCHOR_VERSION,
        }


@dataclass(frozen=True)
class _Trained:
    """What the gate and the report need to know of the training."""

    result: FitResult
    device: TrainingDevice
    precision: Precision
    resumed_at: int | None


@dataclass(frozen=True)
class _Parted:
    """All labelled stacks, those of them that were held out, and how in words."""

    labelled: Sequence[LabelledStack]
    held: Sequence[LabelledStack]
    words: str


@dataclass(frozen=True)
class _Judged:
    """What the gate measured and decided, and slices to show."""

    before: Scores
    after: Scores
    verdict: Verdict
    worst: Sequence[SliceScore]


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
        self._notes: list[str] = []
        self._seconds: dict[str, float] = {}
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        else:
            choose_threads()
        torch.manual_seed(settings.seed)
        fields = parent.card.get("architecture", {})
        self._architecture = settings.from_scratch or Architecture.from_dict(fields)

    def run(
        self,
        stacks: Sequence[SliceStack | Path | str],
        pairs: Sequence[tuple[Path | str, Path | str]],
    ) -> RetrainReport:
        """Do it all, in order."""
        if self._parent.fallback_reason is not None:
            self._note(self._parent.fallback_reason)
        with contextlib.ExitStack() as files:
            given = gather(stacks, pairs, files)
            state = files.enter_context(self._state_file(stacks, pairs))
            saved = self._load(state)
            with self._timed("labelling"):
                labelled = self._label(given)
                learn, held, words = split(labelled)
                old = old_stacks(self._parent.card, given, self._label_old, self._note)
            with self._timed("simulation"):
                rehearsed, apart = self._rehearse(learn)
                anchor_set(self._architecture.reduction)
            evidence = Evidence(held, old, apart, self._architecture.reduction)
            before, template, reserve_s = self._prepare(evidence)
            network = self._starting_network(learn)
            with self._timed("learning"):
                batches = [*learn, *rehearsed]
                trained = self._learn(network, batches, evidence, reserve_s, state, saved)
            with self._saving():
                staged, after, worst = self._export(network, template, evidence)
                judged = _Judged(before, after, judge_candidate(after, before), worst)
                parted = _Parted(labelled, held, words)
                report = self._register(staged, judged, trained, parted)
            state.remove()
        return report

    # --- what is learnt from -------------------------------------------------------------------

    def _label(self, given: Sequence[Given]) -> list[LabelledStack]:
        if not given:
            raise InputError("no stack was given to learn from")
        random = np.random.default_rng(self._settings.seed)
        keep = choose_slices(given, _MOST_BYTES, random)
        if any(slices is not None for slices in keep):
            self._note(
                f"the stacks together are larger than {_MOST_BYTES / 1e9:g} GB: a random choice "
                f"of their slices is learnt from (seed {self._settings.seed})"
            )
        # In random order, as time may not last; those with hand-made masks first.
        order = sorted(random.permutation(len(given)), key=lambda index: given[index].masks is None)
        found: dict[int, LabelledStack] = {}
        skipped = {"memory": 0, "time": 0}
        for index in order:
            if keep[index] == []:
                skipped["memory"] += 1
            elif len(found) >= 2 and self._done() > _LABELLING_SHARE:
                skipped["time"] += 1
            elif (one := self._label_one(given[index], keep[index])) is not None:
                found[index] = one
        for what, count in skipped.items():
            if count:
                self._leave_out(f"{count} stacks are left out: there is not enough {what} for more")
        if not found:
            raise InputError(f"no stack is left to learn from: {'; '.join(self._left_out)}")
        return [found[index] for index in sorted(found)]

    def _label_one(self, given: Given, keep: list[int] | None) -> LabelledStack | None:
        """Return a stack with its labels; None, with a line, if nothing can be learnt from it."""
        stack = given.stack
        self._tell("label", f"labelling {stack.name}")
        labelled = self._with_labels(given, keep)
        if not labelled.trainable:
            self._leave_out(
                f"{stack.name} is left out: the specimen moves sideways during the scan"
            )
        elif not labelled.decided and stack.shape[0] < 3:
            self._leave_out(
                f"{stack.name} is left out: {stack.shape[0]} slices are too few to compare; give "
                "masks (--pair)"
            )
        elif not labelled.decided:
            self._leave_out(f"{stack.name} is left out: every pixel of it is undecided")
        else:
            return labelled
        return None

    def _label_old(self, given: Given) -> LabelledStack:
        """Return a stack of an earlier training, to judge by."""
        self._tell("label", f"labelling {given.stack.name}, held out before")
        [keep] = choose_slices([given], _OLD_STACK_BYTES, np.random.default_rng(0))
        return self._with_labels(given, keep)

    def _with_labels(self, given: Given, keep: list[int] | None) -> LabelledStack:
        return with_labels(
            given.stack,
            preset=self._settings.preset,
            reduction=self._architecture.reduction,
            conditions=self._conditions_of(given.stack),
            masks=given.masks,
            keep=keep,
            source=given.source,
        )

    def _conditions_of(self, stack: SliceStack) -> Conditions | None:
        """Return the conditions, without a flat field that is not of this stack's size."""
        conditions = self._settings.conditions
        flat = None if conditions is None else conditions.flat_field
        if conditions is None or flat is None or flat.shape == stack.shape[1:]:
            return conditions
        self._note(f"{stack.name} has another size than the flat field: done without it")
        return replace(conditions, flat_field=None)

    def _leave_out(self, line: str) -> None:
        self._left_out.append(line)
        self._tell("label", line)

    def _rehearse(
        self, learn: Sequence[LabelledStack]
    ) -> tuple[list[LabelledStack], list[LabelledStack]]:
        """Return simulated stacks to learn from beside the new ones, and parts to judge by."""
        self._tell("label", "simulating stacks with true masks, to rehearse")
        settings = self._settings
        made = rehearsal_stacks(
            settings.seed,
            self._architecture.reduction,
            deadline=time.monotonic() + _SIMULATION_SHARE * 60.0 * settings.minutes,
        )
        rehearsed, judged = rehearsal_parts(made)
        new = sum(stack.weight for stack in learn)
        weight = _REHEARSAL_SHARE / (1.0 - _REHEARSAL_SHARE) * new / len(rehearsed)
        return [replace(stack, weight=weight) for stack in rehearsed], judged

    # --- learning --------------------------------------------------------------------------------

    def _prepare(self, evidence: Evidence) -> tuple[Scores, Path, float]:
        """Return the parent's scores, a graph for the export, and the time the end will take.

        The deadline has to leave room for that. The graph is traced now, for seconds, if the
        parent's is of another architecture.
        """
        with self._timed("making a graph"):
            template = self._folder / "template.onnx"
            blank = FocusNetwork(self._architecture)
            export_onnx(blank, template, name="template", template=self._parent.onnx)
        with self._timed("judging the parent"):
            before = evidence.scores(self._runnable(self._parent))
        return before, template, 1.5 * self._seconds["judging the parent"] + _EXPORT_SLACK_S

    def _starting_network(self, learn: Sequence[LabelledStack]) -> FocusNetwork:
        if self._settings.from_scratch:
            return FocusNetwork(self._architecture)
        # Where only the graph is there, its statistics are measured on some of the new slices.
        return load_network(self._parent, slices=learn[0].slices[:4].astype(np.uint16))

    def _learn(
        self,
        network: FocusNetwork,
        stacks: Sequence[LabelledStack],
        evidence: Evidence,
        reserve_s: float,
        state: StateFile,
        saved: SavedTraining | None,
    ) -> _Trained:
        settings, device = self._settings, training_device()
        self._tell("train", f"training on {device.words}")
        judge = evidence.judge(network.eval())
        network.to(device.device)
        precision = fastest_precision(network)
        precision.prepare(network)
        resume = None if saved is None else saved.fit
        step = 0 if resume is None else resume.step
        result = fit(
            network,
            # Another seed after a kill: not the same crops once more.
            BatchMaker(stacks, seed=(settings.seed, step), size=_BATCH, crop_px=_CROP_PX),
            judge=judge,
            learning_rate=settings.learning_rate,
            precision=precision,
            deadline=self._began + 60.0 * settings.minutes - reserve_s,
            looks=_LOOKS,
            patience=_PATIENCE,
            on_checkpoint=self._tell_checkpoint,
            resume=resume,
            save=lambda fit_state: self._save(state, fit_state),
            save_every_s=SAVE_EVERY_S,
        )
        if result.steps == 0:
            raise InputError(
                f"{settings.minutes:g} minutes are too short: labelling and judging took "
                f"{time.monotonic() - self._began:.0f} s and left no time to learn; give more"
            )
        return _Trained(result, device, precision, None if resume is None else resume.step)

    def _state_file(
        self,
        stacks: Sequence[SliceStack | Path | str],
        pairs: Sequence[tuple[Path | str, Path | str]],
    ) -> StateFile:
        settings = self._settings
        depends_on = {
            **settings.as_dict(),
            "profile": settings.profile,
            "conditions": repr(settings.conditions),
            "parent": self._parent.card.get("sha256"),
            "architecture": self._architecture.as_dict(),
        }
        folder = self._registry.root / "training" / settings.profile
        return StateFile(folder, fingerprint(stacks, pairs, depends_on), self._note)

    def _load(self, state: StateFile) -> SavedTraining | None:
        """Return a training that was killed, its time counted as ours."""
        if self._settings.fresh:
            state.remove()
            return None
        saved = state.load()
        if saved is not None:
            self._began -= saved.elapsed_s
            self._note(
                f"going on at step {saved.fit.step} of a training that was broken off after "
                f"{saved.elapsed_s:.0f} s"
            )
        return saved

    def _save(self, state: StateFile, fit_state: FitState) -> None:
        state.save(SavedTraining(fit_state, time.monotonic() - self._began))

    # --- what comes of it ------------------------------------------------------------------------

    def _export(
        self, network: FocusNetwork, template: Path, evidence: Evidence
    ) -> tuple[ModelVersion, Scores, list[SliceScore]]:
        self._tell("export", "exporting and judging")
        with self._timed("exporting and judging"):
            now = datetime.datetime.now(datetime.UTC)
            name = self._registry.free_name(f"{self._settings.profile}-{now:%Y%m%d-%H%M%S}")
            examples = evidence.examples()
            real_slice = examples[len(examples) // 2][0].astype(np.uint16)
            staged = write_model(
                self._folder / name,
                network,
                name=name,
                card={"parent": self._parent_name, "profile": self._settings.profile},
                template=template,
                slices=real_slice[np.newaxis],
            )
            model = self._runnable(staged)
            return staged, evidence.scores(model), evidence.worst(model)

    def _runnable(self, version: ModelVersion) -> InFocusModel:
        return InFocusModel.load(version, provider="cpu", threads=self._settings.threads)

    def _register(
        self, staged: ModelVersion, judged: _Judged, trained: _Trained, parted: _Parted
    ) -> RetrainReport:
        settings, result = self._settings, trained.result
        before, after, verdict = judged.before, judged.after, judged.verdict
        activate = settings.activate and verdict.passed
        report = RetrainReport(
            name=staged.name,
            path=staged.path,
            parent=self._parent_name,
            profile=settings.profile,
            iou_before=before.held_out,
            iou_after=after.held_out,
            truth="weak labels" if after.by_hand is None else "hand-made masks",
            empty_share_before=before.empty_share,
            empty_share_after=after.empty_share,
            held_out=parted.words,
            steps=result.steps,
            best_step=result.best_step,
            minutes=self._minutes(),
            passed=verdict.passed,
            activated=activate,
            reason=_reason(verdict, activate),
            precision=trained.precision.name,
            trained_on=trained.device.words,
            checks=verdict.checks,
            stopped_early=result.stopped_early,
            resumed_at_step=trained.resumed_at,
            start_score=result.start_score,
            history=tuple(result.checkpoints),
            learnt_from=tuple(_described(stack) for stack in parted.labelled),
            left_out=tuple(self._left_out),
            notes=tuple(self._notes),
            settings=settings.as_dict(),
            seconds={name: round(seconds, 2) for name, seconds in self._seconds.items()},
        )
        write_report(staged.path, report, judged.worst)
        seal(staged.path, {**staged.card, **self._card(report, verdict, parted)})
        version = self._registry.add(staged.path)
        if activate:
            self._registry.use(version.name, settings.profile)
        return replace(report, path=version.path, minutes=self._minutes())

    def _card(self, report: RetrainReport, verdict: Verdict, parted: _Parted) -> dict[str, Any]:
        return {
            "trained_on": [stack.name for stack in parted.labelled],
            "held_out": held_out_sources(parted.held),
            "settings": {
                **self._settings.as_dict(),
                "steps": report.steps,
                "best_step": report.best_step,
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
                    "checksum": anchor_checksum(self._architecture.reduction),
                },
            },
        }

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Say of a full or failing disk what it means here."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the new model cannot be saved in {self._registry.root} "
                f"({error.strerror or error}); the current model is as it was. Make room and run "
                "retrain again"
            ) from error

    @property
    def _parent_name(self) -> str | None:
        return None if self._settings.from_scratch else self._parent.name

    # --- what is told ----------------------------------------------------------------------------

    def _note(self, line: str) -> None:
        self._notes.append(line)
        self._tell("label", line)

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

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[what] = time.monotonic() - began

    def _minutes(self) -> float:
        return (time.monotonic() - self._began) / 60.0

    def _done(self) -> float:
        return min(self._minutes() / self._settings.minutes, 1.0)


def _described(stack: LabelledStack) -> str:
    """Return a stack's line in the report."""
    count = len(stack.slices)
    by_hand = 0 if stack.hand_made is None else int(stack.hand_made.sum())
    if by_hand == 0:
        return f"{stack.name}: {count} slices, weak labels"
    if by_hand == count:
        return f"{stack.name}: {count} slices, hand-made masks"
    return f"{stack.name}: {count} slices, hand-made masks of {by_hand}, weak labels of the others"


def _reason(verdict: Verdict, activated: bool) -> str:
    if verdict.refusal is not None:
        return f"refused: {verdict.refusal}"
    return "passed the gate" if activated else "passed the gate; not asked to activate"
