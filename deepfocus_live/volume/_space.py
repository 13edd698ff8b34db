"""How much of its disk a run takes: reckoned before its first slice, measured from then on.

Design Notes
------------
A slice is one file in each array of its image: pixels, pyramid, labels,
probability. Before there are any, each file's size is reckoned from its pixels
and a low compression ratio; afterwards the files of a few slices, evenly
spread over all that were stored, are looked at. Nothing is counted on the way
of a slice to the disk.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import NamedTuple

from deepfocus_live.frames import Placement, RunSpec
from deepfocus_live.volume._chunks import chunk_path
from deepfocus_live.volume._plate import image_folder
from deepfocus_live.volume._run_layout import STORES, layouts_of

__all__ = ["Forecast", "SpaceGauge", "disk_of", "free_bytes", "in_bytes"]

_RATIOS = {
    ("uint16", "lz4"): 1.4,
    ("uint16", "zstd"): 1.45,
    ("uint8", "lz4"): 1.1,
    ("uint8", "zstd"): 1.15,
}
"""Bytes of a slice's pixels over its chunk's. Low: 12-bit images with shot noise reach 1.35 where
they are bright, 2 where they are dark."""
_LABEL_RATIO = 8.0
_BLOCK_BYTES = 4096
"""What disks give files in."""
_LINES_BYTES = 800
"""A slice's lines in the journal: its own and its mask's."""
_SAMPLE = 32
_ENOUGH = 8
"""Slices that say more than the reckoning; with fewer, the larger of both counts."""


@dataclass(frozen=True)
class Forecast:
    """Whether what is left of a run fits on its disk."""

    folder: Path
    frames_stored: int
    frames_expected: int | None
    """None: not known."""
    bytes_per_frame: int
    """On the disk, with pyramid, masks and labels."""
    measured: bool
    """Whether that is what this run's slices take, or only reckoned."""
    bytes_owed: int
    """For pyramids, masks and labels of slices that are stored."""
    bytes_free: int
    bytes_kept: int
    """Of the free ones, those that are not for this run."""
    frames_per_s: float = 0.0

    @property
    def bytes_needed(self) -> int | None:
        """What the run still needs; None where its length is not known."""
        if self.frames_expected is None:
            return None
        left = max(self.frames_expected - self.frames_stored, 0)
        return left * self.bytes_per_frame + self.bytes_owed

    @property
    def frames_fit(self) -> int:
        """How many more frames there is room for."""
        usable = self.bytes_free - self.bytes_kept - self.bytes_owed
        return max(usable, 0) // self.bytes_per_frame

    @property
    def full_in_s(self) -> float | None:
        """How long there is room at the present rate, s; None while there is no rate."""
        return self.frames_fit / self.frames_per_s if self.frames_per_s > 0 else None

    def fits(self, *, margin: float = 0.0) -> bool:
        """Return whether the rest fits, with `margin` (a part of it) to spare.

        A run of unknown length fits as long as there is room for one more frame.
        """
        if self.bytes_needed is None:
            return self.frames_fit > 0
        return self.bytes_needed * (1 + margin) <= self.bytes_free - self.bytes_kept

    def warning(self, name: str) -> str:
        """Return, in one line, what is wrong where the run does not fit."""
        free = f"{in_bytes(self.bytes_free)} are free on {self.folder}"
        if self.bytes_kept:
            free += f", {in_bytes(min(self.bytes_kept, self.bytes_free))} of them kept for others"
        full = self.frames_stored + self.frames_fit
        if self.bytes_needed is None:
            return f"run {name}: {free}: no more frames fit; make room."
        return (
            f"run {name}: about {in_bytes(self.bytes_needed)} are needed, {free}: "
            f"full after about {full} of {self.frames_expected} frames; make room."
        )

    def as_json(self) -> dict[str, object]:
        """Return what `status --json` shows."""
        full_in_s = self.full_in_s
        return {
            "folder": str(self.folder),
            "fits": self.fits(),
            "bytes_needed": self.bytes_needed,
            "bytes_free": self.bytes_free,
            "bytes_kept": self.bytes_kept,
            "bytes_per_frame": self.bytes_per_frame,
            "measured": self.measured,
            "frames_fit": self.frames_fit,
            "full_in_s": None if full_in_s is None else round(full_in_s),
        }


