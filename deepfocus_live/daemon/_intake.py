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
from deepfocus_live.frames import FrameHeader, RunSpec
from deepfocus_live.ring import Connection, MemoryRing, RingError
from deepfocus_live.volume import StoredFrame

__all__ = ["Client", "Intake", "run_of"]

log = logging.getLogger(__name__)

_RETRY_S = 1.0
Stored = Callable[[ActiveRun, FrameHeader, StoredFrame, NDArray[Any]], None]


class Client:
    """One connected microscope's process. Messages may be sent from any thread."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.subscribed = False
        self.ring: MemoryRing | None = None
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
        Called with one line when the disk refuses, and with None when it takes again.
    """

    def __init__(
        self,
        storage: StorageConfig,
        *,
        on_stored: Stored,
        on_trouble: Callable[[str | None], None],
    ) -> None:
        self._workers = ThreadPoolExecutor(storage.workers, thread_name_prefix="store")
        self._on_stored = on_stored
        self._on_trouble = on_trouble
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
        self, run: ActiveRun, ring: MemoryRing, slot: int, number: int, client: Client | None
    ) -> None:
        """Queue one announced frame; one that is being stored already is passed over."""
        if run.claim(number):
            with self._lock:
                self._waiting += 1
            with contextlib.suppress(RuntimeError):  # stopping: the slot keeps the frame
                self._workers.submit(self._store_or_retry, run, ring, slot, number, client)

    def drain(self, run: ActiveRun, ring: MemoryRing) -> None:
        """Store everything that a dead producer left in its ring; waits until it is durable."""
        for slot, number in ring.waiting():
            self.store(run, ring, slot, number, None)
        while ring.waiting() and not self._stopping.is_set():
            time.sleep(0.01)

    def stop(self) -> None:
        """End the workers. What they had begun is finished; the rest stays in the rings."""
        self._stopping.set()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _store_or_retry(
        self, run: ActiveRun, ring: MemoryRing, slot: int, number: int, client: Client | None
    ) -> None:
        try:
            self._store(run, ring, slot, number, client)
        except Exception as error:
            # Whatever it is, the frame is safe in its slot and must not be given up.
            log.exception("run %s, frame %d could not be stored", run.spec.name, number)
            self._on_trouble(f"{run.writer.path}: {error}")
            self._again(run, ring, slot, number, client)

    def _again(
        self, run: ActiveRun, ring: MemoryRing, slot: int, number: int, client: Client | None
    ) -> None:
        self._finished(run, number)
        if not self._stopping.wait(_RETRY_S):
            self.store(run, ring, slot, number, client)

    def _store(
        self, run: ActiveRun, ring: MemoryRing, slot: int, number: int, client: Client | None
    ) -> None:
        try:
            header, pixels = ring.get(slot)
        except (RingError, ValueError) as error:
            # Already acknowledged by an earlier announcement, or not ours to read.
            log.warning("run %s, frame %d: %s", run.spec.name, number, error)
            self._finished(run, number)
            return
        if header.sequence_number != number:
            self._finished(run, number)
            return
        stored = self._insist(run, header, pixels)
        if stored is None:
            self._finished(run, number)
            return

        def durable(error: BaseException | None) -> None:
            if error is not None:
                self._on_trouble(_refusal(run, error))
                # The slot still holds the frame: it is stored again from there, but by a
                # worker, which may wait; this is the journal's thread.
                with contextlib.suppress(RuntimeError):
                    self._workers.submit(self._again, run, ring, slot, number, client)
                return
            self._acknowledge(ring, slot, number, client)
            if not stored.duplicate:
                self._tell_stored(run, header, stored, pixels)
            self._finished(run, number)

        if stored.duplicate:
            durable(None)
        else:
            run.writer.journal_frame(header, stored, durable)

    def _tell_stored(
        self, run: ActiveRun, header: FrameHeader, stored: StoredFrame, pixels: NDArray[Any]
    ) -> None:
        try:
            self._on_stored(run, header, stored, pixels)
        except Exception:
            # The frame is safe; what comes after it must not end the journal's thread.
            log.exception("run %s, frame %d", run.spec.name, header.sequence_number)

    def _insist(
        self, run: ActiveRun, header: FrameHeader, pixels: NDArray[Any]
    ) -> StoredFrame | None:
        """Write until the disk takes it: it may be full only for now."""
        refused = False
        while True:
            try:
                stored = run.writer.write_frame(header, pixels)
            except OSError as error:
                refused = True
                self._on_trouble(_refusal(run, error))
                if self._stopping.wait(_RETRY_S):
                    return None
                continue
            if refused:
                self._on_trouble(None)
            return stored

    def _acknowledge(self, ring: MemoryRing, slot: int, number: int, client: Client | None) -> None:
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


def run_of(ring: MemoryRing) -> RunSpec | None:
    """Return the run that the frames in a ring belong to; None before there is one."""
    try:
        return RunSpec.model_validate_json(ring.run)
    except ValueError:
        return None
