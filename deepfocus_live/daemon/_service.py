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
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import __version__, _platform
from deepfocus_live.config import Config, writable_folder
from deepfocus_live.daemon._clock import ClockWatch
from deepfocus_live.daemon._intake import Client, Intake, run_of
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._latency import LatencyWindow, RateWindow
from deepfocus_live.daemon._live import LiveView, packed_mask
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._page import PageServer
from deepfocus_live.daemon._run import ActiveRun, PixelBudget, StackProgress, StoredSlice
from deepfocus_live.daemon._runs import OpenRuns
from deepfocus_live.daemon._space import SpaceWatch
from deepfocus_live.daemon._trainer import TrainerProcess
from deepfocus_live.daemon._warnings import StandingWarnings
from deepfocus_live.errors import DiskFullError, InputError
from deepfocus_live.focus import Conditions, preset_named
from deepfocus_live.focus import warm_up as warm_up_focus
from deepfocus_live.frames import FrameHeader, RunSpec
from deepfocus_live.inference import Inference
from deepfocus_live.model import Registry
from deepfocus_live.ring import (
    Connection,
    DaemonAddress,
    MemoryRing,
    Message,
    ProtocolError,
    RingError,
    check_request,
    forget_daemon,
    new_key,
    publish_daemon,
    serve_control,
)
from deepfocus_live.volume import StoredFrame, free_bytes, halve_mean
from deepfocus_live.web import LiveHub

__all__ = ["Daemon", "DaemonState"]

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_WATCH_S = 0.5
_CATCH_UP_S = 60.0
_CLOSE_S = 30.0
"""For the slice, mask and label in hand, and for closing files."""
_MOST_UNSENT_BYTES = 16 << 20


class DaemonState(StrEnum):
    """`starting → ready ⇄ acquiring → catching-up → ready`, and `stopping` from any of them."""

    STARTING = "starting"
    READY = "ready"
    ACQUIRING = "acquiring"
    CATCHING_UP = "catching-up"
    STOPPING = "stopping"


