"""Clients and their rings: from an announced slot to a durable, acknowledged slice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.config import StorageConfig
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.daemon._warnings import SayWarning
from deepfocus_live.frames import FrameHeader, RunSpec
from deepfocus_live.ring import Connection, MemoryRing, RingError, SpilledFrames
from deepfocus_live.volume import StoredFrame

__all__ = ["Client", "FrameSource", "Intake", "run_of"]

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_AT_ONCE = 8
_MEMORY_POLL_S = 0.01
FrameSource = MemoryRing | SpilledFrames
Stored = Callable[[ActiveRun, FrameHeader, StoredFrame, NDArray[Any]], None]


class Client:
    """One connected microscope's process. Messages may be sent from any thread."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.subscribed = False
        self.ring: MemoryRing | None = None
        self.begun = False
        """Whether it ever asked for a run."""
        self.run: ActiveRun | None = None
        """The run whose frames come through `ring` now."""
        self._loop = loop
        self._acks_waiting = False

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; passed over when the client or the loop is gone."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.connection.send, message)

    def acknowledged(self) -> None:
        """Wake the client: its ring says which frames are durable now."""
        # One message wakes it for however many frames became durable meanwhile.
        if not self._acks_waiting:
            self._acks_waiting = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._send_acks)

    def _send_acks(self) -> None:
        self._acks_waiting = False
        self.connection.send({"type": "acks"})


