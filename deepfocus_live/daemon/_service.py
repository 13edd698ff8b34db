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
import base64
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import zlib
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import __version__, _platform
from deepfocus_live.config import Config
from deepfocus_live.daemon._intake import Client, Intake, run_of
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._latency import LatencyWindow, RateWindow
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._page import PageServer
from deepfocus_live.daemon._run import ActiveRun, PixelBudget, StackProgress, StoredSlice
from deepfocus_live.daemon._trainer import TrainerProcess
from deepfocus_live.errors import InputError
from deepfocus_live.focus import preset_named
from deepfocus_live.focus import warm_up as warm_up_focus
from deepfocus_live.frames import FrameHeader, Placement, RunSpec
from deepfocus_live.inference import Inference
from deepfocus_live.model import Registry
from deepfocus_live.ring import (
    Connection,
    DaemonAddress,
    MemoryRing,
    Message,
    RingError,
    forget_daemon,
    leftover_rings,
    new_key,
    publish_daemon,
    serve_control,
)
from deepfocus_live.volume import RunWriter, StoredFrame, halve_mean
from deepfocus_live.web import LiveHub

__all__ = ["Daemon", "DaemonState"]

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_WATCH_S = 0.5
_MOST_WARNINGS = 20
_MOST_RECENT = 100
_CATCH_UP_S = 60.0
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
        If the output folder or the page's port cannot be had.
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
        self._started = time.time()
        self._stopping = False
        self._opening = 0
        self._runs: dict[str, ActiveRun] = {}
        self._recent: dict[str, Path] = {}
        self._clients: set[Client] = set()
        self._guard = threading.RLock()
        self._warnings: dict[str, int] = {}
        self._trouble: str | None = None
        self._budget = PixelBudget(config.inference.backlog_mb << 20)
        self._durable_ms, self._mask_ms = LatencyWindow(), LatencyWindow()
        self._rate = RateWindow()
        _check_writable(config.output_dir)
        _check_presets(config)
        self.registry = Registry(config.models_dir)
        self._hub = LiveHub()
        self._page = PageServer(config.web, self._hub, self, self.status, prefer_port=prefer_port)
        self._intake = Intake(
            config.storage, on_stored=self._frame_stored, on_trouble=self._disk_trouble
        )
        self._masks = MaskMaker(
            config, self.registry, on_mask=self._mask_made, on_model=self._model_changed
        )
        self._background = Background(
            labels=config.labels.enabled,
            busy=lambda: bool(self._intake.frames_waiting or self._masks.masks_waiting),
            on_labelled=self._stack_labelled,
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
        await asyncio.to_thread(self._warm_up)
        server = await serve_control(key, self._serve_client)
        await asyncio.to_thread(self._take_over_leftovers)
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
        log.info("ready; the page is at %s", self._page.address)
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

    def _warm_up(self) -> None:
        warm_up_focus()
        for dtype in (np.uint8, np.uint16):
            halve_mean(np.zeros((2, 2), dtype))
        if self._config.inference.enabled:
            self._masks.start()

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
        # What is still owed to these is made good by the next daemon.
        for run in list(self._runs.values()):
            run.writer.close()
        for path in list(self._intake.rings):
            self._intake.close_ring(path, remove=False)
        self._hub.close()
        self._page.stop()

    async def _beat(self) -> None:
        """Tell every client that the event loop is alive; nothing else may hold this up."""
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            for client in list(self._clients):
                client.connection.send({"type": "heartbeat"})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            await asyncio.to_thread(self._look_around)
            if self._owner is not None and not self._owner.alive():
                self._stop_now = True
                self._stop_asked.set()

    def _look_around(self) -> None:
        self._close_finished()
        self._trainer.look()
        self._take_over_rings()

    # ------------------------------------------------------------- clients

    async def _serve_client(self, connection: Connection) -> None:
        client = Client(connection, asyncio.get_running_loop())
        self._clients.add(client)
        try:
            while True:
                message = await connection.receive()
                answer = await self._answer(client, message)
                if answer is not None:
                    connection.send({"type": "answer", "re": message["type"], **answer})
        finally:
            self._clients.discard(client)

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
            return self._end_run(message)
        if kind == "subscribe":
            client.subscribed = True
            return {"ok": True}
        if kind == "status":
            return {"ok": True, "status": await asyncio.to_thread(self.status)}
        if kind == "stop":
            self._stop_now = self._stop_now or bool(message.get("now"))
            self._stopping = True
            self._stop_asked.set()
            return {"ok": True, "acquiring": self._acquiring}
        return {"ok": False, "reason": f"unknown message {kind!r}"}

    def _begin_run(self, client: Client, message: Message) -> Message:
        """Open a run, or go on with one after its daemon died."""
        try:
            spec = RunSpec.model_validate(message["spec"])
            ring = self._intake.open_ring(str(message["ring"]))
            run = self._runs.get(spec.run_id) or self._reopen_or_create(spec, ring.folder)
            ring.folder = run.writer.path
            run.ended = False
        except (InputError, OSError, RingError, KeyError, ValueError) as error:
            return {"ok": False, "reason": str(error)}
        client.ring = ring
        return {"ok": True, "path": str(run.writer.path)}

    def _create(self, spec: RunSpec) -> ActiveRun:
        profile = self._config.profiles.get(spec.profile)
        if profile is None:
            raise InputError(f"there is no profile {spec.profile!r} in the configuration.")
        output = Path(spec.output) if spec.output else self._config.output_dir
        about = {
            "profile": {"name": spec.profile, **profile.model_dump(mode="json")},
            "configuration": self._config.model_dump(mode="json"),
            "model": self._masks.running(spec.profile)[0],
            "software": {"deepfocus-live": __version__, **spec.software},
        }
        writer = RunWriter.create(output, spec, self._config.storage, about=about)
        return self._adopt(writer)

    def _reopen(self, path: Path) -> ActiveRun:
        """Open a run that an earlier daemon began, and owe it what that one did not finish."""
        run = self._adopt(RunWriter.reopen(path, self._config.storage))
        writer = run.writer
        leftovers = []
        for number, placement in writer.durable_placements().items():
            wants_mask = number not in writer.masked_before and self._segmented(run, placement)
            wants_label = placement.stack(run.spec.run_id) not in writer.labelled_before
            run.received += 1
            run.masked += not wants_mask
            if wants_mask or wants_label:
                users = int(wants_mask) + int(wants_label)
                job = StoredSlice(run, placement, number, budget=self._budget, users=users)
                run.owe(users)
                if wants_label:
                    self._background.put(job)
                if wants_mask:
                    leftovers.append(job)
        self._masks.put_old(leftovers)
        return run

    def _adopt(self, writer: RunWriter) -> ActiveRun:
        spec = writer.spec
        profile = self._config.profiles[spec.profile]
        run = ActiveRun(writer, preset=profile.label_preset)
        if self._config.inference.enabled:
            try:
                # Warm before the first frame is accepted, at the size it will have.
                self._masks.prepare(spec.profile, (spec.height_px, spec.width_px))
            except InputError as error:
                self._warn(f"run {spec.name}: no masks: {error}")
                run.segmented = False
        with self._guard:
            self._runs[spec.run_id] = run
            self._recent[spec.run_id] = writer.path
            while len(self._recent) > _MOST_RECENT:
                del self._recent[next(iter(self._recent))]
            self._remember_open_runs()
        self._hub.run_started(spec)
        return run

    def _frames_announced(self, client: Client, message: Message) -> None:
        ring = client.ring
        if ring is None:
            return
        for slot, number in message["slots"]:
            run = self._run_of(ring)
            if run is not None and 0 <= slot < ring.slots:
                self._intake.store(run, ring, slot, number, client)

    def _run_of(self, ring: MemoryRing) -> ActiveRun | None:
        spec = run_of(ring)
        return None if spec is None else self._runs.get(spec.run_id)

    def _end_run(self, message: Message) -> Message:
        run = self._runs.get(str(message.get("run_id")))
        if run is None:
            return {"ok": False, "reason": "no such run"}
        self._finish_acquisition(run, str(message.get("reason")))
        return {"ok": True, "frames": run.writer.frames_durable}

    def _finish_acquisition(self, run: ActiveRun, reason: str) -> None:
        known = ("completed", "canceled", "errored")
        if not run.writer.ended_before:
            run.writer.end(reason if reason in known else "interrupted")  # type: ignore[arg-type]
        # Counted before `ended` is seen: the run must not be closed under its last job.
        run.owe(1)
        run.ended = True
        self._background.put(run)

    # ------------------------------------------------- what others left behind

    def _take_over_leftovers(self) -> None:
        """Store what dead producers left, and finish runs that a dead daemon left."""
        self._take_over_rings()
        for path in self._open_runs_before():
            held = any(run.writer.path == path for run in self._runs.values())
            if not held and not self._has_live_ring(path):
                with contextlib.suppress(InputError, OSError, KeyError):
                    run = self._reopen(path)
                    self._finish_acquisition(run, "interrupted")

    def _take_over_rings(self) -> None:
        """Store what is in the rings of dead producers, also of those we never heard of."""
        found = leftover_rings()
        for path in set(map(Path, self._intake.rings)) - set(found):
            # Removed by its owner: our mapping would keep its memory.
            self._intake.close_ring(str(path), remove=False)
        for path in found:
            try:
                ring = self._intake.open_ring(str(path))
            except (OSError, RingError, ValueError):
                # Being made right now, or no ring of this version: not ours to touch.
                continue
            if not ring.producer.alive():
                self._take_over(str(path))

    def _take_over(self, path: str) -> None:
        """Drain the ring of a dead producer, then remove it."""
        ring = self._intake.open_ring(path)
        spec = run_of(ring)
        if spec is not None:
            run = self._runs.get(spec.run_id)
            try:
                if run is None and ring.waiting():
                    run = self._reopen_or_create(spec, ring.folder)
            except (InputError, OSError) as error:
                # The frames stay in the ring: this is not the time to give them up.
                self._warn(f"frames of run {spec.name} wait in {path}: {error}")
                return
            if run is not None and not run.ended:
                self._intake.drain(run, ring)
                self._finish_acquisition(run, "interrupted")
        self._intake.close_ring(path, remove=True)

    def _reopen_or_create(self, spec: RunSpec, folder: Path | None) -> ActiveRun:
        if folder is None:
            return self._create(spec)
        if folder.exists():
            return self._reopen(folder)
        # Its folder is gone, its last frames are not: they get a run of their own.
        return self._create(spec.model_copy(update={"name": f"{spec.name}-rest"}))

    def _has_live_ring(self, folder: Path) -> bool:
        return any(
            ring.folder == folder and ring.producer.alive() for ring in self._intake.rings.values()
        )

    def _remember_open_runs(self) -> None:
        paths = [str(run.writer.path) for run in self._runs.values()]
        file = _open_runs_file()
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(paths), encoding="utf-8")
        _platform.replace(partial, file)

    def _open_runs_before(self) -> list[Path]:
        try:
            return [Path(p) for p in json.loads(_open_runs_file().read_text(encoding="utf-8"))]
        except (OSError, ValueError):
            return []

    def _close_finished(self) -> None:
        with self._guard:
            done = [run for run in self._runs.values() if run.finished]
            for run in done:
                del self._runs[run.spec.run_id]
            if done:
                self._remember_open_runs()
        for run in done:
            run.writer.close()
            self._hub.run_ended(run.spec.run_id)
            log.info("run %s closed: %d slices", run.writer.path, run.writer.frames_durable)

    # --------------------------------------------------- the way of a slice

    def _segmented(self, run: ActiveRun, placement: Placement) -> bool:
        wanted = self._config.profiles[run.spec.profile].channels
        name = run.spec.channels[placement.c].name
        return self._config.inference.enabled and run.segmented and (not wanted or name in wanted)

    def _frame_stored(
        self, run: ActiveRun, header: FrameHeader, stored: StoredFrame, pixels: NDArray[Any]
    ) -> None:
        self._durable_ms.add(1000 * (time.time() - header.taken_at))
        self._rate.count()
        segmented = self._segmented(run, stored.placement)
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
        progress.z_um[stored.placement.z] = header.z_um
        progress.announced = progress.announced or not segmented
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
        progress.in_focus_fraction[placement.z] = fraction
        run.masked += 1
        self._hub.mask_made(
            run.spec.run_id,
            placement,
            job.sequence_number,
            result.mask,
            in_focus_fraction=fraction,
            focus_score=None,
            model=model,
            provider=provider,
            milliseconds=result.milliseconds,
            latency_ms=latency,
        )
        self._send_mask(job, result, fraction, model)
        if len(progress.in_focus_fraction) >= progress.size_z and not progress.announced:
            progress.announced = True
            self._send_stack(progress)
            run.forget(progress)

    def _send_mask(self, job: StoredSlice, result: Inference, fraction: float, model: str) -> None:
        clients = self._subscribers()
        if not clients:
            return
        packed = zlib.compress(np.packbits(result.mask).tobytes(), 1)
        message = {
            "type": "mask",
            "run_id": job.run.spec.run_id,
            "sequence_number": job.sequence_number,
            "placement": list(job.placement),
            "shape": list(result.mask.shape),
            "mask": base64.b64encode(packed).decode(),
            "in_focus_fraction": fraction,
            "model": model,
            "milliseconds": result.milliseconds,
        }
        for client in clients:
            client.send(message)

    def _send_stack(self, progress: StackProgress) -> None:
        message = {
            "type": "stack",
            "key": list(progress.key),
            "z_um": progress.heights,
            "in_focus_fraction": progress.fractions,
            "best_z": progress.best_z,
        }
        for client in self._subscribers():
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
        self._trainer.stack_labelled(run.spec.profile, run.writer.path)

    def _model_changed(self, profile: str, version: str | None, reason: str) -> None:
        if version is None:
            self._warn(f"profile {profile}: model refused: {reason}")
            return
        self._say(f"profile {profile}: model {version} in use ({reason})")
        for run in list(self._runs.values()):
            if run.spec.profile == profile:
                run.writer.note("model", model=version)

    # ------------------------------------------------------------ what is said

    def _say(self, text: str) -> None:
        log.info("%s", text)
        self._hub.note("info", text)

    def _warn(self, text: str) -> None:
        with self._guard:
            first = text not in self._warnings
            self._warnings[text] = self._warnings.pop(text, 0) + 1
            while len(self._warnings) > _MOST_WARNINGS:
                del self._warnings[next(iter(self._warnings))]
        if first:
            log.warning("%s", text)
            self._hub.note("warning", text)

    def _disk_trouble(self, text: str | None) -> None:
        self._trouble = text
        if text is None:
            self._say("the disk takes slices again")
        else:
            self._warn(text)

    @property
    def _acquiring(self) -> bool:
        return self._opening > 0 or any(not run.ended for run in list(self._runs.values()))

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
        run = next(reversed(list(self._runs.values())), None)
        model, provider = self._masks.running("default" if run is None else run.spec.profile)
        with self._guard:
            warnings = [f"{text} (×{n})" if n > 1 else text for text, n in self._warnings.items()]
        return {
            "state": str(self.state),
            "pid": os.getpid(),
            "version": __version__,
            "address": self._page.address,
            "uptime_s": round(time.time() - self._started, 1),
            "output": str(self._config.output_dir),
            "run": None if run is None else _describe(run),
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
            "disk_free_bytes": _free_bytes(self._config.output_dir),
            "warnings": warnings,
        }

    # ----------------------------------------------------- for the page's scrubbing

    def read_slice(
        self, run_id: str, placement: Placement
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return a stored slice of a run of this daemon's life, and its mask.

        Raises
        ------
        KeyError
            If there is no such slice.
        """
        run = self._runs.get(run_id)
        try:
            if run is not None:
                return run.writer.read_slice(placement), run.writer.read_mask(placement)
            return _read_closed(self._recent[run_id], placement)
        except (IndexError, OSError) as error:
            raise KeyError(str(error)) from None


def _read_closed(path: Path, placement: Placement) -> tuple[NDArray[Any], NDArray[Any]]:
    from deepfocus_live.volume import open_run

    image = open_run(path).images[placement.image]
    at = placement[1:]
    return np.asarray(image.image[at]), np.asarray(image.in_focus[at])


def _describe(run: ActiveRun) -> dict[str, object]:
    return {
        "name": run.spec.name,
        "path": str(run.writer.path),
        "frames_expected": run.spec.frames_expected,
        "frames_received": run.received,
        "frames_durable": run.writer.frames_durable,
        "frames_masked": run.masked,
    }


def _check_writable(folder: Path) -> None:
    probe = folder / f".deepfocus-live-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write runs here: {error.strerror}. Choose another --output."
        ) from None


def _check_presets(config: Config) -> None:
    for name, profile in config.profiles.items():
        try:
            preset_named(profile.label_preset)
        except ValueError as error:
            raise InputError(f"configuration: profiles.{name}.label_preset: {error}") from None


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _open_runs_file() -> Path:
    return _platform.runtime_dir() / "open_runs.json"
