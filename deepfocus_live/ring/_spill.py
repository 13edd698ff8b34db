"""The spill: files on a disk for the frames of a camera that does not wait for a full ring.

Design Notes
------------
The producer alone writes: records behind one another, in the order in which
the frames were taken. It moves them into the ring as slots become free, and
removes a file once all of it is there, so that a long overload does not keep
what is stored already. Records are never changed, and what is read is not
written down: whoever drains a dead producer's file stores it from its begin,
and frames that are stored already are recognised by number and checksum.

A file says what the ring says (whose it is, the run, its folder), so that it
can be drained without the ring, as after the computer was switched off. It is
not synced: like the ring it survives its process.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import struct
import time
import uuid
import zlib
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.frames import FrameHeader
from deepfocus_live.ring._memory import Pixels, RingError, pixels_in
from deepfocus_live.ring._runtime import spill_prefix

__all__ = ["FrameSpill", "SpilledFrames", "leftover_spills", "spill_folder"]

log = logging.getLogger(__name__)

_MAGIC = b"dfl-spil"
_VERSION = 1
_PAGE = 4096
# magic, version, bytes of the run, producer's pid, its start
_HEAD = struct.Struct("<8sIIQd")
_FOLDER_LENGTH = struct.Struct("<I")
_FOLDER_LENGTH_AT = 508
_FOLDER_AT = 512
# magic, bytes of header, sequence number, bytes of pixels, CRC-32 of header and pixels
_RECORD = struct.Struct("<4sIQQI")
_RECORD_MAGIC = b"frm1"
_FILE_BYTES = 1 << 30
"""A file that is longer gets no more frames: its room is given back as a whole."""
_KEEP_FREE_BYTES = 1 << 30
"""What a spill leaves of its disk to everybody else."""
_HEADLESS_S = 60.0


class _Record(NamedTuple):
    header: bytes
    pixels: NDArray[np.uint8]
    sequence_number: int


class _At(NamedTuple):
    """Where a record lies."""

    offset: int
    header_bytes: int
    sequence_number: int
    pixel_bytes: int
    crc: int

    @property
    def end(self) -> int:
        return self.offset + _RECORD.size + self.header_bytes + self.pixel_bytes


class _SpillFile:
    """One file while its producer writes and reads it."""

    def __init__(self, path: Path, run: bytes) -> None:
        self.path = path
        self._write = path.open("xb", buffering=0)
        try:
            _platform.make_private(path)
            me = _platform.ProcessStamp.mine()
            head = _HEAD.pack(_MAGIC, _VERSION, len(run), me.pid, me.started)
            _write_all(self._write, head.ljust(_PAGE, b"\0") + run)
            self.size = _PAGE + len(run)
            self._read = path.open("rb", buffering=0)
        except BaseException:
            self._write.close()
            path.unlink(missing_ok=True)
            raise
        self.folder: Path | None = None

    def say_folder(self, folder: Path) -> None:
        _write_folder(self._write, folder)
        self.folder = folder

    def append(self, header: bytes, pixels: Pixels, sequence_number: int) -> _At:
        flat = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        crc = zlib.crc32(flat.data, zlib.crc32(header))
        at = _At(self.size, len(header), sequence_number, flat.nbytes, crc)
        self._write.seek(at.offset)
        try:
            head = _RECORD.pack(_RECORD_MAGIC, len(header), sequence_number, flat.nbytes, crc)
            _write_all(self._write, head + header)
            _write_all(self._write, flat.data)
        except OSError:
            # Part of a record must not stand before the next one.
            self._write.truncate(at.offset)
            raise
        self.size = at.end
        return at

    def read(self, at: _At) -> _Record:
        return _read_record(self._read, at, self.path)

    def remove(self) -> None:
        """Delete the file; where someone else has it open (Windows) it is left empty."""
        with contextlib.suppress(OSError):
            self._write.truncate(_PAGE)
            self._write.seek(0)
            _write_all(self._write, _HEAD.pack(_MAGIC, _VERSION, 0, 0, 0.0))
        self._write.close()
        self._read.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class FrameSpill:
    """The frames of one run that wait on a disk, first in, first out. From one thread.

    Parameters
    ----------
    folder : path
        Where the files go; made when the first frame comes.
    run : bytes
        The description of the run, as the ring has it.
    """

    def __init__(self, folder: Path, run: bytes) -> None:
        self.folder = folder
        self._run = run
        self._files: deque[_SpillFile] = deque()
        self._waiting: deque[tuple[_SpillFile, _At]] = deque()
        self._refused = False
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def append(
        self, header: bytes, pixels: Pixels, sequence_number: int, *, run_folder: Path | None
    ) -> bool:
        """Put a frame behind the others; return whether the disk had room for it."""
        try:
            file = self._file_with_room(pixels.nbytes)
            if run_folder is not None and file.folder is None:
                file.say_folder(run_folder)
            at = file.append(header, pixels, sequence_number)
        except OSError as error:
            if not self._refused:
                log.warning("deepfocus-live: no frame can be spilled to %s: %s", self.folder, error)
            self._refused = True
            return False
        self._refused = False
        self._waiting.append((file, at))
        self.waiting_bytes += pixels.nbytes
        return True

    @property
    def first_number(self) -> int:
        """Sequence number of the frame that has waited longest."""
        return self._waiting[0][1].sequence_number

    def first(self) -> _Record:
        """Return the frame that has waited longest.

        Raises
        ------
        RingError, OSError
            If it cannot be read as it was written.
        """
        file, at = self._waiting[0]
        return file.read(at)

    def forget_first(self) -> None:
        """Say that the first frame is in the ring."""
        _, at = self._waiting.popleft()
        self.waiting_bytes -= at.pixel_bytes
        in_use = self._waiting[0][0] if self._waiting else None
        while self._files and self._files[0] is not in_use:
            self._files.popleft().remove()

    def clear(self) -> None:
        """Give up every frame that waits, and remove the files."""
        self._waiting.clear()
        self.waiting_bytes = 0
        while self._files:
            self._files.popleft().remove()

    def _file_with_room(self, size: int) -> _SpillFile:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size + _KEEP_FREE_BYTES:
            raise OSError(f"{free >> 20} MiB are free, {_KEEP_FREE_BYTES >> 20} are kept so")
        if not self._files or self._files[-1].size > _FILE_BYTES:
            path = self.folder / f"{spill_prefix()}{time.time_ns():020d}-{uuid.uuid4().hex}.spill"
            self._files.append(_SpillFile(path, self._run))
        return self._files[-1]


class SpilledFrames:
    """A dead producer's file. Read like a ring: a slot is the place of a record in it.

    Raises
    ------
    RingError
        If the file is no spill.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            head = file.read(_PAGE).ljust(_PAGE, b"\0")
            magic, version, run_bytes, pid, started = _HEAD.unpack_from(head)
            if magic != _MAGIC or version != _VERSION:
                raise RingError(f"{path}: not a spill of version {_VERSION}.")
            self.run: bytes = file.read(run_bytes)
        self.producer = _platform.ProcessStamp(pid, started)
        self.outlived_system = False
        """A frame that is torn is found by its checksum."""
        (length,) = _FOLDER_LENGTH.unpack_from(head, _FOLDER_LENGTH_AT)
        raw = head[_FOLDER_AT : _FOLDER_AT + length]
        self._folder = Path(os.fsdecode(raw)) if length else None
        self._records: list[_At] | None = None
        self._left: dict[int, int] = {}
        self._begin = _PAGE + run_bytes

    @staticmethod
    def is_debris(path: Path) -> bool:
        """Return whether a file that `SpilledFrames` refuses was left half-made by a dead process.

        Its head is written at once: without one it is nobody's after a minute.
        """
        try:
            with path.open("rb") as file:
                named = file.read(len(_MAGIC)) == _MAGIC
            return not named and time.time() - path.stat().st_mtime > _HEADLESS_S
        except OSError:
            return False

    @property
    def folder(self) -> Path | None:
        """The folder that a daemon has made for the run; None before it has."""
        return self._folder

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        with self.path.open("r+b", buffering=0) as file:
            _write_folder(file, folder)
        self._folder = folder

    def waiting(self) -> list[tuple[int, int]]:
        """Return (slot, sequence number) of every frame not acknowledged, in order."""
        self._index()
        return list(self._left.items())

    def get(self, slot: int) -> tuple[FrameHeader, Pixels]:
        """Return a record's header and pixels, (Y, X) or (3, Y, X).

        Raises
        ------
        RingError
            If it is not as it was written.
        """
        at = self._index()[slot]
        # Several store threads read here: each from a file of its own.
        with self.path.open("rb", buffering=0) as file:
            record = _read_record(file, at, self.path)
        header = FrameHeader.model_validate_json(record.header)
        return header, pixels_in(header, record.pixels, f"{self.path}: frame {slot}")

    def acknowledge(self, slot: int, sequence_number: int) -> None:
        """Say that this frame is durable."""
        if self._index()[slot].sequence_number == sequence_number:
            self._left.pop(slot, None)

    def remove(self) -> None:
        """Delete the file."""
        with contextlib.suppress(PermissionError):
            self.path.unlink(missing_ok=True)

    def _index(self) -> list[_At]:
        if self._records is None:
            with self.path.open("rb", buffering=0) as file:
                self._records = _records(file, self._begin)
            self._left = {slot: at.sequence_number for slot, at in enumerate(self._records)}
        return self._records