class Intake:
    """Stores announced frames with a few worker threads.

    Parameters
    ----------
    storage : StorageConfig
        How many workers.
    on_stored : callable
        Called once per newly durable frame, on the journal's thread: must be quick.
    on_trouble : callable
        Called with a run and one line whenever the disk refuses a slice of it, and with the run
        and None when it takes them again.
    warn : callable
        Told of frames that are lost.
    memory_full : callable
        Whether frames of runs that keep no pixels must stay in their slots for now.
    """

    def __init__(
        self,
        storage: StorageConfig,
        *,
        on_stored: Stored,
        on_trouble: Callable[[ActiveRun, str | None], None],
        warn: SayWarning,
        memory_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._workers = ThreadPoolExecutor(storage.workers, thread_name_prefix="store")
        self._on_stored = on_stored
        self._on_trouble = on_trouble
        self._warn = warn
        self._troubled: set[str] = set()
        self._memory_full = memory_full
        self._stopping = threading.Event()
        self.rings: dict[str, MemoryRing] = {}
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def frames_waiting(self) -> int:
        """Frames announced that are not durable yet."""
        return self._waiting

    def open_ring(self, path: str) -> MemoryRing:
        """Return the ring at `path`, mapped once however often its owner comes back."""
        ring = self.rings.get(path)
        if ring is None:
            ring = self.rings[path] = MemoryRing(Path(path))
        return ring

    def close_ring(self, path: str, *, remove: bool) -> None:
        """Let a ring go."""
        ring = self.rings.pop(path, None)
        if ring is not None:
            with contextlib.suppress(OSError):
                ring.close(remove=remove)

    def store(
        self, run: ActiveRun, ring: FrameSource, slot: int, number: int, client: Client | None
    ) -> None:
        """Queue one announced frame; one that is being stored already is passed over."""
        if run.claim(number):
            with self._lock:
                self._waiting += 1
            with contextlib.suppress(RuntimeError):  # stopping: the slot keeps the frame
                self._workers.submit(self._store_or_retry, run, ring, slot, number, client)

    def drain(self, run: ActiveRun, ring: FrameSource) -> None:
        """Store everything that a dead producer left; waits until it is durable.

        A few at a time: behind them in the queue are those of who acquires now. Where the daemon
        is stopped meanwhile the rest still waits where it was.
        """
        while (waiting := ring.waiting()) and not self._stopping.is_set():
            for slot, number in waiting[:_AT_ONCE]:
                self.store(run, ring, slot, number, None)
            time.sleep(0.01)

    def stop(self) -> None:
        """End the workers. What they had begun is finished; the rest stays in the rings."""
        self._stopping.set()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _store_or_retry(
        self, run: ActiveRun, ring: FrameSource, slot: int, number: int, client: Client | None
    ) -> None:
        try:
            self._store(run, ring, slot, number, client)
        except Exception as error:
            # Whatever it is, the frame is safe in its slot and must not be given up.
            if run.spec.run_id not in self._troubled:
                name = run.spec.name
                log.exception("frame %d could not be stored", number, extra={"run": name})
            self._trouble(run, f"{run.writer.path}: {error}")
            self._again(run, ring, slot, number, client)

    def _again(
        self, run: ActiveRun, ring: FrameSource, slot: int, number: int, client: Client | None
    ) -> None:
        self._finished(run, number)
        if not self._stopping.wait(_RETRY_S):
            self.store(run, ring, slot, number, client)

    def _store(
        self, run: ActiveRun, ring: FrameSource, slot: int, number: int, client: Client | None
    ) -> None:
        if not self._wait_for_memory(run):
            self._finished(run, number)
            return
        try:
            header, pixels = ring.get(slot)
            if (header.sequence_number, header.run_id) != (number, run.spec.run_id):
                raise RingError(f"{ring.path}: slot {slot} holds another frame.")
            run.hardware_triggered |= header.hardware_triggered
        except (RingError, ValueError) as error:
            # Already acknowledged by an earlier announcement, or not ours to read.
            log.warning("frame %d: %s", number, error, extra={"run": run.spec.name})
            if client is None and (slot, number) in ring.waiting():
                # Nobody will put it right: what is damaged must not hold up the rest for ever.
                name = run.spec.name
                text = f"run {name}: frame {number} is lost: {error}"
                self._warn(text, key=("lost", run.spec.run_id), run=name)
                ring.acknowledge(slot, number)
            self._finished(run, number)
            return
        stored = self._insist(run, header, pixels)
        if stored is None:
            self._finished(run, number)
            return

        def durable(error: BaseException | None) -> None:
            if error is not None:
                self._trouble(run, _refusal(run, error))
                # The slot still holds the frame: it is stored again from there, but by a
                # worker, which may wait; this is the journal's thread.
                with contextlib.suppress(RuntimeError):
                    self._workers.submit(self._again, run, ring, slot, number, client)
                return
            self._acknowledge(ring, slot, number, client)
            self._no_trouble(run)
            if not stored.duplicate or run.found_again(number):
                self._tell_stored(run, header, stored, pixels)
            self._finished(run, number)

        if stored.duplicate:
            durable(None)
        else:
            run.writer.journal_frame(header, stored, durable)

    def _wait_for_memory(self, run: ActiveRun) -> bool:
        """Wait until there is room for what is kept nowhere else; return whether there is."""
        while not run.writer.pixels_stored and self._memory_full():
            if self._stopping.wait(_MEMORY_POLL_S):
                return False
        return True

    def _tell_stored(
        self, run: ActiveRun, header: FrameHeader, stored: StoredFrame, pixels: NDArray[Any]
    ) -> None:
        try:
            self._on_stored(run, header, stored, pixels)
        except Exception:
            # The frame is safe; what comes after it must not end the journal's thread.
            number, name = header.sequence_number, run.spec.name
            log.exception("frame %d: after it was stored", number, extra={"run": name})

    def _insist(
        self, run: ActiveRun, header: FrameHeader, pixels: NDArray[Any]
    ) -> StoredFrame | None:
        """Write until the disk takes it: it may be full only for now."""
        while True:
            try:
                return run.writer.write_frame(header, pixels)
            except OSError as error:
                self._trouble(run, _refusal(run, error))
                if self._stopping.wait(_RETRY_S):
                    return None

    def _trouble(self, run: ActiveRun, text: str) -> None:
        self._troubled.add(run.spec.run_id)
        self._on_trouble(run, text)

    def _no_trouble(self, run: ActiveRun) -> None:
        """Note that a slice of the run is durable."""
        if run.spec.run_id in self._troubled:
            self._troubled.discard(run.spec.run_id)
            self._on_trouble(run, None)

    def _acknowledge(
        self, ring: FrameSource, slot: int, number: int, client: Client | None
    ) -> None:
        ring.acknowledge(slot, number)
        if client is not None:
            client.acknowledged()

    def _finished(self, run: ActiveRun, number: int) -> None:
        run.release(number)
        with self._lock:
            self._waiting -= 1


_REMEDIES = {errno.ENOSPC: "make room", errno.EROFS: "make it writable again"}


def _refusal(run: ActiveRun, error: BaseException) -> str:
    """Return the one line that says why the disk does not take slices, and what to do."""
    if not isinstance(error, OSError):
        return f"{run.writer.path}: {error}"
    words = f"{run.writer.path}: {error.strerror or error}"
    remedy = _REMEDIES.get(error.errno or 0)
    return words if remedy is None else f"{words}: {remedy}."


def run_of(ring: FrameSource) -> RunSpec | None:
    """Return the run that the frames of a ring or spill belong to; None before there is one."""
    try:
        return RunSpec.model_validate_json(ring.run)
    except ValueError:
        return None
