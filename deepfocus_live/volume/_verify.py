"""Whether every slice that the journal names is on the disk as it was acknowledged.

Design Notes
------------
Each slice is read, decoded and its CRC-32 compared with the journal's. A chunk that is not there
is asked for by name first: zarr would pass it off as black. A few threads read, each with one slice
in memory at a time.

A run that keeps no pixels, because its user wanted it so, has nothing to compare.

A run may be written meanwhile. The journal is read first, so that every slice it names must be
there; what lies on the disk is held against a journal read afterwards.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from deepfocus_live.frames import Placement
from deepfocus_live.volume._chunks import chunk_path, is_chunk
from deepfocus_live.volume._ledger import Ledger, read_ledger
from deepfocus_live.volume._plate import image_path
from deepfocus_live.volume._run_layout import STORES, SliceIndex, slice_at

__all__ = ["SliceFault", "Verification", "partial_files", "verify_run"]

_RAW_CHUNK = re.compile(r"(\d+)/(\d+)/(\d+)/0/0")
_IMAGE = re.compile(r"\d+|(\w+/){2}\d+")
_PARTIAL_FILE = re.compile(r".*\.[0-9a-f]{32}\.partial")
_PARTIAL_IMAGE = re.compile(r"\.\d+\.partial")


@dataclass(frozen=True)
class SliceFault:
    """A slice that is not as it was acknowledged.

    Attributes
    ----------
    sequence_number : int
    placement : Placement
    path : Path
        The file that holds its pixels, or should.
    reason : str
        What is wrong, in words.
    """

    sequence_number: int
    placement: Placement
    path: Path
    reason: str


@dataclass(frozen=True)
class Verification:
    """What `verify_run` found.

    Attributes
    ----------
    slices : int
        How many the journal names.
    faults : tuple of SliceFault
        Those of them that are not whole, by sequence number.
    unnamed : tuple of Path
        Slices on the disk that the journal does not name: they were never acknowledged.
    partial : tuple of Path
        Half-written files that a writer left.
    torn : bool
        Whether the journal's last line is incomplete.
    damaged_lines : tuple of int
        Numbers of other lines of the journal that cannot be read: slices may be missing in it.
    journal_missing : bool
    pixels_stored : bool
        Whether the run keeps pixels at all; if not, there is nothing to compare.
    """

    slices: int
    faults: tuple[SliceFault, ...]
    unnamed: tuple[Path, ...]
    partial: tuple[Path, ...]
    torn: bool
    damaged_lines: tuple[int, ...]
    journal_missing: bool
    pixels_stored: bool = True

    @property
    def in_doubt(self) -> bool:
        """Whether there may have been slices that the journal names no more."""
        return bool(self.damaged_lines or self.journal_missing)

    @property
    def whole(self) -> bool:
        """Whether every slice that was acknowledged is there as it was."""
        return not (self.faults or self.in_doubt)


def verify_run(
    ledger: Ledger, *, threads: int = 4, on_slice: Callable[[Placement], None] | None = None
) -> Verification:
    """Read every slice that a run's journal names and compare its checksum; change nothing.

    Parameters
    ----------
    ledger : Ledger
        The journal, from `read_ledger`.
    threads : int
        How many slices are in memory at a time.
    on_slice : callable
        Called with the place of each slice that was read, on the caller's thread.

    Returns
    -------
    Verification
        What is not as it was acknowledged; a damaged slice is no error.
    """
    faults = []
    for placement, fault in _in_threads(_checks(ledger), threads):
        if fault is not None:
            faults.append(fault)
        if on_slice is not None:
            on_slice(placement)
    return Verification(
        slices=len(ledger.frames),
        faults=tuple(faults),
        unnamed=_unnamed(ledger.path),
        partial=tuple(partial_files(ledger.path)),
        torn=ledger.torn,
        damaged_lines=tuple(ledger.damaged_lines),
        journal_missing=ledger.missing,
        pixels_stored=ledger.pixels_stored,
    )


def partial_files(run: Path) -> list[Path]:
    """Return the half-written files and images below a run, by the names that only we give."""
    found = []
    for folder, folders, names in os.walk(run):
        if os.path.basename(folder) in STORES and Path(folder).parent == run:
            for name in filter(_PARTIAL_IMAGE.fullmatch, list(folders)):
                found.append(Path(folder, name))
                folders.remove(name)
        found += [Path(folder, name) for name in names if _PARTIAL_FILE.fullmatch(name)]
    return sorted(found)


_Checked = tuple[Placement, SliceFault | None]


def _checks(ledger: Ledger) -> Iterator[Callable[[], _Checked]]:
    if not ledger.pixels_stored:
        return
    arrays: dict[int, zarr.Array[Any] | str] = {}
    samples = ledger.spec.samples_per_pixel
    for number, (placement, crc) in sorted(ledger.frames.items()):
        if placement.image not in arrays:
            arrays[placement.image] = _open_raw(ledger, placement.image)
        path = chunk_path(ledger.folder(placement.image), "0", placement)
        yield partial(_check, arrays[placement.image], number, placement, samples, path, crc)


def _check(
    array: zarr.Array[Any] | str,
    number: int,
    placement: Placement,
    samples: int,
    path: Path,
    crc: str,
) -> _Checked:
    reason = _reason(array, slice_at(placement, samples), path, crc)
    return placement, None if reason is None else SliceFault(number, placement, path, reason)


def _reason(array: zarr.Array[Any] | str, at: SliceIndex, path: Path, crc: str) -> str | None:
    """Return what is wrong with a slice; None if nothing is."""
    if not path.is_file():
        return "its pixels are missing"
    if isinstance(array, str):
        return f"its pixels cannot be read: {array}"
    if not is_chunk(path, int(np.prod(array.chunks)) * array.dtype.itemsize):
        # Not left to the decoder: it may read on behind the end of a file that is cut short.
        return "its pixels cannot be read: the file is cut short, or damaged at its beginning"
    try:
        pixels = np.ascontiguousarray(array[at])
    except Exception as error:  # decoders raise nearly anything on damaged data
        return f"its pixels cannot be read: {_first_line(error)}"
    found = f"{zlib.crc32(pixels.data):08x}"
    return None if found == crc else f"its pixels differ: CRC {found}, the journal has {crc}"


def _open_raw(ledger: Ledger, image: int) -> zarr.Array[Any] | str:
    """Return the array of an image's slices, or why there is none."""
    place = f"{image_path(ledger.images[image], image)}/0"
    store = LocalStore(ledger.path / STORES[0], read_only=True)
    try:
        return zarr.open_array(store, path=place, mode="r")
    except Exception as error:  # zarr raises nearly anything on damaged metadata
        return f"{STORES[0]}/{place}/zarr.json: {_first_line(error)}"


