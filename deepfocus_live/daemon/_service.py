"""The daemon: wires the rooms together.

Design Notes
------------
Threads, and what each may wait for: the event loop talks to clients and waits
for nothing else; `storage.workers` store threads wait for the disk; each run's
journal thread waits for its sync and acknowledges; the mask thread waits for
the network; the label thread gives way to all of these; the page has a thread
and a loop of its own, so no browser can hold up an acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from types import FrameType

import numpy as np

from deepfocus_live import __version__, _platform
from deepfocus_live.config import Config, writable_folder
from deepfocus_live.daemon._budgets import Budgets
from deepfocus_live.daemon._clients import Clients
from deepfocus_live.daemon._clock import ClockWatch
from deepfocus_live.daemon._desk import ControlDesk
from deepfocus_live.daemon._doorway import Doorway
from deepfocus_live.daemon._intake import Intake
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._learning._learner import Learner
from deepfocus_live.daemon._learning._trainer import TrainerProcess
from deepfocus_live.daemon._leftovers import Leftovers
from deepfocus_live.daemon._live import LiveView
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._model_list import Thresholds, list_models
from deepfocus_live.daemon._page._actions import PageActions
from deepfocus_live.daemon._page._catalog import RunCatalog
from deepfocus_live.daemon._page._server import PageServer
from deepfocus_live.daemon._page._stack_views import PageViews
from deepfocus_live.daemon._profiles import profile_conditions
from deepfocus_live.daemon._reload import Change, changes, with_changes
from deepfocus_live.daemon._run import ActiveRun, PixelBudget
from deepfocus_live.daemon._runs import OpenRuns
from deepfocus_live.daemon._slice_flow import SliceFlow
from deepfocus_live.daemon._space import SpaceWatch
from deepfocus_live.daemon._warnings import StandingWarnings
from deepfocus_live.errors import InputError
from deepfocus_live.focus import preset_named
from deepfocus_live.focus import warm_up as warm_up_focus
from deepfocus_live.model import Registry
from deepfocus_live.ring import (
    Message,
    forget_daemon,
)
from deepfocus_live.volume import free_bytes, halve_mean
from deepfocus_live.web import Health, LiveHub

__all__ = ["Daemon", "DaemonState"]

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_STALLED_S = 5.0
_WATCH_S = 0.5
_CATCH_UP_S = 60.0
_CLOSE_S = 30.0
"""For the slice, mask and label in hand, and for closing files."""
_LAGGING = 8
"""Slices that wait for the disk, or for their masks."""


class DaemonState(StrEnum):
    """`starting → ready ⇄ acquiring → catching-up → ready`, and `stopping` from any of them.

    A microscope whose run waits for a daemon to be ready hears of `starting` by its heartbeats.
    """

    STARTING = "starting"
    READY = "ready"
    ACQUIRING = "acquiring"
    CATCHING_UP = "catching-up"
    STOPPING = "stopping"


class Daemon:
    """One daemon: `prepare`, then `run`, which returns when it was asked to stop and has done so.

    Parameters
    ----------
    config : Config
        What to do.
    owner : ProcessStamp or None
        End at once when this process has ended.
    page : socket or None
        Where the page is served; None: where the configuration says.
    reread : callable or None
        Reads the configuration again; None: there is no file.

    Raises
    ------
    InputError
        If the output folder or the page's port cannot be had, or a profile names no label preset
        or flat field that there is.
    """

    def __init__(
        self,
        config: Config,
        *,
        owner: _platform.ProcessStamp | None = None,
        page: socket.socket | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        self._config = config
        self._reread = reread
        self._reloading = threading.Lock()
        self._owner = owner
        self._started = time.monotonic()
        self._stopping = False
        self._lagging = False
        self._clients = Clients()
        self._warnings = StandingWarnings(self._note)
        self._budgets = Budgets.of(config, _platform.available_memory_bytes())
        log.info("%s", self._budgets.in_words)
        self._budget = PixelBudget(self._budgets.backlog_mb << 20)
        self._beaten_at = math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        conditions = profile_conditions(config)
        writable_folder(config.output_dir)
        self.registry = Registry(config.models_dir)
        self._hub = LiveHub()
        self._intake = Intake(
            config.storage,
            on_stored=lambda *stored: self._flow.frame_stored(*stored),
            on_trouble=self._disk_trouble,
            warn=self._warnings.warn,
            memory_full=lambda: self._budget.full,
        )
        self._masks = MaskMaker(
            config,
            self.registry,
            on_mask=lambda *made: self._flow.mask_made(*made),
            on_model=self._model_changed,
            warn=self._warnings.warn,
            clear=self._warnings.clear,
        )
        self._background = Background(
            labels=config.labels.enabled,
            memory_mb=self._budgets.labels_mb,
            busy=self._busy,
            on_labelled=lambda *labelled: self._flow.stack_labelled(*labelled),
            warn=self._warnings.warn,
            prepare=_kernels(config),
            on_run_labelled=lambda run: self._learner.run_labelled(run),
        )
        self._runs = OpenRuns(
            config,
            conditions=conditions,
            intake=self._intake,
            masks=self._masks,
            background=self._background,
            budget=self._budget,
            on_opened=self._hub.run_started,
            on_ended=lambda run: self._flow.run_ended(run),
            on_closed=self._run_closed,
            warn=self._warnings.warn,
        )
        self._leftovers = Leftovers(
            config,
            runs=self._runs,
            intake=self._intake,
            warn=self._warnings.warn,
            clear=self._warnings.clear,
        )
        self._thresholds = Thresholds(self.registry)
        self._live = LiveView(
            config,
            self._intake,
            self._masks,
            self._hub,
            profile=lambda: self._runs.chosen_profile or "default",
            threshold=self._thresholds.of,
        )
        self._space = SpaceWatch(
            config,
            on_turn=lambda run_id, text: self._clients.tell_of_run(
                run_id, {"type": "space", "text": text}
            ),
            say=self._note,
        )
        self._learner = Learner(
            config,
            self.registry,
            trainer=TrainerProcess(config, self.registry, log.info),
            masks=self._masks,
            background=self._background,
            runs=self._runs.all,
            expecting=lambda: self._runs.expecting,
            lagging=self._lags,
            say=self._say,
            warn=self._warnings.warn,
        )
        self._flow = SliceFlow(
            runs=self._runs,
            masks=self._masks,
            background=self._background,
            learner=self._learner,
            space=self._space,
            hub=self._hub,
            clients=self._clients,
            thresholds=self._thresholds,
            budget=self._budget,
        )
        self._desk = ControlDesk(
            self._clients,
            runs=self._runs,
            intake=self._intake,
            learner=self._learner,
            space=self._space,
            live=self._live,
            status=self.status,
            reload=self.reload,
            choose_profile=self.choose_profile,
            stop=self._stop_as_asked,
            note=self._note,
        )
        self._stop_asked = asyncio.Event()
        self._stop_now = False
        self._page = self._make_page(page)

    def _make_page(self, listening: socket.socket | None) -> PageServer:
        config = self._config
        catalog = RunCatalog(config.output_dir, self._runs, threshold=self._thresholds.of)
        self._views = PageViews(catalog, self._busy)
        return PageServer(
            config.web,
            self._hub,
            catalog,
            self.status,
            listening=listening,
            health=self.health,
            views=self._views,
            models=partial(list_models, self.registry, config.profiles, catalog.agreements),
            actions=PageActions(
                config,
                self._masks,
                runs=self._runs.all,
                stop=self.stop_soon,
                models=self._learner,
                choose_profile=self.choose_profile,
            ),
        )

    # ---------------------------------------------------------------- life

    def prepare(self) -> None:
        """Load and warm the model, begin to store what dead programs left, serve the page."""
        if self._config.inference.enabled:
            self._masks.start()
        self._leftovers.look()
        self._runs.finish_left_open(self._leftovers.folders)
        self._page.start()

    async def run(self, server: asyncio.Server, doorway: Doorway) -> None:
        """Serve who comes through the doorway until asked to stop; then nobody is let in."""
        self._loop = asyncio.get_running_loop()
        self._listen_to_signals(self._loop)
        doorway.open(self._desk.serve)
        # Others may read the log, and are not to find the page's key there.
        said = __version__, os.getpid(), self._page.address.partition("?")[0]
        log.info("deepfocus-live %s is ready, pid %d, its page at %s", *said)
        try:
            tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._watch())]
            await self._stop_asked.wait()
            await self._wind_down()
            for task in tasks:
                task.cancel()
        finally:
            # First of all nobody may find us any more.
            forget_daemon()
            server.close()
            await asyncio.to_thread(self._close_all)
        log.info("stopped")

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        def on_signal(_number: int, _frame: FrameType | None) -> None:
            # A second request is an impatient one.
            self._stop_now = self._stopping
            self._stopping = True
            loop.call_soon_threadsafe(self._stop_asked.set)

        for number in _platform.stop_on_signals():
            signal.signal(number, on_signal)
        # A closed terminal is no reason to end an acquisition.
        _platform.ignore_hangup()

    def stop_soon(self) -> None:
        """Ask the daemon to stop once no run is open; from any thread."""
        self._stopping = True
        if self._loop is None:
            self._stop_asked.set()
        else:
            self._loop.call_soon_threadsafe(self._stop_asked.set)

    def _stop_as_asked(self, now: bool) -> Message:
        """Stop, once what is under way is done, or at once; return what the asker is told."""
        self._stop_now = self._stop_now or now
        self._stopping = True
        self._stop_asked.set()
        catch_up_s = 0.0 if self._stop_now else _CATCH_UP_S
        return {"ok": True, "acquiring": self._acquiring, "within_s": catch_up_s + _CLOSE_S}

    async def _wind_down(self) -> None:
        """Let acquisitions end, then masks and labels, each within reason."""
        self._stopping = True
        # What is owed is not made while it is paused.
        self._masks.resume()
        while self._acquiring and not self._stop_now:
            await asyncio.sleep(0.1)
        deadline = time.monotonic() + _CATCH_UP_S
        while (
            (self._runs or self._leftovers) and not self._stop_now and time.monotonic() < deadline
        ):
            await asyncio.sleep(0.05)
        await self._clients.take_leave()

    def _close_all(self) -> None:
        self._learner.stop()
        self._intake.stop()
        self._leftovers.stop()
        if self._config.inference.enabled:
            self._masks.stop()
        self._background.stop()
        self._runs.close_all()
        for path in list(self._intake.rings):
            self._intake.close_ring(path, remove=False)
        self._hub.close()
        self._page.stop()
        self._views.stop()

    async def _beat(self) -> None:
        """Tell every client that the event loop is alive; nothing else may hold this up."""
        clock = ClockWatch(_HEARTBEAT_S)
        while True:
            self._beaten_at = time.monotonic()
            await asyncio.sleep(_HEARTBEAT_S)
            if gap := clock.look():
                self._say(gap)
            self._clients.beat(str(self.state), self._runs.all())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                await asyncio.to_thread(self._look_around)
            except Exception:
                # Whatever it is, the next look must still be had: runs are closed there.
                log.exception("unexpected failure while looking around")
            if self._owner is not None and not self._owner.alive():
                self._stop_now = True
                self._stop_asked.set()

    def _look_around(self) -> None:
        self._runs.close_finished()
        self._space.look(self._runs.all())
        self._warnings.look()
        self._leftovers.look()
        self._learner.look()

    # ------------------------------------------------------- what is under way

    def _busy(self) -> bool:
        """Return whether slices or masks wait, and not for the background to free memory."""
        masks = 0 if self._masks.paused else self._masks.masks_waiting
        waiting = self._intake.frames_waiting or masks
        return bool(waiting) and not self._budget.full

    def _lags(self) -> bool:
        """Return whether so much waits that the trainer must rest: until nothing does."""
        frames, masks = self._intake.frames_waiting, self._masks.masks_waiting
        self._lagging = max(frames, masks) >= _LAGGING or (self._lagging and frames + masks > 0)
        return self._lagging

    def _run_closed(self, run_id: str) -> None:
        self._warnings.clear(("disk", run_id))
        self._learner.run_closed(run_id)
        self._hub.run_ended(run_id)

    def _model_changed(self, profile: str, version: str | None, reason: str) -> None:
        key = ("model", profile)
        if version is None:
            self._warnings.warn(f"profile {profile}: model refused: {reason}", key=key)
            return
        self._warnings.clear(key)
        self._learner.model_changed(profile, version)
        self._say(f"profile {profile}: model {version} in use ({reason})")
        for run in self._runs.all():
            if profile in run.profiles:
                run.writer.note("model", model=version)

    # ------------------------------------------------------------ what is said

    def _say(self, text: str) -> None:
        self._note("info", text)

    def _note(self, level: str, text: str, run: str | None = None) -> None:
        number = logging.getLevelNamesMapping()[level.upper()]
        log.log(number, "%s", text, extra={"run": run, "counted": True})
        self._hub.note(level, text)

    def _disk_trouble(self, run: ActiveRun, text: str | None) -> None:
        key = ("disk", run.spec.run_id)
        if text is None:
            self._warnings.clear(key, over=f"run {run.spec.name}: the disk takes slices again")
        else:
            self._warnings.warn(text, key=key, run=run.spec.name)

    @property
    def _acquiring(self) -> bool:
        return self._desk.opening > 0 or self._runs.acquiring

    @property
    def state(self) -> DaemonState:
        """What the daemon is doing."""
        if self._stopping:
            return DaemonState.STOPPING
        if self._loop is None:
            return DaemonState.STARTING
        if self._acquiring:
            return DaemonState.ACQUIRING
        return DaemonState.CATCHING_UP if self._runs or self._leftovers else DaemonState.READY

    def reload(self) -> list[Change]:
        """Read the configuration again, and go on with what of it can change; return all changes.

        Raises
        ------
        InputError
            If there is no file, or what it says cannot be carried out: nothing has changed then.
        """
        if self._reread is None:
            raise InputError("the daemon was started without --config: there is no file to read.")
        with self._reloading:
            found = changes(self._config, self._reread())
            config = with_changes(self._config, found)
            conditions = profile_conditions(config)
            self._config = config
            self._runs.reconfigure(config, conditions)
            self._space.reconfigure(config)
            self._learner.reconfigure(config)
        for change in found:
            self._say(f"configuration: {change.in_words}")
        return found

    def choose_profile(self, name: str | None) -> None:
        """Give all channels of runs to come a profile; None: as `match` says, from now on.

        Raises
        ------
        InputError
            If there is none so called.
        """
        if name is not None and name not in self._config.profiles:
            known = ", ".join(self._config.profiles)
            raise InputError(f"there is no profile {name!r}; there are: {known}.")
        if name != self._runs.chosen_profile:
            self._runs.chosen_profile = name
            self._say(f"runs to come have {f'profile {name}' if name else 'profiles by `match`'}")

    def _describe_profile(self, name: str) -> dict[str, object]:
        model, provider = self._masks.running(name)
        return {"name": name, "model": model, "provider": provider}

    def health(self) -> Health:
        """Return whether the daemon is well; quick, and from any thread."""
        state = str(self.state)
        silent_s = time.monotonic() - self._beaten_at
        if silent_s > _STALLED_S:
            return Health(False, state, f"the event loop has not turned for {silent_s:.0f} s")
        if self._stopping:
            return Health(False, state, "the daemon stops")
        return Health(True, state)

    def _frame_counts(self) -> dict[str, int]:
        durable = self._flow.stored.total
        taken = durable + self._intake.frames_waiting
        return {"taken": taken, "durable": durable, "masked": self._flow.masked.total}

    def status(self) -> dict[str, object]:
        """Return what `status --json` and the page show."""
        run = next(reversed(self._runs.all()), None)
        model, provider = self._masks.running("default" if run is None else run.profile_of(0))
        standing = [*self._space.warnings(), *self._warnings.standing()]
        return {
            "state": str(self.state),
            "pid": os.getpid(),
            "version": __version__,
            "address": self._page.address,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "output": str(self._config.output_dir),
            "run": None if run is None else _describe(run),
            "forecast": None if run is None else self._space.of(run),
            "model": model,
            "provider": provider,
            "profile_chosen": self._runs.chosen_profile,
            "profiles": [self._describe_profile(name) for name in self._config.profiles],
            "masks_paused": self._masks.paused,
            "frames": self._frame_counts(),
            "frames_per_s": self._flow.stored.per_second(),
            "ring_fill": self._intake.ring_fill(),
            "camera_to_durable_ms": self._flow.durable_ms.summary(),
            "camera_to_mask_ms": self._flow.mask_ms.summary(),
            "waiting": {
                "frames": self._intake.frames_waiting,
                "masks": self._masks.masks_waiting,
                "slices_to_label": self._background.jobs_waiting,
            },
            "learning": self._learner.status(),
            "budgets": self._budgets.as_json(),
            "disk_free_bytes": free_bytes(self._config.output_dir),
            "warnings": [warning.as_json() for warning in standing],
        }


def _kernels(config: Config) -> Iterator[Callable[[], object]]:
    """Yield calls that compile, or load, what labels and pyramids need; see `Background`."""
    names = {profile.label_preset for profile in config.profiles.values()}
    for dtype in (np.uint16, np.uint8):
        yield partial(halve_mean, np.zeros((2, 2), dtype))
        for name in names if config.labels.enabled else ():
            yield partial(warm_up_focus, [preset_named(name)], [dtype])


def _describe(run: ActiveRun) -> dict[str, object]:
    return {
        "name": run.spec.name,
        "path": str(run.writer.path),
        "frames_expected": run.spec.frames_expected,
        "frames_received": run.received,
        "frames_durable": run.writer.frames_durable,
        "frames_masked": run.masked,
        "pixels_stored": run.writer.pixels_stored,
        "channels": [
            {"name": channel.name, "profile": run.profile_of(c)}
            for c, channel in enumerate(run.spec.channels)
        ],
    }