def spill_folder(chosen: Path | None) -> Path:
    """Return where frames are spilled to: the configured folder, or one in the user's cache."""
    return _platform.spill_dir() if chosen is None else chosen.expanduser().absolute()


def leftover_spills(chosen: Path | None = None) -> list[Path]:
    """Return this user's spill files, oldest first, whoever made them."""
    # A microscope may have been attached with other settings than the daemon's.
    places = {_platform.spill_dir(), spill_folder(chosen)}
    return sorted(
        (path for place in places for path in place.glob(f"{spill_prefix()}*.spill")),
        key=lambda path: path.name,
    )


def _records(file: io.FileIO, begin: int) -> list[_At]:
    """Return where the whole records lie: the last may be torn by its writer's death."""
    end = file.seek(0, os.SEEK_END)
    found: list[_At] = []
    offset = begin
    while offset + _RECORD.size <= end:
        file.seek(offset)
        magic, header_bytes, number, pixel_bytes, crc = _RECORD.unpack(file.read(_RECORD.size))
        at = _At(offset, header_bytes, number, pixel_bytes, crc)
        if magic != _RECORD_MAGIC or at.end > end:
            break
        found.append(at)
        offset = at.end
    return found


def _read_record(file: io.FileIO, at: _At, path: Path) -> _Record:
    file.seek(at.offset + _RECORD.size)
    body = bytearray(at.header_bytes + at.pixel_bytes)
    view, read = memoryview(body), 0
    while read < len(body):
        part = file.readinto(view[read:])
        if not part:
            raise RingError(f"{path}: frame {at.sequence_number} is cut off.")
        read += part
    if zlib.crc32(body) != at.crc:
        raise RingError(f"{path}: frame {at.sequence_number} is damaged on the disk.")
    pixels = np.frombuffer(body, np.uint8, offset=at.header_bytes)
    return _Record(bytes(body[: at.header_bytes]), pixels, at.sequence_number)


def _write_folder(file: io.FileIO, folder: Path | None) -> None:
    """Write the name of the run's folder into the head; one that is too long is left out."""
    raw = b"" if folder is None else os.fsencode(folder)
    if len(raw) > _PAGE - _FOLDER_AT:
        return
    file.seek(_FOLDER_LENGTH_AT)
    _write_all(file, _FOLDER_LENGTH.pack(0))
    file.seek(_FOLDER_AT)
    _write_all(file, raw)
    # The length comes last: a half-written name is none.
    file.seek(_FOLDER_LENGTH_AT)
    _write_all(file, _FOLDER_LENGTH.pack(len(raw)))


def _write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        # A disk that is nearly full takes part of it, and refuses the rest with an error.
        view = view[file.write(view) :]
