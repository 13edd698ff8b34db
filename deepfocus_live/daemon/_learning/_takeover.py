"""A model that passed the gate takes over, is watched, and is taken back where it does worse.

Design Notes
------------
Models become current through the registry alone, which a crash leaves whole; what is remembered of
decisions is written after. So whoever dies where, the worst is a decision that is taken again.

Between two runs a model is taken up while no run begins: none begins with one model and goes on
with another. Whoever begins a run says so first, and waits for a model that is just being taken up;
what else takes time while it begins, such as its disk, holds up the swap alone. A run is over, for
this, when its last mask is made. Between two stacks of a run it is the mask thread
that takes it up: only there nothing is masked meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

from deepfocus_live.config import Config
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._learning._measure import anchor_iou
from deepfocus_live.daemon._learning._memory import LearningMemory
from deepfocus_live.daemon._learning._whole import half_masked
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.daemon._warnings import SayWarning
from deepfocus_live.errors import InputError
from deepfocus_live.learning import Outcome, Watch
from deepfocus_live.model import Registry

__all__ = ["TakeOver"]

log = logging.getLogger(__name__)


class TakeOver:
    """Makes models current, watches them, and takes them back.

    Parameters
    ----------
    config : Config
        Its `learning.swap` says when; its provider is what the anchor is asked on.
    memory : LearningMemory
        What waits and what is watched.
    registry, masks, background
        Where models are, who uses them, who asks the anchor.
    runs : callable
        Returns the open runs.
    expecting : callable
        Whether a run that is not open yet will go on: the daemon before this one had it.
    warn : callable
        Told of what a person has to decide.
    """

    def __init__(
        self,
        config: Config,
        memory: LearningMemory,
        registry: Registry,
        *,
        masks: MaskMaker,
        background: Background,
        runs: Callable[[], list[ActiveRun]],
        expecting: Callable[[], bool],
        warn: SayWarning,
    ) -> None:
        self._expecting = expecting
        self._swap = config.learning.swap
        self._provider = config.inference.provider
        self._memory = memory
        self._registry = registry
        self._masks = masks
        self._background = background
        self._runs = runs
        self._warn = warn
        self._turn = threading.Lock()
        self._beginning = 0
        self._anchor_asked: set[str] = set()
        self._in_use: dict[str, str] = {}

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings."""
        self._swap = config.learning.swap

    # --------------------------------------------------------------- the swap

    def look(self, profile: str) -> None:
        """Do what is due: end a watch, take up a model that waits."""
        if self._settle_watch(profile):
            # Not under the guard: who loads a model waits for it in turn.
            self._masks.follow(profile)
        with self._turn:
            self._take_up_between_runs(profile)
        waiting = self._memory[profile].waiting if self._swap == "between-stacks" else None
        if self._masks.staged(profile) == waiting:
            return
        self._masks.unstage(profile)
        if waiting is None:
            return
        try:
            self._masks.stage(
                profile,
                self._registry.get(waiting),
                may=lambda: not half_masked(self._runs(), profile),
                then=partial(self._make_current_or_refuse, profile, waiting),
            )
        except InputError as error:
            self._refuse(profile, str(error))

    @contextlib.contextmanager
    def run_begins(self) -> Iterator[None]:
        """Take up what waits, then nothing more until the run that begins inside is open."""
        with self._turn:
            for profile in self._memory:
                self._take_up_between_runs(profile)
            self._beginning += 1
        try:
            yield
        finally:
            with self._turn:
                self._beginning -= 1

    def _take_up_between_runs(self, profile: str) -> None:
        waiting = self._memory[profile].waiting
        if waiting is None or self._swap == "manual":
            return
        if self._memory[profile].was_taken_back(waiting):
            self._refuse(profile, "it was taken back before")
            return
        if (
            self._beginning
            or self._expecting()
            or any(profile in run.profiles and not run.all_announced for run in self._runs())
        ):
            return
        self._masks.unstage(profile)
        try:
            self._make_current(profile, waiting)
        except InputError as error:
            self._refuse(profile, str(error))
            return
        self._masks.follow(profile)

    def _make_current_or_refuse(self, profile: str, version: str) -> None:
        try:
            self._make_current(profile, version)
        except InputError as error:
            self._refuse(profile, str(error))
            raise

    def _make_current(self, profile: str, version: str) -> None:
        with self._memory.guard:
            old = self._registry.current_name(profile)
            history = self._memory[profile]
            if history.lesson is not None and history.lesson.parent != old:
                # The gate held it against its parent, which was taken out of use meanwhile.
                raise InputError(f"it was taught from {history.lesson.parent}, {old} is in use now")
            self._registry.use(version, profile)
            history.waiting = None
            history.watch = Watch(version, old, self._memory.now())
            self._in_use[profile] = version
        words = f"model {version} takes over from {old}, and is watched"
        self._memory.decided(profile, "swap", words, model=version)

    def _refuse(self, profile: str, why: str) -> None:
        with self._memory.guard:
            history = self._memory[profile]
            version, history.waiting = history.waiting, None
        words = f"model {version} is not taken up: {why}"
        self._memory.decided(profile, "not taken up", words, model=version)

    # -------------------------------------------------------------- the watch

    def model_changed(self, profile: str, version: str) -> None:
        """Note that masks are made by a model; a person may have chosen it."""
        with self._memory.guard:
            history = self._memory[profile]
            old, self._in_use[profile] = self._in_use.get(profile), version
            if history.waiting == version:
                history.waiting = None
            if old is None or old == version:
                return
            # What a person chose a person takes back: it is watched, and only said.
            history.watch = Watch(version, old, self._memory.now(), acts=False)
            self._memory.keep(profile)

    def _settle_watch(self, profile: str) -> bool:
        """End a watch that has an outcome; return whether a model was taken back."""
        with self._memory.guard:
            current = self._registry.current_name(profile)
            self._in_use.setdefault(profile, current)
            history = self._memory[profile]
            watch = history.watch
            if watch is None:
                return False
            if current != watch.new:
                history.watch = None
                self._memory.keep(profile)
                return False
            if watch.anchor is None:
                self._ask_anchor(profile, watch)
            if watch.outcome is Outcome.ROLL_BACK:
                return self._take_back(profile, watch)
            if watch.outcome is Outcome.KEEP and watch.anchor is not None:
                history.watch = history.lesson = None
                if watch.acts:
                    words = f"model {watch.new} is kept: {watch.reason}"
                    self._memory.decided(profile, "keep", words, model=watch.new)
                self._memory.keep(profile)
        return False

    def _take_back(self, profile: str, watch: Watch) -> bool:
        history = self._memory[profile]
        if not watch.acts:
            history.watch = None
            self._memory.keep(profile)
            self._warn(
                f"profile {profile}: model {watch.new} does worse than {watch.old}: "
                f"{watch.reason}; `deepfocus-live models use {watch.old} --profile {profile}` "
                "takes it back",
                key=("watch", profile),
            )
            return False
        try:
            version = self._registry.rollback(profile)
        except InputError as error:
            history.watch = None
            self._memory.keep(profile)
            self._warn(f"profile {profile}: model {watch.new} cannot be taken back: {error}")
            return False
        self._in_use[profile] = version.name
        history.take_back(watch.new, watch.reason, self._memory.now())
        words = f"model {watch.new} is taken back, {version.name} is in use again: {watch.reason}"
        self._memory.decided(profile, "roll back", words, model=version.name)
        return True

    def _ask_anchor(self, profile: str, watch: Watch) -> None:
        if watch.new not in self._anchor_asked:
            self._anchor_asked.add(watch.new)
            self._background.do(partial(self._judge_by_anchor, profile, watch))

    def _judge_by_anchor(self, profile: str, watch: Watch, give_way: Callable[[], None]) -> None:
        scores = []
        try:
            for name in (watch.old, watch.new):
                give_way()
                scores.append(anchor_iou(self._registry.get(name), provider=self._provider))
            old, new = scores
        except InputError as error:
            # Where there is nothing to compare with, nothing was lost.
            log.warning("profile %s: the anchor set could not be asked: %s", profile, error)
            old = new = 1.0
        log.info("model %s: IoU with the anchor's true masks %.4f → %.4f", watch.new, old, new)
        with self._memory.guard:
            history = self._memory[profile]
            if history.watch is not None and history.watch.new == watch.new:
                history.watch = history.watch.with_anchor(old, new)
                self._memory.keep(profile)
