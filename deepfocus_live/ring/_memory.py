"""The memory-mapped ring: frames cross from the microscope's process to the daemon here.

Design Notes
------------
*Who owns a slot when.* A slot is free while its `committed` and `acknowledged`
counters are equal. The producer fills a free slot and sets `committed` last,
so a producer that dies while copying leaves a slot that is still free. From
then on the slot is the consumer's to read and the producer's to keep: it may
not be filled again before the consumer sets `acknowledged` to the same value.

*What an acknowledgement promises.* That the frame is on the medium and in the
journal. Counters are the frame's sequence number plus one, so 0 means "never".

*Who writes what else.* The producer describes the run before its first frame;
the daemon writes back the folder that it has made for it. Frames need not wait
for that: they are safe from the producer's death once they are in their slots.

*What each death leaves behind.* Daemon dead: the slots stay as they are, the
next daemon gets them announced again and finds the folder here. Producer dead:
its committed slots hold everything needed to store them (header, run, folder),
so any daemon drains the file, then removes it. Both dead: the next daemon
drains it at its start. Producer dead while it made the file: its head, written
before anything else, says whose it was; nothing was in it, and any daemon
removes it.

*What a power cut leaves behind.* Where the file lies in memory, nothing. Where
it lies on a disk (Windows, macOS), as much as the system had written by then,
page by page: a slot may say more than is in it. The file names the start of
the system that it was made in, so that its frames are not taken for certain.

Announcements and acknowledgements also travel over the control channel, but
only to wake the other side: the memory here is the truth. Sending and
receiving on a socket also orders the memory accesses on either side of it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.frames import FrameHeader

__all__ = ["MemoryRing", "Pixels", "RingError", "pixels_in"]

Pixels = NDArray[np.unsignedinteger[Any]]

_MAGIC = b"dfl-ring"
_VERSION = 1
_PAGE = 4096
# magic, version, slots, bytes of pixels per slot, room for the run, producer's pid, its start
_HEAD = struct.Struct("<8sIIQQQd")
_RUN_LENGTH = struct.Struct("<Q")
_RUN_LENGTH_AT = 256
_FOLDER_LENGTH_AT = 264
_FOLDER_AT = 512
_BOOT = struct.Struct("<64s")
_BOOT_AT = 128
# committed, acknowledged, bytes of header, bytes of pixels
_SLOT = struct.Struct("<QQQQ")
_COUNTER = struct.Struct("<Q")
_SLOT_HEAD = 64
_HEADLESS_S = 60.0
"""A file without a head for so long is nobody's: the head is written at once."""


class RingError(RuntimeError):
    """The file is no ring, or is used against its rules."""


