"""Learning while acquiring: what the room `learning` decides is carried out here.

Design Notes
------------
Four threads come here. The mask thread and the label thread tell of masks and labels; a stack that
has both is measured on the label thread, behind raw slices and masks. `look`, on the daemon's
watch, is the only one that starts fine-tunes, takes models up between runs and takes them back.
Calls by hand leave a wish, or go straight to the registry.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepfocus_live.config import Config
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._learning._judge import StackJudge
from deepfocus_live.daemon._learning._memory import LearningMemory
from deepfocus_live.daemon._learning._takeover import TakeOver
from deepfocus_live.daemon._learning._trainer import TrainerNews, TrainerProcess
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._run import ActiveRun, StackProgress
from deepfocus_live.daemon._warnings import SayWarning
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement
from deepfocus_live.learning import Decision, History, Lesson, Policy, StackRecord, Standing
from deepfocus_live.model import Registry
from deepfocus_live.training import StackAddress, TrainingJob

__all__ = ["Learner"]

log = logging.getLogger(__name__)

_LEAST_REPLAY = 8
_MOST_TRIES = 3
_SHORT_SERIES = 20


class Learner:
    """Teaches each profile's network from the stacks it watches, and takes back what does worse.

    Parameters
    ----------
    config : Config
        Its `learning` says when and how.
    registry : Registry
        Where models are.
    trainer : TrainerProcess
    masks : MaskMaker
        Who puts a model in place.
    background : Background
        Who measures.
    runs : callable
        Returns the open runs.
    expecting : callable
        Whether a run that is not open yet will go on.
    lagging : callable
        Whether slices or masks wait so that a fine-tune has to pause.
    say : callable
        Called with one line for log and page.
    warn : callable
        Told what a person should look at.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        *,
        trainer: TrainerProcess,
        masks: MaskMaker,
        background: Background,
        runs: Callable[[], list[ActiveRun]],
        expecting: Callable[[], bool],
        lagging: Callable[[], bool],
        say: Callable[[str], None],
        warn: SayWarning,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = config.learning
        self._on = config.labels.enabled and config.inference.enabled
        self._policy = Policy.of(config.learning)
        self._registry = registry
        self._trainer = trainer
        self._masks = masks
        self._lagging = lagging
        self._memory = LearningMemory(config, registry, runs=runs, say=say, warn=warn, clock=clock)
        self._judge = StackJudge(self._memory, registry, background)
        self._take_over = TakeOver(
            config,
            self._memory,
            registry,
            masks=masks,
            background=background,
            runs=runs,
            expecting=expecting,
            warn=warn,
        )
        self._taught: str | None = None
        self._tries = 0
        self._outlook: dict[str, Decision] = {}

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings."""
        self._settings, self._policy = config.learning, Policy.of(config.learning)
        self._trainer.reconfigure(config)
        self._take_over.reconfigure(config)

    # ------------------------------------------------------------ what is told

    def masked(self, run: ActiveRun, placement: Placement, model: str) -> None:
        """Note that a slice has its mask; called before its run may be closed."""
        if self._on:
            self._judge.masked(run, placement, model)

    def labelled(self, run: ActiveRun, progress: StackProgress) -> None:
        """Note that a stack, of a channel that gets masks, has its labels; on the label thread."""
        if self._on:
            self._judge.labelled(run, progress)

    def run_begins(self) -> contextlib.AbstractContextManager[None]:
        """Return what a run is begun inside of: meanwhile no model takes over."""
        return self._take_over.run_begins() if self._on else contextlib.nullcontext()

    def run_labelled(self, run: ActiveRun) -> None:
        """Note that a run has ended, and all its stacks have labels; on the label thread."""
        if self._on:
            self._judge.run_labelled(run)

    def run_closed(self, run_id: str) -> None:
        """Forget a run."""
        self._judge.run_closed(run_id)

    def model_changed(self, profile: str, version: str) -> None:
        """Note that a profile's masks are made by a model."""
        if self._on and profile in self._memory:
            self._take_over.model_changed(profile, version)

    # --------------------------------------------------------- the watch's turn

    def look(self) -> None:
        """Do what is due; called twice a second, by one thread at a time."""
        if not self._on:
            return
        news = self._trainer.look()
        if news is not None:
            self._settle_lesson(news)
        self._trainer.pause(self._lagging())
        for profile in self._memory:
            self._take_over.look(profile)
            self._teach_if_due(profile)

    def stop(self) -> None:
        """End a fine-tune under way; the next daemon goes on with it."""
        self._trainer.stop()

    def _teach_if_due(self, profile: str) -> None:
        with self._memory.guard:
            history = self._memory[profile]
            if self._taught is not None:
                self._outlook[profile] = self._weigh(profile, history, "a fine-tune runs")
                return
            if history.running:
                self._start(profile, history)  # what an earlier daemon, or a stop, broke off
                return
            held_up_by = self._held_up_by(history)
            self._outlook[profile] = due = self._weigh(profile, history, held_up_by)
            if not due.start:
                return
            gone = history.new.keep(_is_there)
            if gone or history.earlier.keep(_is_there):
                log.info("profile %s: some stacks are not there any more", profile)
                history.stacks = max(history.stacks - len(gone), 0) if len(history.new) else 0
                self._memory.keep(profile)
                return  # looked at again with what is left
            parent = self._registry.current_name(profile)
            lesson = history.begin_lesson(parent, due.at, replay=_LEAST_REPLAY)
            self._tries = 0
            words = f"{due.reason}: fine-tunes {parent} on {_stacks(lesson)}"
            self._memory.decided(profile, "fine-tune", words, start=True, model=parent)
            self._start(profile, history)

    def _weigh(self, profile: str, history: History, held_up_by: str | None) -> Decision:
        standing = Standing(
            stacks=history.stacks,
            agreements=history.agreements_of(self._registry.current_name(profile)),
            last_started=history.last_started,
            asked=history.asked,
            known=len(history.new) + len(history.earlier),
            held_up_by=held_up_by,
        )
        return self._policy.decide(standing, self._memory.now())

    def _held_up_by(self, history: History) -> str | None:
        if history.asked:
            return None
        if history.waiting is not None and self._settings.swap != "manual":
            return f"model {history.waiting} has not taken over yet"
        if history.watch is not None:
            return f"model {history.watch.new} is watched"
        return None

    def _start(self, profile: str, history: History) -> None:
        lesson = history.lesson
        if lesson is None or not lesson.new:
            # All its stacks are gone: there is nothing to begin with.
            history.end_lesson(learnt=False)
            self._memory.keep(profile)
            return
        self._taught = profile
        self._tries += 1
        self._memory.keep(profile)
        self._trainer.start(
            TrainingJob(
                profile=profile,
                new=tuple(map(_address, lesson.new)),
                replay=tuple(map(_address, lesson.replay)),
                minutes=self._settings.minutes,
                parent=lesson.parent,
            )
        )

    def _settle_lesson(self, news: TrainerNews) -> None:
        with self._memory.guard:
            profile, self._taught = self._taught, None
            if profile is None:
                return
            if news.state == "stopped" and self._tries < _MOST_TRIES:
                return  # the same lesson goes on at the next look
            history = self._memory[profile]
            history.end_lesson(learnt=news.version is not None)
            words = f"the fine-tune {_ENDINGS[news.state]}: {news.reason}"
            if news.state == "passed" and news.version is not None:
                history.waiting = news.version
                words += f"; model {news.version} {_when(self._settings.swap)}"
            self._memory.decided(profile, news.state, words, model=news.version)

    # ---------------------------------------------------------------- by hand

    def request(self, profile: str) -> str:
        """Have a fine-tune begun as soon as none runs; return what will happen, in a line.

        Raises
        ------
        InputError
            If there is no such profile, or nothing to learn from.
        """
        history = self._memory.named(profile)
        if not self._on:
            raise InputError("nothing can be learnt while labels or masks are switched off")
        with self._memory.guard:
            if not len(history.new) + len(history.earlier):
                raise InputError(f"profile {profile}: there is no stack yet to learn from")
            history.asked = True
            self._memory.keep(profile)
        when = "once the one that runs has ended" if self._trainer.running else "now"
        return f"profile {profile}: a fine-tune begins {when}"

    def use(self, name: str, profile: str) -> str:
        """Make a version the current one of a profile; return it in a line.

        Raises
        ------
        InputError
            If there is no such profile or version, or it cannot be used.
        """
        self._memory.named(profile)
        self._registry.use(name, profile)
        return self._chosen(profile, name)

    def rollback(self, profile: str) -> str:
        """Make the version before the current one current again; return it in a line.

        Raises
        ------
        InputError
            If there is no such profile, or no earlier version.
        """
        self._memory.named(profile)
        return self._chosen(profile, self._registry.rollback(profile).name)

    def _chosen(self, profile: str, name: str) -> str:
        self._masks.follow(profile)
        words = f"model {name} was made current by hand"
        self._memory.decided(profile, "by hand", words, model=name)
        return f"profile {profile}: {words}"

    # ---------------------------------------------------------- what is known

    def series(self, profile: str) -> list[dict[str, Any]]:
        """Return the last agreements of a profile, at most 200, oldest first.

        Each has `at` (seconds since the epoch), `run`, `image`, `t`, `c`, `iou` (0..1; None:
        nothing in focus), `decided` (0..1) and `model` (None: several).
        """
        with self._memory.guard:
            return list(self._memory.named(profile).points)

    def status(self) -> dict[str, Any]:
        """Return what `status --json` shows under `learning`."""
        running = self._trainer.running
        return {
            "on": self._on,
            "policy": self._policy.in_words,
            "swap": self._settings.swap,
            "trainer": {
                "running": running,
                "profile": self._taught if running else None,
                "progress": self._trainer.progress or None,
            },
            "profiles": [self._describe(profile) for profile in self._memory],
        }

    def _describe(self, profile: str) -> dict[str, Any]:
        with self._memory.guard:
            history, outlook = self._memory[profile], self._outlook.get(profile)
            points, watch = history.points[-_SHORT_SERIES:], history.watch
            last = history.last_decision
            return {
                "name": profile,
                "stacks_since": history.stacks,
                "outlook": None if outlook is None else outlook.reason,
                "agreement": points[-1]["iou"] if points else None,
                "agreement_series": [point["iou"] for point in points],
                "decision": None if last is None else last["text"],
                "decision_at": None if last is None else last["at"],
                "waiting": history.waiting,
                "watched": None if watch is None else watch.new,
                "watch": None if watch is None else watch.reason,
                "taken_back": [one.version for one in history.rolled_back],
            }


_ENDINGS = {
    "passed": "passed the gate",
    "refused": "was refused by the gate",
    "failed": "failed",
    "stopped": "was stopped",
}


def _is_there(record: StackRecord) -> bool:
    return (Path(record.run) / "run.json").is_file()


def _address(record: StackRecord) -> StackAddress:
    return StackAddress(Path(record.run), record.image, record.t, record.c)


def _stacks(lesson: Lesson) -> str:
    new, replay = len(lesson.new), len(lesson.replay)
    stacks = "1 stack" if new == 1 else f"{new} stacks"
    return stacks if not replay else f"{stacks} and {replay} earlier ones"


def _when(swap: str) -> str:
    if swap == "manual":
        return "waits for you: `deepfocus-live models use`"
    return f"takes over {swap.replace('-', ' ')}"