def _in_threads(checks: Iterable[Callable[[], _Checked]], threads: int) -> Iterator[_Checked]:
    """Yield the results in order; never more than a few are under way."""
    waiting: deque[Future[_Checked]] = deque()
    with ThreadPoolExecutor(threads, "verify") as pool:
        for check in checks:
            waiting.append(pool.submit(check))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _unnamed(run: Path) -> tuple[Path, ...]:
    # The journal is read last: what was written meanwhile stands in it.
    found = set(_raw_chunks(run))
    if found:
        ledger = read_ledger(run)
        for placement, _ in ledger.frames.values():
            found.discard(chunk_path(ledger.folder(placement.image), "0", placement))
    return tuple(sorted(found, key=_by_number))


def _raw_chunks(run: Path) -> Iterator[Path]:
    store = run / STORES[0]
    # An image of a collection, and one of a plate.
    for raw in (*store.glob("*/0/c"), *store.glob("*/*/*/0/c")):
        if not _IMAGE.fullmatch(raw.parent.parent.relative_to(store).as_posix()):
            continue
        for folder, _, names in os.walk(raw):
            for name in names:
                path = Path(folder, name)
                if _RAW_CHUNK.fullmatch(path.relative_to(raw).as_posix()):
                    yield path


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort as people count: 2 before 10."""
    return [(int(part) if part.isdecimal() else 0, part) for part in path.parts]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