class MemoryRing:
    """One ring file, mapped. Make one with `create` (producer) or `open` (consumer)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            # To open a pipe or a terminal may wait for ever.
            raise RingError(f"{path}: not a file, so no ring.")
        with path.open("r+b") as file:
            head = file.read(_HEAD.size).ljust(_HEAD.size, b"\0")
            magic, version, slots, slot_bytes, run_room, *_ = _HEAD.unpack(head)
            if magic != _MAGIC or version != _VERSION:
                raise RingError(f"{path}: not a ring of version {_VERSION}.")
            size = _size(slots, slot_bytes, run_room)
            if file.seek(0, os.SEEK_END) < size:
                raise RingError(f"{path}: not a whole ring: it should have {size} bytes.")
            self._map = mmap.mmap(file.fileno(), 0)
        self.slots: int = slots
        self.slot_bytes: int = slot_bytes
        self._run_room: int = run_room
        self._stride = _PAGE + _pages(slot_bytes)

    @classmethod
    def create(cls, path: Path, *, slots: int, slot_bytes: int, run_room: int) -> MemoryRing:
        """Make a ring owned by this process.

        Parameters
        ----------
        slots : int
            Frames it holds, at least 2.
        slot_bytes : int
            Pixels' bytes per frame.
        run_room : int
            Bytes kept for the description of the run.

        Raises
        ------
        OSError
            If there is no room for it.
        """
        run_room = _pages(run_room)
        size = _size(slots, slot_bytes, run_room)
        me = _platform.ProcessStamp.mine()
        head = _HEAD.pack(_MAGIC, _VERSION, slots, slot_bytes, run_room, me.pid, me.started)
        _platform.preallocate(path, size, head=head)
        ring = cls(path)
        _BOOT.pack_into(ring._map, _BOOT_AT, _platform.boot_mark().encode())
        # Every page is looked at now: to map a frame's on their first use takes five times as long
        # as to copy the frame.
        ring._map[::_PAGE]
        return ring

    @staticmethod
    def is_debris(path: Path) -> bool:
        """Return whether a file that `MemoryRing` refuses was left half-made by a dead process.

        A whole ring of another version is none: the version that made it can read it.
        """
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD.size).ljust(_HEAD.size, b"\0")
            # Asked for first: what is made whole after this is whole.
            size, age_s = path.stat().st_size, time.time() - path.stat().st_mtime
        except OSError:
            return False
        magic, version, slots, slot_bytes, run_room, pid, started = _HEAD.unpack(head)
        if magic != _MAGIC:
            return age_s > _HEADLESS_S
        if version != _VERSION or size >= _size(slots, slot_bytes, run_room):
            return False
        return not _platform.ProcessStamp(pid, started).alive()

    @property
    def producer(self) -> _platform.ProcessStamp:
        """The process that owns the ring; a dead one where it has let the ring go."""
        *_, pid, started = _HEAD.unpack_from(self._map)
        return _platform.ProcessStamp(pid, started)

    @property
    def outlived_system(self) -> bool:
        """Whether the system was started again since the ring was made: a frame may be torn."""
        (raw,) = _BOOT.unpack_from(self._map, _BOOT_AT)
        mark = raw.rstrip(b"\0").decode("ascii", "replace")
        return bool(mark) and not _platform.is_this_boot(mark)

    # ------------------------------------------------------------- the run

    def fits(self, frame_bytes: int, run: bytes) -> bool:
        """Return whether frames and a run of these sizes can go through this ring."""
        return frame_bytes <= self.slot_bytes and len(run) <= self._run_room

    @property
    def run(self) -> bytes:
        """The description of the run that the frames in the ring belong to."""
        (length,) = _RUN_LENGTH.unpack_from(self._map, _RUN_LENGTH_AT)
        return self._map[_PAGE : _PAGE + length]

    @run.setter
    def run(self, run: bytes) -> None:
        if self.waiting():
            raise RingError(f"{self.path}: a run cannot begin while frames of another wait.")
        if len(run) > self._run_room:
            raise RingError(
                f"{self.path}: a run of {len(run)} bytes does not fit its {self._run_room}."
            )
        _RUN_LENGTH.pack_into(self._map, _RUN_LENGTH_AT, 0)
        _RUN_LENGTH.pack_into(self._map, _FOLDER_LENGTH_AT, 0)
        # Counters of another run's frames would look like acknowledgements of this one's.
        for slot in range(self.slots):
            _SLOT.pack_into(self._map, self._at(slot), 0, 0, 0, 0)
        self._map[_PAGE : _PAGE + len(run)] = run
        _RUN_LENGTH.pack_into(self._map, _RUN_LENGTH_AT, len(run))

    @property
    def folder(self) -> Path | None:
        """The folder that a daemon has made for the run; None before it has."""
        (length,) = _RUN_LENGTH.unpack_from(self._map, _FOLDER_LENGTH_AT)
        if not length:
            return None
        return Path(self._map[_FOLDER_AT : _FOLDER_AT + length].decode())

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        raw = b"" if folder is None else str(folder).encode()
        if len(raw) > _PAGE - _FOLDER_AT:
            raise RingError(f"{folder}: longer than {_PAGE - _FOLDER_AT} bytes.")
        # The length comes last: a half-written name is none.
        _RUN_LENGTH.pack_into(self._map, _FOLDER_LENGTH_AT, 0)
        self._map[_FOLDER_AT : _FOLDER_AT + len(raw)] = raw
        _RUN_LENGTH.pack_into(self._map, _FOLDER_LENGTH_AT, len(raw))

    def discard(self) -> None:
        """Give up the frames that wait: their run was refused, and the user told."""
        for slot in range(self.slots):
            _SLOT.pack_into(self._map, self._at(slot), 0, 0, 0, 0)

    # ------------------------------------------------------------ producer

    def is_free(self, slot: int) -> bool:
        """Return whether the slot may be filled."""
        committed, acknowledged, _, _ = _SLOT.unpack_from(self._map, self._at(slot))
        return bool(committed == acknowledged)

    def put(self, slot: int, header: bytes, pixels: Pixels, sequence_number: int) -> None:
        """Fill a free slot.

        Raises
        ------
        RingError
            If the slot is not free, or smaller than header or pixels.
        """
        if len(header) > _PAGE - _SLOT_HEAD or pixels.nbytes > self.slot_bytes:
            raise RingError(
                f"frame {sequence_number}: header {len(header)} and pixels {pixels.nbytes} bytes "
                f"do not fit a slot of {_PAGE - _SLOT_HEAD} and {self.slot_bytes}."
            )
        at = self._at(slot)
        committed, acknowledged, _, _ = _SLOT.unpack_from(self._map, at)
        if committed != acknowledged:
            raise RingError(f"{self.path}: slot {slot} still holds frame {committed - 1}.")
        _SLOT.pack_into(self._map, at, acknowledged, acknowledged, len(header), pixels.nbytes)
        self._map[at + _SLOT_HEAD : at + _SLOT_HEAD + len(header)] = header
        target = np.frombuffer(self._map, pixels.dtype, pixels.size, at + _PAGE)
        np.copyto(target.reshape(pixels.shape), pixels)
        _COUNTER.pack_into(self._map, at, sequence_number + 1)

    # ------------------------------------------------------------ consumer

    def holds(self, slot: int, sequence_number: int) -> bool:
        """Return whether this frame waits in this slot; False where there is no such slot."""
        if not 0 <= slot < self.slots:
            return False
        committed, acknowledged, _, _ = _SLOT.unpack_from(self._map, self._at(slot))
        return bool(committed == sequence_number + 1 and committed != acknowledged)

    def get(self, slot: int) -> tuple[FrameHeader, Pixels]:
        """Return a committed slot's header and a copy of its pixels, (Y, X) or (3, Y, X).

        Raises
        ------
        RingError
            If the slot holds no whole frame.
        """
        at = self._at(slot)
        committed, acknowledged, header_bytes, pixel_bytes = _SLOT.unpack_from(self._map, at)
        if committed == acknowledged:
            raise RingError(f"{self.path}: slot {slot} holds no frame.")
        raw = self._map[at + _SLOT_HEAD : at + _SLOT_HEAD + header_bytes]
        header = FrameHeader.model_validate_json(raw)
        view = np.frombuffer(self._map, np.uint8, pixel_bytes, at + _PAGE)
        return header, pixels_in(header, view, f"{self.path}: slot {slot}").copy()

    def acknowledge(self, slot: int, sequence_number: int) -> None:
        """Say that this frame is durable; a later frame in the slot is left alone."""
        at = self._at(slot)
        (committed,) = _COUNTER.unpack_from(self._map, at)
        if committed == sequence_number + 1:
            _COUNTER.pack_into(self._map, at + _COUNTER.size, committed)

    def waiting(self) -> list[tuple[int, int]]:
        """Return (slot, sequence number) of every frame not acknowledged, in order of number."""
        found = []
        for slot in range(self.slots):
            committed, acknowledged, _, _ = _SLOT.unpack_from(self._map, self._at(slot))
            if committed != acknowledged:
                found.append((slot, committed - 1))
        return sorted(found, key=lambda item: item[1])

    # -------------------------------------------------------------- either

    def close(self, *, remove: bool = False) -> None:
        """Let the mapping go; with `remove`, delete the file.

        Windows deletes no file that another process maps: there the file is
        marked as nobody's, and the daemon removes it.
        """
        if remove:
            _HEAD.pack_into(
                self._map, 0, _MAGIC, _VERSION, self.slots, self.slot_bytes, self._run_room, 0, 0.0
            )
        try:
            self._map.close()
        except BufferError:
            # A view handed out is still alive somewhere; the mapping goes with it.
            pass
        if remove:
            with contextlib.suppress(PermissionError):
                self.path.unlink(missing_ok=True)

    def _at(self, slot: int) -> int:
        return _PAGE + self._run_room + slot * self._stride


def _size(slots: int, slot_bytes: int, run_room: int) -> int:
    return _PAGE + run_room + slots * (_PAGE + _pages(slot_bytes))


def pixels_in(header: FrameHeader, raw: NDArray[np.uint8], where: str) -> Pixels:
    """Return the bytes of one frame as its pixels, (Y, X) or (3, Y, X); a view.

    Raises
    ------
    RingError
        If they are not what the header says.
    """
    dtype = np.dtype(header.dtype)
    shape: tuple[int, ...] = (header.height_px, header.width_px)
    if header.samples_per_pixel > 1:
        shape = (header.samples_per_pixel, *shape)
    if raw.nbytes != math.prod(shape) * dtype.itemsize:
        raise RingError(f"{where}: {raw.nbytes} bytes are no {shape} {dtype}.")
    return raw.view(dtype).reshape(shape)


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
