"""Judges each stack that is whole: its agreement with the rule, and whether to learn from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._learning._measure import measure_stack, paired_agreement
from deepfocus_live.daemon._learning._memory import LearningMemory
from deepfocus_live.daemon._learning._whole import WholeStack, WholeStacks, restored
from deepfocus_live.daemon._run import ActiveRun, StackProgress
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.inference import InFocusModel
from deepfocus_live.learning import (
    Agreement,
    Outcome,
    StackFacts,
    StackRecord,
    why_not_learn,
)
from deepfocus_live.model import Registry

__all__ = ["StackJudge"]

log = logging.getLogger(__name__)


class StackJudge:
    """Told of masks and labels; measures what is whole on the label thread.

    Parameters
    ----------
    memory : LearningMemory
        Where agreements and stacks to learn from go.
    registry : Registry
        Where the model is that a watched one replaced.
    background : Background
        Whose thread measures.
    """

    def __init__(self, memory: LearningMemory, registry: Registry, background: Background) -> None:
        self._memory = memory
        self._registry = registry
        self._background = background
        self._whole = WholeStacks()
        self._before: InFocusModel | None = None

    def masked(self, run: ActiveRun, placement: Placement, model: str) -> None:
        """Note that a slice has its mask; called before its run may be closed."""
        key = placement.stack(run.spec.run_id)
        self._judge_later(run, self._whole.masked(key, placement.z, model))

    def labelled(self, run: ActiveRun, progress: StackProgress) -> None:
        """Note that a stack, of a channel that gets masks, has its labels."""
        whole = self._whole.labelled(
            progress.key,
            progress.scored,
            trainable=progress.trainable,
            contrast=progress.contrast,
        )
        self._judge_later(run, whole)

    def run_labelled(self, run: ActiveRun) -> None:
        """Catch up on what an earlier daemon did not judge, once a run has ended."""
        if run.writer.masked_before:
            for whole in restored(run, self._whole):
                self._judge_later(run, whole)

    def run_closed(self, run_id: str) -> None:
        """Forget a run."""
        self._whole.forget_run(run_id)

    def _judge_later(self, run: ActiveRun, whole: WholeStack | None) -> None:
        if whole is not None and run.profile_of(whole.key.c) in self._memory:
            self._background.do(partial(self._judge, run, whole), run)

    def _judge(self, run: ActiveRun, whole: WholeStack, give_way: Callable[[], None]) -> None:
        profile, key, writer = run.profile_of(whole.key.c), whole.key, run.writer
        measured = measure_stack(writer, whole, give_way)
        found = measured.agreement
        why_not = why_not_learn(
            StackFacts(found.slices, found.decided, found.in_focus, whole.trainable, whole.contrast)
        )
        if not writer.pixels_stored:
            why_not = why_not or "the run keeps no pixels"
        if why_not is None:
            self._compare(profile, run, whole, give_way)
        now = self._memory.now()
        with self._memory.guard:
            history = self._memory[profile]
            history.point(_point(run, key, found, now))
            if why_not is None:
                history.count(_record(run, key, found, measured.brightness, now))
            self._memory.keep(profile)
        writer.note("agreement", **_line(profile, key, found), why_not=why_not)

    def _compare(
        self, profile: str, run: ActiveRun, whole: WholeStack, give_way: Callable[[], None]
    ) -> None:
        """Ask the model that was replaced about some slices of a stack, while one is watched."""
        watch = self._memory[profile].watch
        if watch is None or watch.outcome is not Outcome.UNDECIDED:
            self._before = None
            return
        if self._before is None or self._before.version != watch.old:
            try:
                version = self._registry.get(watch.old)
                self._before = InFocusModel.load(version, provider="cpu", threads=1)
            except InputError as error:
                log.warning("model %s is watched with nothing beside it: %s", watch.new, error)
                return
        pair = paired_agreement(
            run.writer, whole, new=watch.new, old=self._before, give_way=give_way
        )
        with self._memory.guard:
            now = self._memory[profile].watch
            if pair is not None and now is not None and now.new == watch.new:
                self._memory[profile].watch = now.with_stack(*pair)


def _record(
    run: ActiveRun, key: StackKey, found: Agreement, brightness: float, now: float
) -> StackRecord:
    return StackRecord(
        run=str(run.writer.path.absolute()),
        image=key.image,
        t=key.t,
        c=key.c,
        at=now,
        agreement=found.iou,
        in_focus=found.in_focus,
        decided=found.decided,
        brightness=brightness,
    )


def _point(run: ActiveRun, key: StackKey, found: Agreement, now: float) -> dict[str, Any]:
    return {
        "at": now,
        "run": run.spec.name,
        "image": key.image,
        "t": key.t,
        "c": key.c,
        "iou": None if found.iou is None else round(found.iou, 4),
        "decided": round(found.decided, 4),
        # Of several nobody can say which of them agrees.
        "model": found.models[0] if len(found.models) == 1 else None,
    }


def _line(profile: str, key: StackKey, found: Agreement) -> dict[str, Any]:
    return {
        "image": key.image,
        "t": key.t,
        "c": key.c,
        "profile": profile,
        "iou": None if found.iou is None else round(found.iou, 4),
        "decided": round(found.decided, 4),
        "in_focus": round(found.in_focus, 6),
        "models": list(found.models),
    }
