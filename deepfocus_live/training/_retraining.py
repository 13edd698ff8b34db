"""One fine-tuning from the labels to the registry, with its clock running from the start."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepfocus_live.errors import InputError
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import ModelVersion, Registry, seal
from deepfocus_live.model.export import export_onnx
from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.model.weights import load_network
from deepfocus_live.training._account import (
    BATCH,
    CROP_PX,
    REHEARSAL_SHARE,
    Account,
    Judged,
    Settings,
    Trained,
)
from deepfocus_live.training._anchor import anchor_set, rehearsal_stacks
from deepfocus_live.training._batches import BatchMaker
from deepfocus_live.training._device import choose_threads, limit_gpu_memory, training_device
from deepfocus_live.training._evaluate import JudgedSlice
from deepfocus_live.training._examples import LabelledStack
from deepfocus_live.training._fit import Checkpoint, FitState, fit
from deepfocus_live.training._gate import Scores, judge_candidate
from deepfocus_live.training._inputs import Given
from deepfocus_live.training._judging import (
    Evidence,
    held_out_before,
    old_stacks,
    rehearsal_parts,
)
from deepfocus_live.training._labelling import Labelling
from deepfocus_live.training._package import write_model
from deepfocus_live.training._page import write_report
from deepfocus_live.training._precision import fastest_precision
from deepfocus_live.training._report import Progress, RetrainReport
from deepfocus_live.training._split import Parts, part
from deepfocus_live.training._state import SAVE_EVERY_S, SavedTraining, StateFile

__all__ = ["Inputs", "Retraining", "late_deadline"]

_LEAST_LEARNING_SHARE = 0.4  # of the time, in the background
_LOOKS = 10
_PATIENCE = 4  # looks without a gain, after half the time
_EXPORT_SLACK_S = 1.0  # export, report, checksums and the registry, beside what is measured
_SIMULATION_SHARE = 0.15  # of the time; rehearsal goes without the stacks not made by then


@dataclass(frozen=True)
class Inputs:
    """What is learnt from, once it is opened, and a checksum of what was asked for."""

    open: Callable[[contextlib.ExitStack, Callable[[str], None]], list[Given]]
    fingerprint: Callable[[Mapping[str, Any]], str]


class Retraining:
    """One call of `retrain`, with its clock running from the start."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        parent: ModelVersion,
        folder: Path,
        progress: Callable[[Progress], None],
        hold: Callable[[], float],
    ) -> None:
        self._began = time.monotonic()
        self._settings = settings
        self._registry = registry
        self._parent = parent
        self._folder = folder
        self._progress = progress
        self._hold = hold
        self._notes: list[str] = []
        self._seconds: dict[str, float] = {}
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        else:
            choose_threads()
        if settings.gpu_memory_mb is not None:
            limit_gpu_memory(settings.gpu_memory_mb)
        torch.manual_seed(settings.seed)
        fields = parent.card.get("architecture", {})
        self._architecture = settings.from_scratch or Architecture.from_dict(fields)
        self._labelling = Labelling(
            preset=settings.preset,
            reduction=self._architecture.reduction,
            conditions=settings.conditions,
            memory_mb=settings.memory_mb,
            seed=settings.seed,
            done=self._done,
            tell=lambda line: self._tell("label", line),
            note=self._note,
            nobody_asks=settings.nobody_asks,
        )

    def run(self, inputs: Inputs) -> RetrainReport:
        """Do it all, in order."""
        if self._parent.fallback_reason is not None:
            self._note(self._parent.fallback_reason)
        with contextlib.ExitStack() as files:
            given = inputs.open(files, self._labelling.leave_out)
            state = files.enter_context(self._state_file(inputs))
            saved = self._load(state)
            with self._timed("labelling"):
                labelled = self._labelling.label(given)
                parts = part(labelled, held_out_before(self._registry, self._parent))
                old = old_stacks(self._parent.card, given, self._labelling.label_old, self._note)
            with self._timed("simulation"):
                rehearsed, apart = self._rehearse(parts.learn)
                anchor_set(self._architecture.reduction)
            before_again = [stack for stack in parts.held_replay if stack.any_in_focus]
            evidence = Evidence(
                parts.held, [*before_again, *old], apart, self._architecture.reduction
            )
            before, template, reserve_s = self._prepare(evidence)
            network = self._starting_network(parts.learn)
            with self._timed("learning"):
                batches = [*parts.learn, *rehearsed]
                trained = self._learn(network, batches, evidence, reserve_s, state, saved)
            with self._saving():
                staged, after, worst = self._export(network, template, evidence)
                judged = Judged(before, after, judge_candidate(after, before), worst)
                report = self._register(staged, self._account(labelled, parts, trained, judged))
            state.remove()
        return report

    def _account(
        self,
        labelled: Sequence[LabelledStack],
        parts: Parts,
        trained: Trained,
        judged: Judged,
    ) -> Account:
        return Account(
            self._settings,
            self._parent_name,
            self._architecture.reduction,
            labelled,
            parts,
            trained,
            judged,
            self._labelling.left_out,
            self._notes,
            self._seconds,
            self._minutes(),
        )

    # --- what is learnt from -------------------------------------------------------------------

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
        weight = REHEARSAL_SHARE / (1.0 - REHEARSAL_SHARE) * new / len(rehearsed)
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
    ) -> Trained:
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
            BatchMaker(stacks, seed=(settings.seed, step), size=BATCH, crop_px=CROP_PX),
            judge=judge,
            learning_rate=settings.learning_rate,
            precision=precision,
            deadline=self._deadline(reserve_s),
            looks=_LOOKS,
            patience=_PATIENCE,
            on_checkpoint=self._tell_checkpoint,
            resume=resume,
            save=lambda fit_state: self._save(state, fit_state),
            save_every_s=SAVE_EVERY_S,
            hold=self._give_way,
            blend=self._settings.from_scratch is None,
        )
        if result.steps == 0:
            raise InputError(
                f"{settings.minutes:g} minutes are too short: labelling and judging took "
                f"{time.monotonic() - self._began:.0f} s and left no time to learn; give more"
            )
        return Trained(result, device, precision, None if resume is None else resume.step)

    def _deadline(self, reserve_s: float) -> float:
        total_s = 60.0 * self._settings.minutes
        planned = self._began + total_s - reserve_s
        if self._settings.nobody_asks:
            return late_deadline(planned, total_s, reserve_s, time.monotonic())
        return planned

    def _give_way(self) -> float:
        """Wait where the training is to wait; its own time stands still meanwhile."""
        held_s = self._hold()
        self._began += held_s
        return held_s

    def _state_file(self, inputs: Inputs) -> StateFile:
        settings = self._settings
        depends_on = {
            **settings.as_dict(),
            "profile": settings.profile,
            "conditions": repr(settings.conditions),
            "parent": self._parent.card.get("sha256"),
            "architecture": self._architecture.as_dict(),
        }
        folder = self._registry.root / "training" / settings.profile
        return StateFile(folder, inputs.fingerprint(depends_on), self._note)

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
    ) -> tuple[ModelVersion, Scores, list[JudgedSlice]]:
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

    def _register(self, staged: ModelVersion, account: Account) -> RetrainReport:
        report = account.report(staged)
        write_report(staged.path, report, account.judged.worst)
        seal(staged.path, {**staged.card, **account.card(report)})
        version = self._registry.add(staged.path)
        if account.activates:
            self._registry.use(version.name, self._settings.profile)
        return replace(report, path=version.path, minutes=self._minutes())

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
        self._give_way()
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


def late_deadline(planned: float, total_s: float, reserve_s: float, now: float) -> float:
    """Return when learning ends where nobody waits for that: it is never too late to begin.

    At the lowest priority, beside an acquisition, getting ready may take several times as long as
    on an idle machine: all of it would be lost.

    Parameters
    ----------
    planned : float
        When it would end otherwise, by the clock that `now` is of, s.
    total_s : float
        What the whole of it was given.
    reserve_s : float
        What one look at the held-out stacks takes.
    """
    # The looks before the first step and after the last are on the clock, too.
    return max(planned, now + _LEAST_LEARNING_SHARE * total_s + 2.0 * reserve_s)