class SpaceGauge:
    """What one run's slices take on the disk. Thread-safe.

    Parameters
    ----------
    spec : RunSpec
        The run.
    codec : {"lz4", "zstd", "none"}
        Compression of the pixels.
    pixels, masks, labels : bool
        Whether the run keeps its slices, and gets masks and weak labels.
    clock : callable
        Seconds, never going back.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        codec: str,
        pixels: bool = True,
        masks: bool = True,
        labels: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        parts = _parts_of(spec, codec=codec, masks=masks, labels=labels)
        self._parts = [part for part in parts if pixels or not part.is_image]
        self._clock = clock
        self._lock = threading.Lock()
        self._sample: list[Placement] = []
        self._stride = 1
        self._seen = self._first = 0
        self._first_at: float | None = None

    def stored(self, placement: Placement, *, before: bool = False) -> None:
        """Note that a slice is stored; `before`: in an earlier process, so it says no rate."""
        with self._lock:
            if self._seen % self._stride == 0:
                self._sample.append(placement)
                if len(self._sample) > _SAMPLE:
                    self._sample = self._sample[::2]
                    self._stride *= 2
            self._seen += 1
            if not before and self._first_at is None:
                self._first_at, self._first = self._clock(), self._seen

    def forecast(
        self,
        folder: Path,
        *,
        frames_stored: int = 0,
        frames_behind: int = 0,
        ended: bool = False,
        bytes_kept: int = 0,
    ) -> Forecast:
        """Look at the disk, and at what the sampled slices take on it.

        Parameters
        ----------
        folder : Path
            Of the run; before there is one, the folder that it will be made in.
        frames_stored, frames_behind : int
            How many slices are stored, and how many of them wait for masks and labels.
        ended : bool
            Whether no more frames come.
        bytes_kept : int
            Free bytes that are not for this run.
        """
        with self._lock:
            sample = list(self._sample)
        sizes = [_size_of(part, folder, self._spec, sample) for part in self._parts]
        derived = sum(
            size for part, size in zip(self._parts, sizes, strict=True) if not part.is_raw
        )
        return Forecast(
            folder=folder,
            frames_stored=frames_stored,
            # Nothing is left of a run that was cancelled, whatever it was planned to be.
            frames_expected=frames_stored if ended else self._spec.frames_expected,
            bytes_per_frame=ceil(sum(sizes)) + _LINES_BYTES,
            measured=len(sample) >= _ENOUGH,
            bytes_owed=ceil(frames_behind * derived),
            bytes_free=free_bytes(folder),
            bytes_kept=bytes_kept,
            frames_per_s=0.0 if ended else self._rate(),
        )

    def _rate(self) -> float:
        """Return the mean rate so far: a run may be bursts with long pauses between them."""
        with self._lock:
            if self._first_at is None or self._seen == self._first:
                return 0.0
            return (self._seen - self._first) / max(self._clock() - self._first_at, 1e-3)


def disk_of(folder: Path) -> int:
    """Return a number that folders on the same disk, also ones not made yet, share."""
    try:
        return _existing(folder).stat().st_dev
    except OSError:
        return 0


def free_bytes(folder: Path) -> int:
    """Return how much is free on the disk of `folder`; 0 where it cannot be told."""
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return 0


def in_bytes(size: float) -> str:
    """Return a size in words: "1.2 TB"."""
    units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    unit, name = next((one for one in units if size >= one[0]), units[-1])
    value = size / unit
    return f"{value:.{0 if value >= 100 else 1}f} {name}"


class _Part(NamedTuple):
    """One array of a slice's image, and what one slice is reckoned to take in it."""

    store: str
    array: str
    is_image: bool
    is_raw: bool
    reckoned: float


def _parts_of(spec: RunSpec, *, codec: str, masks: bool, labels: bool) -> Iterator[_Part]:
    volume, probability = STORES
    image, coarse = layouts_of(spec, spec.images[0], codec=codec)
    bytes_per_px = spec.frame_bytes // (spec.height_px * spec.width_px)
    ratio = _RATIOS.get((spec.dtype, codec), 1.0)
    for level, shape in enumerate(image.level_shapes):
        pixels = prod(shape[3:])
        size = _in_blocks(pixels * bytes_per_px / ratio)
        yield _Part(volume, str(level), True, level == 0, size)
        for label in image.labels:
            if masks if label == "in_focus" else labels:
                size = _in_blocks(pixels / _LABEL_RATIO)
                yield _Part(volume, f"labels/{label}/{level}", False, False, size)
    if masks:
        size = _in_blocks(prod(coarse.level_shapes[0][3:]))
        yield _Part(probability, "0", False, False, size)


def _in_blocks(size: float) -> float:
    # Two folders of its own lie around each slice's file; some file systems give them a block.
    return (ceil(size / _BLOCK_BYTES) + 2) * _BLOCK_BYTES


def _size_of(part: _Part, run: Path, spec: RunSpec, sample: list[Placement]) -> float:
    taken = []
    for placement in sample:
        file = chunk_path(_image_folder(run / part.store, spec, placement), part.array, placement)
        try:
            taken.append(sum(_on_disk(path) for path in (file, file.parent, file.parent.parent)))
        except OSError:
            continue  # masks and labels may come late
    if not taken:
        return part.reckoned
    mean = sum(taken) / len(taken)
    return mean if len(taken) >= _ENOUGH else max(mean, part.reckoned)


def _image_folder(store: Path, spec: RunSpec, placement: Placement) -> Path:
    if placement.image < len(spec.images):
        return image_folder(store, spec.images, placement.image)
    # Nobody planned it. One that is in a well is not looked for: others are as good a sample.
    return store / str(placement.image)


def _on_disk(path: Path) -> int:
    found = path.stat()
    blocks: int | None = getattr(found, "st_blocks", None)
    if blocks is None:  # Windows
        return -(-found.st_size // _BLOCK_BYTES) * _BLOCK_BYTES
    # What is not written out yet may have no blocks; a folder's size is no bytes on the disk.
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return max(blocks * 512, size)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    return folder
