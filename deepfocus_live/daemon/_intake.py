"""Clients and their rings: from an announced slot to a durable, acknowledged slice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.config import StorageConfig
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.daemon._turns import Turns
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


@dataclass(frozen=True)
class _Announced:
    """A frame that waits in its slot."""

    run: ActiveRun
    source: FrameSource
    slot: int
    number: int
    client: Client | None


class Intake:
    """Stores announced frames with a few worker threads: of several rings in turns.

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
        self._turns = Turns(storage.workers, "store")
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

    def ring_fill(self) -> float:
        """Return how full the fullest ring is, 0 … 1."""
        rings = list(self.rings.values())
        # One that is closed meanwhile has nothing in it.
        with contextlib.suppress(ValueError):
            return max((len(ring.waiting()) / ring.slots for ring in rings), default=0.0)
        return 0.0

    def open_ring(self, path: str) -> MemoryRing:
        """Return the ring at `path`, mapped once however often its owner comes back."""
        with self._lock:
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
            frame = _Announced(run, ring, slot, number, client)
            self._turns.put(ring.path, partial(self._store_or_retry, frame))

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
        self._turns.stop()

    def _store_or_retry(self, frame: _Announced) -> float | None:
        """Store a frame; return after how many seconds to try again where that cannot be now."""
        run = frame.run
        try:
            return self._store(frame)
        except OSError as error:
            # The disk may be full only for now.
            self._trouble(run, _refusal(run, error))
        except Exception as error:
            # Whatever it is, the frame is safe in its slot and must not be given up.
            if run.spec.run_id not in self._troubled:
                name = run.spec.name
                log.exception("frame %d could not be stored", frame.number, extra={"run": name})
            self._trouble(run, f"{run.writer.path}: {error}")
        return _RETRY_S

    def _store(self, frame: _Announced) -> float | None:
        run, number = frame.run, frame.number
        if not run.writer.pixels_stored and self._memory_full():
            # There must be room for what is kept nowhere else.
            return _MEMORY_POLL_S
        read = self._read(frame)
        if read is None:
            self._finished(run, number)
            return None
        header, pixels = read
        run.hardware_triggered |= header.hardware_triggered
        stored = run.writer.write_frame(header, pixels)

        def durable(error: BaseException | None) -> None:
            if error is not None:
                self._trouble(run, _refusal(run, error))
                # The slot still holds the frame: it is stored again from there.
                again = partial(self._store_or_retry, frame)
                self._turns.put_again(frame.source.path, again, _RETRY_S)
                return
            self._acknowledge(frame)
            self._no_trouble(run)
            if not stored.duplicate or run.found_again(number):
                self._tell_stored(run, header, stored, pixels)
            self._finished(run, number)

        if stored.duplicate:
            durable(None)
        else:
            # What a file held when the computer went down may be torn, and nothing tells.
            marks = {"may_be_torn": True} if frame.source.outlived_system else {}
            run.writer.journal_frame(header, stored, durable, **marks)
        return None

    def _read(self, frame: _Announced) -> tuple[FrameHeader, NDArray[Any]] | None:
        """Copy a frame out of its slot; None where it is not to be had."""
        run, source, number = frame.run, frame.source, frame.number
        try:
            header, pixels = source.get(frame.slot)
            if (header.sequence_number, header.run_id) != (number, run.spec.run_id):
                raise RingError(f"{source.path}: slot {frame.slot} holds another frame.")
        except (RingError, ValueError) as error:
            # Already acknowledged by an earlier announcement, or not ours to read.
            name = run.spec.name
            log.warning("frame %d: %s", number, error, extra={"run": name})
            if frame.client is None and (frame.slot, number) in source.waiting():
                # Nobody will put it right: what is damaged must not hold up the rest for ever.
                text = f"run {name}: frame {number} is lost: {error}"
                self._warn(text, key=("lost", run.spec.run_id), run=name)
                source.acknowledge(frame.slot, number)
            return None
        return header, pixels

    def _tell_stored(
        self, run: ActiveRun, header: FrameHeader, stored: StoredFrame, pixels: NDArray[Any]
    ) -> None:
        try:
            self._on_stored(run, header, stored, pixels)
        except Exception:
            # The frame is safe; what comes after it must not end the journal's thread.
            number, name = header.sequence_number, run.spec.name
            log.exception("frame %d: after it was stored", number, extra={"run": name})

    def _trouble(self, run: ActiveRun, text: str) -> None:
        self._troubled.add(run.spec.run_id)
        self._on_trouble(run, text)

    def _no_trouble(self, run: ActiveRun) -> None:
        """Note that a slice of the run is durable."""
        if run.spec.run_id in self._troubled:
            self._troubled.discard(run.spec.run_id)
            self._on_trouble(run, None)

    def _acknowledge(self, frame: _Announced) -> None:
        frame.source.acknowledge(frame.slot, frame.number)
        if frame.client is not None:
            frame.client.acknowledged()

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
