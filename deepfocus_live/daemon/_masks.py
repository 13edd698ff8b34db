"""The masks: newest slice first, every slice in the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.config import Config
from deepfocus_live.daemon._run import SliceJob
from deepfocus_live.daemon._warnings import ClearWarning, SayWarning
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement, luminance
from deepfocus_live.inference import Inference, InFocusModel, ModelSlot
from deepfocus_live.model import ModelVersion, Registry
from deepfocus_live.volume import PROBABILITY_SCALE, RunWriter

__all__ = ["LiveSlice", "MaskMade", "MaskMaker", "store_mask"]

log = logging.getLogger(__name__)

MaskMade = Callable[[SliceJob, Inference, float, str, str], None]
"""(slice, result, in-focus fraction, model version, provider)"""


def _cleared_by_nobody(key: Hashable, *, over: str | None = None) -> None:
    """Stand in where warnings do not stand."""


@dataclass(frozen=True)
class LiveSlice:
    """A slice that is masked and not stored."""

    owner: Hashable
    """Of each owner only the newest slice waits."""
    profile: str
    pixels: NDArray[Any]
    """(Y, X)."""
    masked: Callable[[Inference, str, str], None]
    """Called with (result, model version, provider), on the mask thread."""


@dataclass(frozen=True)
class _Staged:
    model: InFocusModel
    may: Callable[[], bool]
    then: Callable[[], object]


class MaskMaker:
    """One thread that gives every stored slice its mask, and one that watches for new models.

    Parameters
    ----------
    config : Config
        Provider, threads.
    registry : Registry
        Where the profiles' current models are.
    on_mask : callable
        Called on the mask thread.
    on_model : callable
        Called with (profile, version) after a swap, and (profile, None, reason)
        when a model is refused.
    warn : callable
        Told in one line when masks are not made on the best device any more.
    clear : callable
        Told when they are again.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        *,
        on_mask: MaskMade,
        on_model: Callable[[str, str | None, str], None],
        warn: SayWarning,
        clear: ClearWarning = _cleared_by_nobody,
    ) -> None:
        self._config = config
        self._registry = registry
        self._on_mask = on_mask
        self._on_model = on_model
        self._warn, self._clear = warn, clear
        self._slots: dict[str, ModelSlot] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._refused: dict[str, str] = {}
        self._staged: dict[str, _Staged] = {}
        self._following = threading.Lock()
        # By run, in the order in which runs come next; of each the newest slice is the last.
        self._jobs: dict[str, list[SliceJob]] = {}
        self._live: dict[Hashable, LiveSlice] = {}
        self._live_is_next = True
        self._changed = threading.Condition()
        self._paused = False
        self._stopping = False
        # The network's own threads inherit the priority of the one that loads it: neither a
        # slice on its way to the disk nor the microscope's process may wait for a mask.
        self._loader = ThreadPoolExecutor(1, "load", _platform.lower_thread_priority)
        self._threads = [
            threading.Thread(target=self._make_masks, name="masks", daemon=True),
            threading.Thread(target=self._watch_models, name="models", daemon=True),
        ]

    def start(self) -> None:
        """Load the default profile's model and begin.

        Raises
        ------
        InputError
            If what is configured cannot be had. A device that fails otherwise is tried again when
            a run begins: slices are stored without masks meanwhile.
        """
        try:
            self.prepare("default", (512, 512))
        except InputError:
            raise
        except Exception as error:
            log.exception("the default profile's model could not be loaded")
            self._warn(f"no masks for now: {error}", key=("device", "default"))
        for thread in self._threads:
            thread.start()

    @property
    def masks_waiting(self) -> int:
        """Slices that have no mask yet."""
        return sum(map(len, list(self._jobs.values())))

    @property
    def paused(self) -> bool:
        """Whether no masks are made; slices wait meanwhile."""
        return self._paused

    def pause(self) -> None:
        """Make no masks after the one in hand until `resume`."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Make masks again, the newest slice first, all in the end."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def running(self, profile: str) -> tuple[str, str]:
        """Return the model version in use and what it really runs on."""
        slot = self._slots.get(profile)
        return ("none", "none") if slot is None else (slot.model.version, slot.model.provider)

    def prepare(self, profile: str, shape: tuple[int, int]) -> None:
        """Have the profile's model loaded and warm for slices of `shape`."""
        settings = self._config.inference
        slot = self._slots.get(profile)
        if slot is None:
            version = self._registry.current(profile)
            if version.fallback_reason:
                self._on_model(profile, None, version.fallback_reason)
            open_slot = partial(
                ModelSlot.open,
                version,
                provider=settings.provider,
                threads=settings.threads,
                on_change=partial(self._warn, key=("device", profile)),
                on_back=lambda text: self._clear(("device", profile), over=text),
            )
            self._slots[profile] = slot = self._loader.submit(open_slot).result()
        if self._shapes.get(profile) != shape:
            slot.model.warm_up(shape)
            self._shapes[profile] = shape

    def follow(self, profile: str) -> None:
        """Take up the profile's current model now, where it has one loaded."""
        slot = self._slots.get(profile)
        if slot is not None:
            self._follow(profile, slot)

    def stage(
        self,
        profile: str,
        version: ModelVersion,
        *,
        may: Callable[[], bool],
        then: Callable[[], object],
    ) -> None:
        """Load and warm a model that is not current yet, to take over between two slices.

        Parameters
        ----------
        may : callable
            Asked before each slice of the profile, on the mask thread: whether it may take over.
        then : callable
            Called when it does, to make it the current one; an InputError keeps the old one.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        slot = self._slots[profile]
        shape = self._shapes.get(profile, (512, 512))
        model = self._loader.submit(slot.load_beside, version, shape).result()
        self._staged[profile] = _Staged(model, may, then)

    def unstage(self, profile: str) -> None:
        """Let a staged model go."""
        self._staged.pop(profile, None)

    def staged(self, profile: str) -> str | None:
        """Return the version that waits to take over, if any."""
        staged = self._staged.get(profile)
        return None if staged is None else staged.model.version

    def put(self, job: SliceJob) -> None:
        """Queue a slice; it is the newest of its run, so it comes next of these."""
        with self._changed:
            self._jobs.setdefault(job.run.spec.run_id, []).append(job)
            self._changed.notify_all()

    def put_live(self, job: LiveSlice) -> None:
        """Queue a slice that is not stored; one of the same owner that waits is dropped."""
        with self._changed:
            self._live[job.owner] = job
            self._changed.notify_all()

    def put_old(self, jobs: list[SliceJob]) -> None:
        """Queue slices of an earlier daemon's life behind all others of their run."""
        with self._changed:
            for job in reversed(jobs):
                self._jobs.setdefault(job.run.spec.run_id, []).insert(0, job)
            self._changed.notify_all()

    def stop(self) -> None:
        """End both threads after the slice in hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._loader.shutdown()

    def _make_masks(self) -> None:
        _platform.lower_thread_priority()
        while True:
            with self._changed:
                while not self._stopping and (self._paused or not (self._jobs or self._live)):
                    self._changed.wait()
                if self._stopping:
                    return
                job = self._next()
            if isinstance(job, LiveSlice):
                self._make_live_mask(job)
                continue
            try:
                self._make_mask(job)
            except Exception:
                name = job.run.spec.name
                log.exception("no mask for frame %d", job.sequence_number, extra={"run": name})
            finally:
                job.done()
                job.run.owe(-1)

    def _next(self) -> SliceJob | LiveSlice:
        """Return what comes next: live and stored slices take turns, and so do runs under way.

        Runs that have ended, and are owed masks still, come behind these.
        """
        if self._live and (self._live_is_next or not self._jobs):
            self._live_is_next = False
            return self._live.pop(next(iter(self._live)))
        self._live_is_next = True
        under_way = (key for key, jobs in self._jobs.items() if not jobs[-1].run.ended)
        key = next(under_way, next(reversed(self._jobs)))
        jobs = self._jobs.pop(key)
        job = jobs.pop()
        if jobs:
            self._jobs[key] = jobs
        return job

    def _make_live_mask(self, job: LiveSlice) -> None:
        try:
            model = self._slots[job.profile].model
            job.masked(model.infer(job.pixels), model.version, model.provider)
        except Exception:
            log.exception("live mode: no mask")

    def _settle(self, profile: str, model: InFocusModel) -> None:
        """End what was said of the device of the model before, where it is well."""
        if model.at_best:
            self._clear(("device", profile), over=None)

    def _take_staged(self, profile: str) -> None:
        """Have a staged model take over, if it may."""
        staged = self._staged.get(profile)
        if staged is None or not staged.may():
            return
        with self._following:
            self._staged.pop(profile, None)
            try:
                staged.then()
            except InputError as error:
                self._on_model(profile, None, str(error))
                return
            self._slots[profile].put(staged.model)
            self._settle(profile, staged.model)
        self._on_model(profile, staged.model.version, "made current between two stacks")

    def _make_mask(self, job: SliceJob) -> None:
        profile = job.run.profile_of(job.placement.c)
        self._take_staged(profile)
        slot = self._slots[profile]
        model = slot.model  # one look: the whole slice is this model's
        result, fraction = store_mask(
            job.run.writer, model, job.placement, job.sequence_number, job.pixels()
        )
        self._on_mask(job, result, fraction, model.version, model.provider)

    def _watch_models(self) -> None:
        while not self._stopping:
            for profile, slot in list(self._slots.items()):
                try:
                    self._follow(profile, slot)
                except Exception:
                    log.exception("profile %s: the current model could not be looked at", profile)
            with self._changed:
                if not self._stopping:
                    self._changed.wait_for(lambda: self._stopping, timeout=1.0)

    def _follow(self, profile: str, slot: ModelSlot) -> None:
        with self._following:
            self._follow_now(profile, slot)

    def _follow_now(self, profile: str, slot: ModelSlot) -> None:
        name = self._registry.current_name(profile)
        if name == slot.model.version:
            if self._refused.pop(profile, None) is not None:
                self._on_model(profile, name, "made current again")
            return
        if name == self._refused.get(profile):
            return
        try:
            begin = time.monotonic()
            version = self._registry.current(profile)
            if version.fallback_reason:
                raise InputError(version.fallback_reason)
            shape = self._shapes.get(profile, (512, 512))
            self._settle(profile, self._loader.submit(slot.swap, version, shape).result())
        except InputError as error:
            # Said once; tried again only when another version is made current.
            self._refused[profile] = name
            self._on_model(profile, None, str(error))
            return
        self._refused.pop(profile, None)
        log.info("model %s in use after %.0f ms", name, 1000 * (time.monotonic() - begin))
        self._on_model(profile, name, "made current")


def store_mask(
    writer: RunWriter,
    model: InFocusModel,
    placement: Placement,
    sequence_number: int,
    pixels: NDArray[Any],
) -> tuple[Inference, float]:
    """Have one slice masked and its mask stored; return it and its in-focus fraction.

    `pixels` are (Y, X), or (3, Y, X) of a colour camera, whose luminance is looked at.
    """
    result = model.infer(luminance(pixels))
    fraction = float(np.count_nonzero(result.mask)) / result.mask.size
    writer.write_mask(
        placement,
        result.mask,
        _at_stored_resolution(result),
        sequence_number=sequence_number,
        model=model.version,
        provider=model.provider,
        milliseconds=round(result.milliseconds, 3),
        in_focus_fraction=round(fraction, 6),
        focus_score=round(result.focus_score, 6),
    )
    return result, fraction


def _at_stored_resolution(result: Inference) -> NDArray[np.uint8]:
    """Return the probability at the resolution that runs store, whatever the network's is."""
    height, width = result.mask.shape
    want = (-(-height // PROBABILITY_SCALE), -(-width // PROBABILITY_SCALE))
    if result.probability.shape == want:
        return result.probability
    rows = (np.arange(want[0]) * result.probability.shape[0]) // want[0]
    columns = (np.arange(want[1]) * result.probability.shape[1]) // want[1]
    resized: NDArray[np.uint8] = result.probability[rows[:, None], columns]
    return resized