class Daemon:
    """One daemon. `run` returns when it has been asked to stop and has done so.

    Parameters
    ----------
    config : Config
        What to do.
    owner : ProcessStamp or None
        End at once when this process has ended.
    arguments : tuple of str
        The command line that it was started with.
    prefer_port : int or None
        Port of the page of the daemon that this one replaces.

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
        arguments: tuple[str, ...] = (),
        prefer_port: int | None = None,
    ) -> None:
        self._config = config
        self._arguments = arguments
        self._owner = owner
        self._started = time.monotonic()
        self._stopping = False
        self._opening = 0
        self._clients: set[Client] = set()
        self._telling = threading.Lock()
        self._warnings = StandingWarnings(self._note)
        self._budget = PixelBudget(config.inference.backlog_mb << 20)
        self._durable_ms, self._mask_ms = LatencyWindow(), LatencyWindow()
        self._rate = RateWindow()
        _check_presets(config)
        conditions = _conditions(config)
        writable_folder(config.output_dir)
        self.registry = Registry(config.models_dir)
        self._hub = LiveHub()
        self._intake = Intake(
            config.storage,
            on_stored=self._frame_stored,
            on_trouble=self._disk_trouble,
            warn=self._warnings.warn,
            memory_full=lambda: self._budget.full,
        )
        self._masks = MaskMaker(
            config,
            self.registry,
            on_mask=self._mask_made,
            on_model=self._model_changed,
            warn=self._warnings.warn,
        )
        self._background = Background(
            labels=config.labels.enabled,
            memory_mb=config.labels.memory_mb,
            busy=self._busy,
            on_labelled=self._stack_labelled,
            warn=self._warnings.warn,
            prepare=_kernels(config),
        )
        self._runs = OpenRuns(
            config,
            conditions=conditions,
            intake=self._intake,
            masks=self._masks,
            background=self._background,
            budget=self._budget,
            on_opened=self._hub.run_started,
            on_ended=self._run_ended,
            on_closed=self._run_closed,
            warn=self._warnings.warn,
            clear=self._warnings.clear,
        )
        self._live = LiveView(config, self._intake, self._masks, self._hub)
        self._space = SpaceWatch(config, on_turn=self._tell_space, say=self._note)
        self._page = PageServer(
            config.web, self._hub, self._runs, self.status, prefer_port=prefer_port
        )
        self._trainer = TrainerProcess(config, self.registry, self._say)
        self._stop_asked = asyncio.Event()
        self._stop_now = False

    # ---------------------------------------------------------------- life

    async def run(self) -> None:
        """Serve until asked to stop."""
        loop = asyncio.get_running_loop()
        key = new_key()
        self._listen_to_signals(loop)
        if self._config.inference.enabled:
            await asyncio.to_thread(self._masks.start)
        server = await serve_control(key, self._serve_client)
        await asyncio.to_thread(self._runs.take_over_leftovers)
        self._page.start()
        stamp = _platform.ProcessStamp.mine()
        port = server.sockets[0].getsockname()[1]
        address = DaemonAddress(
            stamp.pid,
            stamp.started,
            port,
            key,
            self._page.address,
            __version__,
            # A daemon that replaces this one serves its page where browsers wait for it.
            (*self._arguments, "--prefer-port", str(self._page.port)),
        )
        publish_daemon(address)
        said = __version__, stamp.pid, self._page.address
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
        if sys.platform != "win32":
            # A closed terminal is no reason to end an acquisition.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _wind_down(self) -> None:
        """Let acquisitions end, then masks and labels, each within reason."""
        self._stopping = True
        while self._acquiring and not self._stop_now:
            await asyncio.sleep(0.1)
        deadline = time.monotonic() + _CATCH_UP_S
        while self._runs and not self._stop_now and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for client in list(self._clients):
            client.connection.send({"type": "bye"})
            await client.connection.close()
        await asyncio.sleep(0.05)

    def _close_all(self) -> None:
        self._trainer.stop()
        self._intake.stop()
        if self._config.inference.enabled:
            self._masks.stop()
        self._background.stop()
        self._runs.close_all()
        for path in list(self._intake.rings):
            self._intake.close_ring(path, remove=False)
        self._hub.close()
        self._page.stop()

    async def _beat(self) -> None:
        """Tell every client that the event loop is alive; nothing else may hold this up."""
        clock = ClockWatch(_HEARTBEAT_S)
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            if gap := clock.look():
                self._say(gap)
            for client in list(self._clients):
                client.connection.send({"type": "heartbeat"})

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
        self._trainer.look()
        self._runs.take_over_rings()

    # ------------------------------------------------------------- clients

    async def _serve_client(self, connection: Connection) -> None:
        client = Client(connection, asyncio.get_running_loop())
        self._clients.add(client)
        try:
            while True:
                message = await connection.receive()
                answer = await self._answer_or_refuse(client, message)
                if answer is not None:
                    connection.send({"type": "answer", "re": message["type"], **answer})
                    # Who asks and does not listen gets no further answers.
                    await connection.drain()
                # Who has much to say does not keep the others from being heard.
                await asyncio.sleep(0)
        finally:
            self._clients.discard(client)
            self._live.end(client)

    async def _answer_or_refuse(self, client: Client, message: Message) -> Message | None:
        try:
            check_request(message)
            return await self._answer(client, message)
        except ProtocolError as error:
            client.connection.refused(str(error))
            return {"ok": False, "reason": str(error)}
        except Exception as error:
            # Whatever it was, the others' acquisitions go on.
            log.exception("message %r of %s", message["type"], client.connection.peer)
            return {"ok": False, "reason": f"{type(error).__name__}: {error}"}

    async def _answer(self, client: Client, message: Message) -> Message | None:
        kind = message["type"]
        if kind == "frames":
            self._frames_announced(client, message)
            return None
        if kind == "begin_run":
            self._opening += 1
            try:
                return await asyncio.to_thread(self._begin_run, client, message)
            finally:
                self._opening -= 1
        if kind == "end_run":
            # To find what is missing may mean to go through the whole plan.
            return await asyncio.to_thread(self._end_run, message)
        if kind == "live":
            return await asyncio.to_thread(self._live.show, client, message)
        if kind == "live_end":
            self._live.end(client)
            return None
        if kind == "forecast":
            return await asyncio.to_thread(self._forecast, message)
        if kind == "subscribe":
            client.subscribed = True
            return {"ok": True}
        if kind == "status":
            return {"ok": True, "status": await asyncio.to_thread(self.status)}
        if kind == "stop":
            self._stop_now = self._stop_now or bool(message.get("now"))
            self._stopping = True
            self._stop_asked.set()
            catch_up_s = 0.0 if self._stop_now else _CATCH_UP_S
            return {
                "ok": True,
                "acquiring": self._acquiring,
                "within_s": catch_up_s + _CLOSE_S,
            }
        return {"ok": False, "reason": f"unknown message {kind!r}"}

    def _begin_run(self, client: Client, message: Message) -> Message:
        """Open a run, or go on with one after its daemon died."""
        client.ring = client.run = None
        client.begun = True
        try:
            spec = RunSpec.model_validate(message["spec"])
            ring = self._intake.open_ring(str(message["ring"]))
            _check_ring(ring, spec)
            client.run = run = self._runs.begin(spec, ring)
        except DiskFullError as error:
            self._space.refused(spec, str(error))
            return {"ok": False, "reason": str(error), "again": True}
        except (InputError, OSError, RingError, KeyError, ValueError) as error:
            return {"ok": False, "reason": str(error)}
        client.ring = ring
        space = self._space.opened(run, self._runs.all())
        return {"ok": True, "path": str(run.writer.path), "space": space}

    def _forecast(self, message: Message) -> Message:
        """Say whether there is room for a run that is not begun."""
        try:
            spec = RunSpec.model_validate(message["spec"])
        except (KeyError, ValueError) as error:
            return {"ok": False, "reason": str(error)}
        forecast = self._space.plan(spec, self._runs.all())
        space = None if forecast.fits() else forecast.warning(spec.name)
        return {"ok": True, "forecast": forecast.as_json(), "space": space}

    def _frames_announced(self, client: Client, message: Message) -> None:
        ring, run = client.ring, client.run
        if not client.begun:
            raise ProtocolError("frames were announced before their run.")
        if ring is None or run is None:
            return
        for slot, number in message["slots"]:
            # What does not wait there was stored before, or never was.
            if ring.holds(slot, number):
                self._intake.store(run, ring, slot, number, client)

    def _end_run(self, message: Message) -> Message:
        run = self._runs.get(str(message.get("run_id")))
        if run is None:
            return {"ok": False, "reason": "no such run"}
        self._runs.end(run, str(message.get("reason")))
        if message.get("spilled"):
            text = f"run {run.spec.name}: {message['spilled']} frames were spilled to a disk"
            self._note("info", text, run.spec.name)
        answer: Message = {"ok": True, "frames": run.writer.frames_durable}
        if run.missed is not None:
            text = run.missed.in_words(run.spec.name)
            answer["missed"] = {"count": run.missed.count, "text": text}
        return answer

    # --------------------------------------------------- the way of a slice

    def _busy(self) -> bool:
        """Return whether slices or masks wait, and not for the background to free memory."""
        waiting = self._intake.frames_waiting or self._masks.masks_waiting
        return bool(waiting) and not self._budget.full

    def _frame_stored(
        self, run: ActiveRun, header: FrameHeader, stored: StoredFrame, pixels: NDArray[Any]
    ) -> None:
        self._durable_ms.add(1000 * (time.time() - header.taken_at))
        self._rate.count()
        self._space.stored(run, stored.placement)
        segmented = self._runs.segmented(run, stored.placement)
        users = 1 + int(segmented)
        run.owe(users)
        job = StoredSlice(
            run,
            stored.placement,
            header.sequence_number,
            budget=self._budget,
            pixels=pixels,
            header=header,
            users=users,
        )
        progress = run.stack(job.key)
        progress.announced = progress.announced or not segmented
        with self._telling:
            progress.z_um[stored.placement.z] = header.z_um
            progress.last_number = max(progress.last_number, header.sequence_number)
        for earlier in run.complete_before(job.key):
            self._tell_stack(run, earlier)
        self._hub.slice_taken(stored.placement, header, pixels)
        if segmented:
            self._masks.put(job)
        self._background.put(job)

    def _mask_made(
        self, job: StoredSlice, result: Inference, fraction: float, model: str, provider: str
    ) -> None:
        run, placement = job.run, job.placement
        latency = 0.0
        if job.header is not None:
            latency = 1000 * (time.time() - job.header.taken_at)
            self._mask_ms.add(latency)
        progress = run.stack(job.key)
        run.masked += 1
        self._hub.mask_made(
            run.spec.run_id,
            placement,
            job.sequence_number,
            result.mask,
            in_focus_fraction=fraction,
            focus_score=result.focus_score,
            model=model,
            provider=provider,
            milliseconds=result.milliseconds,
            latency_ms=latency,
        )
        self._send_mask(job, result, fraction, model)
        with self._telling:
            progress.in_focus_fraction[placement.z] = fraction
            progress.focus_score[placement.z] = result.focus_score
        self._tell_stack(run, progress)
        self._tell_all_masked(run)

    def _send_mask(self, job: StoredSlice, result: Inference, fraction: float, model: str) -> None:
        clients, run = self._subscribers(), job.run
        if not clients:
            return
        message = {
            "type": "mask",
            "run_id": run.spec.run_id,
            "sequence_number": job.sequence_number,
            "placement": list(job.placement),
            "z_um": run.stack(job.key).z_um.get(job.placement.z),
            "in_focus_fraction": fraction,
            "focus_score": result.focus_score,
            "model": model,
            "milliseconds": result.milliseconds,
            **packed_mask(result.mask),
        }
        for client in clients:
            client.send(message)

    def _tell_stack(self, run: ActiveRun, progress: StackProgress) -> None:
        """Tell what is known of a stack, once, when its last mask is there."""
        with self._telling:
            if progress.announced or not progress.masked:
                return
            progress.announced = True
        images, number = run.spec.images, progress.key.image
        self._tell_clients(
            {
                "type": "stack",
                "key": list(progress.key),
                "image_name": images[number].name if number < len(images) else f"image {number}",
                "last_number": progress.last_number,
                "z_um": progress.heights,
                "in_focus_fraction": progress.fractions,
                "focus_score": progress.scores,
                "best_z": progress.best_z,
            }
        )
        run.forget(progress)

    def _run_ended(self, run: ActiveRun) -> None:
        """Tell what is known of stacks that were cut off, or that nobody had planned."""
        for progress in run.stacks():
            progress.complete = True
            self._tell_stack(run, progress)
        self._tell_all_masked(run)

    def _run_closed(self, run_id: str) -> None:
        self._warnings.clear(("disk", run_id))
        self._hub.run_ended(run_id)

    def _tell_all_masked(self, run: ActiveRun) -> None:
        if run.all_announced:
            self._tell_clients({"type": "masked", "run_id": run.spec.run_id})

    def _tell_clients(self, message: Message) -> None:
        for client in list(self._clients):
            client.send(message)

    def _subscribers(self) -> list[Client]:
        # Who does not take its masks gets no more of them: memory is not a queue.
        return [
            client
            for client in list(self._clients)
            if client.subscribed and client.connection.unsent_bytes < _MOST_UNSENT_BYTES
        ]

    def _stack_labelled(
        self, run: ActiveRun, progress: StackProgress, fractions: list[float | None]
    ) -> None:
        self._hub.stack_labelled(progress.key, fractions)
        if progress.trainable and run.writer.pixels_stored:
            self._trainer.stack_labelled(run.spec.profile, run.writer.path)

    def _model_changed(self, profile: str, version: str | None, reason: str) -> None:
        key = ("model", profile)
        if version is None:
            self._warnings.warn(f"profile {profile}: model refused: {reason}", key=key)
            return
        self._warnings.clear(key)
        self._say(f"profile {profile}: model {version} in use ({reason})")
        for run in self._runs.all():
            if run.spec.profile == profile:
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

    def _tell_space(self, run_id: str, text: str | None) -> None:
        for client in list(self._clients):
            run = client.run
            if run is not None and run.spec.run_id == run_id:
                client.send({"type": "space", "text": text})

    @property
    def _acquiring(self) -> bool:
        return self._opening > 0 or self._runs.acquiring

    @property
    def state(self) -> DaemonState:
        """What the daemon is doing."""
        if self._stopping:
            return DaemonState.STOPPING
        if self._acquiring:
            return DaemonState.ACQUIRING
        return DaemonState.CATCHING_UP if self._runs else DaemonState.READY

    def status(self) -> dict[str, object]:
        """Return what `status --json` and the page show."""
        run = next(reversed(self._runs.all()), None)
        model, provider = self._masks.running("default" if run is None else run.spec.profile)
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
            "frames_per_s": self._rate.per_second(),
            "camera_to_durable_ms": self._durable_ms.summary(),
            "camera_to_mask_ms": self._mask_ms.summary(),
            "waiting": {
                "frames": self._intake.frames_waiting,
                "masks": self._masks.masks_waiting,
                "slices_to_label": self._background.jobs_waiting,
            },
            "trainer": self._trainer.status(),
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


def _check_ring(ring: MemoryRing, spec: RunSpec) -> None:
    """Refuse a ring that is another run's: its frames would be stored under a wrong name."""
    told = run_of(ring)
    if told is not None and told.run_id != spec.run_id:
        raise RingError(f"{ring.path}: carries run {told.name}, not {spec.name}.")
    if not ring.fits(spec.frame_bytes, b""):
        raise RingError(f"{ring.path}: frames of {spec.frame_bytes} bytes do not fit its slots.")


def _describe(run: ActiveRun) -> dict[str, object]:
    return {
        "name": run.spec.name,
        "path": str(run.writer.path),
        "frames_expected": run.spec.frames_expected,
        "frames_received": run.received,
        "frames_durable": run.writer.frames_durable,
        "frames_masked": run.masked,
        "pixels_stored": run.writer.pixels_stored,
    }


def _check_presets(config: Config) -> None:
    for name, profile in config.profiles.items():
        try:
            preset_named(profile.label_preset)
        except ValueError as error:
            raise InputError(f"configuration: profiles.{name}.label_preset: {error}") from None


def _conditions(config: Config) -> dict[str, Conditions]:
    """Return how each profile images; reads the flat fields."""
    conditions = {}
    for name, profile in config.profiles.items():
        try:
            conditions[name] = Conditions(**profile.imaging())
        except InputError as error:
            raise InputError(f"configuration: profiles.{name}.flat_field: {error}") from None
    return conditions
