"""Writing a run directory: slices durably, masks and labels beside them.

Design Notes
------------
The order of durability is chunk → journal line → acknowledgement: a worker
compresses a slice, writes and syncs its file and gives it its name; the
journal's thread syncs the folders of all slices that came in together, then
writes and syncs their lines, then acknowledges. A chunk
without a journal line is not there yet: its frame is sent and written again.
A frame whose line is there is recognised by its sequence number and checksum
and acknowledged without writing. Pyramids, masks and labels are written
through a store that does not sync, so they never wait for, or hold up, the
disk's sync; all of them can be computed again.

A run may keep no pixels (`storage.mode: masks-only`): its images are there, as large as they would
be, and have no chunks. The order is then journal line → acknowledgement, and what is derived from a
slice must be made while the slice is in memory: nothing can be read back.

One process writes a run: an operating-system lock in the run's folder says
so, and is let go by the system when its holder dies. Each opening counts an
epoch up and writes it into the journal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.config import StorageConfig
from deepfocus_live.errors import InputError
from deepfocus_live.frames import (
    FrameHeader,
    FrameIndex,
    ImageSpec,
    Placement,
    RunSpec,
    StackKey,
)
from deepfocus_live.volume._folder import (
    FORMAT_VERSION,
    JOURNAL,
    keeps_pixels,
    lock_run,
    new_folder,
    read_run_json,
    spec_of,
    unwritable,
)
from deepfocus_live.volume._images import Levels, RunImages
from deepfocus_live.volume._journal import Journal, read_journal
from deepfocus_live.volume._places import SlicePlaces
from deepfocus_live.volume._pyramid import halve_labels, halve_mean
from deepfocus_live.volume._run_layout import SliceIndex, slice_at
from deepfocus_live.volume._slices import crc32_of
from deepfocus_live.volume._store import sync_tree, write_atomically

__all__ = ["RunWriter", "StoredFrame"]

log = logging.getLogger(__name__)

EndReason = Literal["completed", "canceled", "errored", "interrupted"]
Pixels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class StoredFrame:
    """What became of one frame: where it lies, and whether it had been there already."""

    placement: Placement
    crc32: str
    duplicate: bool


class RunWriter:
    """The one writer of a run directory. Safe to call from several threads.

    Make one with `create` or, after a crash, with `reopen`.
    """

    def __init__(self, path: Path, spec: RunSpec, storage: StorageConfig) -> None:
        self.path = path
        self.spec = spec
        self.pixels_stored = storage.mode == "all"
        """Whether the slices' pixels are written; a run that was begun without goes on without."""
        self._power_loss = storage.durability == "power-loss"
        self._writer_lock: FileLock | None = None
        self._guard = threading.Lock()
        self._images = RunImages(path, spec, storage)
        self._places = SlicePlaces()
        self._epoch = 1
        self.masked_before: set[int] = set()
        """Frames whose masks an earlier writer made, by sequence number."""
        self.labelled_before: set[StackKey] = set()
        self.ended_before = False
        self._journal: Journal | None = None

    # ---------------------------------------------------------------- life

    @classmethod
    def create(
        cls,
        output: Path,
        spec: RunSpec,
        storage: StorageConfig,
        *,
        about: dict[str, Any],
        named: Callable[[Path], None] | None = None,
    ) -> RunWriter:
        """Make a new run directory below `output`, whole and valid before its first slice.

        Parameters
        ----------
        about : dict
            What else belongs into `run.json`: configuration, profile, versions.
        named : callable
            Called with the directory's path just before it is there: who writes that down finds
            it whoever is killed; where it is not there then, nothing was ever in it.

        Raises
        ------
        DiskFullError
            If there is no room in `output`.
        InputError
            If `output` cannot be written to.
        """
        path, partial = new_folder(output, spec.name)
        writer = cls(path, spec, storage)
        try:
            _fill(partial, spec, storage, about)
            if named is not None:
                named(path)
            # Made aside and renamed: a folder with a run's name is always a whole run.
            _platform.replace(partial, path)
            if writer._power_loss:
                _platform.sync_directory(output)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                raise unwritable(output, error) from None
            raise
        writer._open()
        return writer

    @classmethod
    def reopen(cls, path: Path, storage: StorageConfig) -> RunWriter:
        """Go on with a run whose writer died.

        Raises
        ------
        InputError
            If `path` is no run directory, is damaged, or another process writes it.
        """
        record = read_run_json(path)
        writer = cls(path, spec_of(path, record), storage)
        writer.pixels_stored = writer._images.pixels_stored = keeps_pixels(record)
        writer._writer_lock = lock_run(path)
        try:
            for line in read_journal(path / JOURNAL):
                writer._replay(line)
            writer._open()
        except BaseException as error:
            writer.close()
            damaged = isinstance(error, (LookupError, TypeError, ValueError, AttributeError))
            if not damaged or isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: cannot be gone on with, its journal or metadata are damaged ({error}): "
                "`deepfocus-live verify` says which slices are whole."
            ) from None
        return writer

    def _open(self) -> None:
        if self._writer_lock is None:
            self._writer_lock = lock_run(self.path)
        self._images.open()
        self._journal = Journal(
            self.path / JOURNAL, sync=self._power_loss, first=self._images.folders.sync
        )
        self.note("open", epoch=self._epoch)

    def _replay(self, line: dict[str, Any]) -> None:
        if line["kind"] == "frame":
            placement = Placement(*(int(line[axis]) for axis in ("image", "t", "c", "z")))
            self._places.remember(line["sequence_number"], placement, line["crc32"])
        elif line["kind"] == "mask":
            self.masked_before.add(line["sequence_number"])
        elif line["kind"] == "label":
            self.labelled_before.add(
                StackKey(self.spec.run_id, line["image"], line["t"], line["c"])
            )
        elif line["kind"] == "end":
            self.ended_before = True
        elif line["kind"] == "image":
            self._images.planned.append(ImageSpec.model_validate(line["spec"]))
        elif line["kind"] == "open":
            self._epoch = line["epoch"] + 1

    def end(self, reason: EndReason) -> None:
        """Write into the journal how the acquisition ended."""
        self.note("end", reason=reason, frames=self.frames_durable)

    def close(self) -> None:
        """Write what is queued and let the run go."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
            with contextlib.suppress(OSError):  # a full disk: sizes are as they were planned
                self._images.describe()
        self._images.folders.close()
        if self._writer_lock is not None:
            self._writer_lock.release()

    # -------------------------------------------------------------- frames

    @property
    def frames_durable(self) -> int:
        """How many frames are on the disk and in the journal."""
        return len(self._places)

    def durable_placements(self) -> Mapping[int, Placement]:
        """Return where each durable frame lies, by sequence number; it grows with the run."""
        return self._places

    def stack_size(self, key: StackKey) -> int:
        """Return how many slices the stack is expected to have."""
        return self._images.planned[key.image].size_z

    def write_frame(self, header: FrameHeader, pixels: Pixels) -> StoredFrame:
        """Put a slice on the disk; it counts only once `journal_frame` has called back.

        A slice that counts already stays as it is.

        Parameters
        ----------
        header : FrameHeader
            Everything that is known of it.
        pixels : (Y, X) or (3, Y, X) uint8 or uint16
            C-contiguous. Only their checksum is taken where the run keeps no pixels.

        Raises
        ------
        OSError
            If the disk refuses; the frame can be written again.
        """
        crc = crc32_of(pixels)
        number = header.sequence_number
        with self._guard:
            known = self._places.crc32(number)
            if known is not None:
                # What was acknowledged is never written again, whatever comes under its number.
                if known != crc:
                    log.warning("%s: frame %d came again and differs", self.path, number)
                return StoredFrame(self._places[number], known, duplicate=True)
            placement = self._place(header)
        if self.pixels_stored:
            self._images[placement.image].slices.write(placement[1:], pixels)
        return StoredFrame(placement, crc, duplicate=False)

    def journal_frame(
        self,
        header: FrameHeader,
        stored: StoredFrame,
        then: Callable[[BaseException | None], None],
        **more: Any,
    ) -> None:
        """Enter a written slice into the journal; `then(error)` follows once that is durable.

        `more` goes into its line.
        """

        def committed(error: BaseException | None) -> None:
            if error is None:
                with self._guard:
                    number = header.sequence_number
                    self._places.remember(number, stored.placement, stored.crc32)
            then(error)

        line = {**_frame_line(header, stored), **more}
        self._append(line if self.pixels_stored else {**line, "stored": False}, committed)

    def read_slice(self, placement: Placement) -> Pixels:
        """Return the stored pixels of one slice, (Y, X) or (3, Y, X); 0 where none are kept."""
        return np.asarray(self._images[placement.image].raw[0][self._at(placement)])

    def read_mask(self, placement: Placement) -> NDArray[np.uint8]:
        """Return the stored mask of one slice, (Y, X) of 0 and 1."""
        return np.asarray(self._images[placement.image].labels["in_focus"][0][placement[1:]])

    def read_weak_label(self, placement: Placement) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what the rule says of one slice: weak label and undecided, (Y, X) of 0 and 1."""
        labels = self._images[placement.image].labels
        weak, undecided = (labels[name][0][placement[1:]] for name in ("weak_label", "undecided"))
        return np.asarray(weak), np.asarray(undecided)

    # ----------------------------------------------------- what is derived

    def write_pyramid(self, placement: Placement, pixels: Pixels) -> None:
        """Write the coarser levels of one slice, where the run keeps pixels, and what they show."""
        if not self.pixels_stored:
            return
        image = self._images[placement.image]
        for level in image.coarse:
            pixels = halve_mean(pixels)
            level[self._at(placement)] = pixels
        if self.spec.samples_per_pixel == 1:
            image.display.look(placement.c, pixels)

    def write_mask(
        self,
        placement: Placement,
        mask: NDArray[np.uint8],
        probability: NDArray[np.uint8],
        **line: Any,
    ) -> None:
        """Write one slice's mask (Y, X) and probability, and its line in the journal."""
        image = self._images[placement.image]
        image.probability[0][placement[1:]] = probability
        _write_label(image.labels["in_focus"], placement, mask)
        self.note("mask", **line)

    def write_weak_label(
        self, placement: Placement, weak: NDArray[np.uint8], undecided: NDArray[np.uint8]
    ) -> None:
        """Write what the rule says of one slice, both (Y, X) of 0 and 1."""
        labels = self._images[placement.image].labels
        _write_label(labels["weak_label"], placement, weak)
        _write_label(labels["undecided"], placement, undecided)

    def note(self, kind: str, **line: Any) -> None:
        """Append a line to the journal without waiting for it."""
        self._append({"kind": kind, "at": round(time.time(), 3), **line}, None)

    # -------------------------------------------------------------- inside

    def _append(
        self, line: dict[str, Any], then: Callable[[BaseException | None], None] | None
    ) -> None:
        journal = self._journal
        if journal is None:
            raise RuntimeError(f"{self.path}: the run is closed.")
        journal.append(line, then)

    def _at(self, placement: Placement) -> SliceIndex:
        return slice_at(placement, self.spec.samples_per_pixel)

    def _place(self, header: FrameHeader) -> Placement:
        """Return where the frame goes; makes room where the plan had none."""
        number = header.sequence_number
        claimed = self._places.claimed(number)
        if claimed is not None:
            return claimed
        index = FrameIndex(header.index)
        image = self._images.find(index)
        if image is None:
            image = self._images.add(index, header)
            self.note(
                "image", image=image, spec=self._images.planned[image].model_dump(mode="json")
            )
        c = min(self.spec.channel_number(index), len(self.spec.channels) - 1)
        placement = Placement(image, index.get("t", 0), c, index.get("z", 0))
        while self._places.is_taken(placement):
            # Two frames with one index (a run from an iterator may have none at all):
            # the later one becomes a later time point, nothing is ever overwritten.
            placement = placement._replace(t=placement.t + 1)
        # A full disk may refuse the room: only then is the place the frame's.
        self._images.make_room(placement)
        self._places.claim(number, placement)
        return placement


def _fill(folder: Path, spec: RunSpec, storage: StorageConfig, about: dict[str, Any]) -> None:
    """Make all that a run has before its first slice."""
    images = RunImages(folder, spec, storage)
    images.create()
    record = {
        "format": FORMAT_VERSION,
        "created_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "spec": spec.model_dump(mode="json"),
        "pixels_stored": images.pixels_stored,
        **about,
    }
    write_atomically(folder / "run.json", json.dumps(record, indent=1).encode(), sync=False)
    if storage.durability == "power-loss":
        sync_tree(folder)


def _write_label(levels: Levels, placement: Placement, label: NDArray[np.uint8]) -> None:
    for level in levels:
        level[placement[1:]] = label
        label = halve_labels(label)


def _frame_line(header: FrameHeader, stored: StoredFrame) -> dict[str, Any]:
    known = header.model_dump(
        mode="json",
        exclude_none=True,
        exclude={"run_id", "height_px", "width_px", "dtype", "samples_per_pixel"},
    )
    return {
        "kind": "frame",
        **known,
        **stored.placement._asdict(),
        "crc32": stored.crc32,
    }
