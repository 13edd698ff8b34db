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
import errno
import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import ValidationError
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.config import StorageConfig
from deepfocus_live.errors import DiskFullError, InputError
from deepfocus_live.frames import (
    FrameHeader,
    FrameIndex,
    ImageSpec,
    Placement,
    RunSpec,
    StackKey,
)
from deepfocus_live.volume._display import DisplayRange
from deepfocus_live.volume._journal import Journal, read_journal
from deepfocus_live.volume._layout import ImageLayout, create_image, open_levels, resize
from deepfocus_live.volume._ome_xml import write_ome_xml
from deepfocus_live.volume._places import SlicePlaces
from deepfocus_live.volume._plate import create_run_store, image_path, list_images
from deepfocus_live.volume._pyramid import halve_labels, halve_mean
from deepfocus_live.volume._slices import SliceWriter, crc32_of
from deepfocus_live.volume._store import DurableStore, FolderSyncs, sync_tree, write_atomically

__all__ = [
    "CORRECTED",
    "FORMAT_VERSION",
    "LABELS",
    "PROBABILITY_SCALE",
    "STORES",
    "RunWriter",
    "StoredFrame",
    "keeps_pixels",
    "layouts_of",
    "lock_run",
    "partial_of",
    "read_run_json",
    "slice_at",
    "spec_of",
]

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
LABELS = ("in_focus", "weak_label", "undecided")
CORRECTED = "corrected"
"""The label of masks that a person corrected: no writer of a run makes or changes it."""
PROBABILITY_SCALE = 4
"""Image pixels per pixel of the network's probability."""

EndReason = Literal["completed", "canceled", "errored", "interrupted"]
STORES = ("volume.ome.zarr", "probability.ome.zarr")
Levels = list["zarr.Array[Any]"]
Pixels = NDArray[np.unsignedinteger[Any]]
SliceIndex = tuple[int, int | slice, int]


@dataclass(frozen=True)
class StoredFrame:
    """What became of one frame: where it lies, and whether it had been there already."""

    placement: Placement
    crc32: str
    duplicate: bool


@dataclass
class _Image:
    raw: Levels
    slices: SliceWriter
    coarse: Levels
    labels: dict[str, Levels]
    probability: Levels
    display: DisplayRange


class RunWriter:
    """The one writer of a run directory. Safe to call from several threads.

    Make one with `create` or, after a crash, with `reopen`.
    """

    def __init__(self, path: Path, spec: RunSpec, storage: StorageConfig) -> None:
        self.path = path
        self.spec = spec
        self.pixels_stored = storage.mode == "all"
        """Whether the slices' pixels are written; a run that was begun without goes on without."""
        self._storage = storage
        self._writer_lock: FileLock | None = None
        self._guard = threading.Lock()
        self._folders = FolderSyncs()
        self._images_planned = list(spec.images)
        self._images: list[_Image] = []
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
        path, partial = _new_folder(output, spec.name)
        writer = cls(partial, spec, storage)
        try:
            writer._fill(about)
            if named is not None:
                named(path)
            # Made aside and renamed: a folder with a run's name is always a whole run.
            _platform.replace(partial, path)
            if writer._power_loss:
                _platform.sync_directory(output)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                raise _unwritable(output, error) from None
            raise
        writer.path = path
        writer._open()
        return writer

    def _fill(self, about: dict[str, Any]) -> None:
        for name in STORES:
            create_run_store(self.path / name, self.spec, self.spec.images)
        for number, image in enumerate(self.spec.images):
            self._create_image(number, image)
        self._describe()
        record = {
            "format": FORMAT_VERSION,
            "created_at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "spec": self.spec.model_dump(mode="json"),
            "pixels_stored": self.pixels_stored,
            **about,
        }
        data = json.dumps(record, indent=1).encode()
        write_atomically(self.path / "run.json", data, sync=False)
        if self._power_loss:
            sync_tree(self.path)

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
        writer.pixels_stored = keeps_pixels(record)
        writer._writer_lock = lock_run(path)
        try:
            for line in read_journal(path / "frames.jsonl"):
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
        for number in range(len(self._images), len(self._images_planned)):
            self._images.append(self._open_image(number, self._images_planned[number]))
        self._journal = Journal(
            self.path / "frames.jsonl", sync=self._power_loss, first=self._folders.sync
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
            self._images_planned.append(ImageSpec.model_validate(line["spec"]))
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
                self._describe()
        self._folders.close()
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
        return self._images_planned[key.image].size_z

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

    @property
    def _power_loss(self) -> bool:
        return self._storage.durability == "power-loss"

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
        image = self._image_of(index, header)
        c = min(self.spec.channel_number(index), len(self.spec.channels) - 1)
        placement = Placement(image, index.get("t", 0), c, index.get("z", 0))
        while self._places.is_taken(placement):
            # Two frames with one index (a run from an iterator may have none at all):
            # the later one becomes a later time point, nothing is ever overwritten.
            placement = placement._replace(t=placement.t + 1)
        # A full disk may refuse the room: only then is the place the frame's.
        self._make_room(placement)
        self._places.claim(number, placement)
        return placement

    def _image_of(self, index: FrameIndex, header: FrameHeader) -> int:
        position, tile = index.get("p", 0), index.get("g", 0)
        for number, image in enumerate(self._images_planned):
            if (image.position, image.tile) == (position, tile):
                return number
        return self._add_image(self._unplanned(position, tile, header))

    def _unplanned(self, position: int, tile: int, header: FrameHeader) -> ImageSpec:
        """Return what is known of an image that nobody planned, as its first frame comes."""
        beside = [image for image in self._images_planned if image.position == position]
        well = beside[0].well if beside else None
        fields = [image.field for image in self._images_planned if image.well == well]
        return self._images_planned[0].model_copy(
            update={
                "position": position,
                "tile": tile,
                "name": f"p{position} g{tile}",
                "well": well,
                "field": 0 if well is None else max(fields) + 1,
                "x_um": header.x_um,
                "y_um": header.y_um,
            }
        )

    def _add_image(self, image: ImageSpec) -> int:
        number = len(self._images_planned)
        self._create_image(number, image)
        for name in STORES:
            list_images(self._store(name), [*self._images_planned, image])
            if self._power_loss:
                sync_tree(self.path / name / image_path(image, number))
        opened = self._open_image(number, image)
        # Planned only now that nothing can be refused any more: else it is made again.
        self._images.append(opened)
        self._images_planned.append(image)
        self._describe()
        self.note("image", image=number, spec=image.model_dump(mode="json"))
        return number

    def _describe(self) -> None:
        """Write what the images are called and how large they are, for programs that ask there."""
        layouts = []
        for number, image in enumerate(self._images_planned):
            layout, _ = self._layouts(image)
            if number < len(self._images):
                t, _, z, _, _ = self._images[number].raw[0].shape
                layout = replace(layout, shape=(t, layout.shape[1], z, *layout.shape[3:]))
            layouts.append(layout)
        write_ome_xml(self.path / STORES[0], layouts, sync=self._power_loss)

    def _make_room(self, placement: Placement) -> None:
        image = self._images[placement.image]
        # All are looked at: the last attempt may have ended in between.
        for levels in (image.raw, image.coarse, image.probability, *image.labels.values()):
            resize(levels, t=placement.t + 1, z=placement.z + 1)

    def _create_image(self, number: int, image: ImageSpec) -> None:
        layouts = self._layouts(image)
        for name, made in zip(STORES, layouts, strict=True):
            store, aside = self.path / name, f".{number}.partial"
            folder = store / image_path(image, number)
            if folder.exists():
                # Left by a writer that died, or found the disk full, before it said so:
                # no frame in it was acknowledged.
                _platform.replace(folder, store / aside)
            shutil.rmtree(store / aside, ignore_errors=True)
            create_image(LocalStore(store), aside, made)
            # The store is valid at every moment: an image appears whole.
            _platform.replace(store / aside, folder)

    def _layouts(self, image: ImageSpec) -> tuple[ImageLayout, ImageLayout]:
        return layouts_of(
            self.spec, image, codec=self._storage.codec, pixels_stored=self.pixels_stored
        )

    def _open_image(self, number: int, image: ImageSpec) -> _Image:
        volume, probability = STORES
        place = image_path(image, number)
        plain = LocalStore(self.path / volume)
        raw = open_levels(self._store(volume), place)[:1]
        opened = _Image(
            raw=raw,
            slices=SliceWriter(raw[0], self._folders if self._power_loss else None),
            coarse=open_levels(plain, place)[1:],
            labels={name: open_levels(plain, f"{place}/labels/{name}") for name in LABELS},
            probability=open_levels(LocalStore(self.path / probability), place),
            display=DisplayRange(self._store(volume), place),
        )
        # The raw slices grow first: a writer may have died before the others had followed.
        t, _, z, _, _ = opened.raw[0].shape
        for levels in (opened.coarse, opened.probability, *opened.labels.values()):
            resize(levels, t=t, z=z)
        return opened

    def _store(self, name: str) -> LocalStore:
        """Return the store through which nothing is lost that this run promises to keep."""
        return DurableStore(self.path / name) if self._power_loss else LocalStore(self.path / name)


def slice_at(placement: Placement, samples: int) -> SliceIndex:
    """Return where in its image's array a slice lies: three channels of it if it has colours."""
    _, t, c, z = placement
    return t, c if samples == 1 else slice(c * samples, (c + 1) * samples), z


def keeps_pixels(record: Mapping[str, Any]) -> bool:
    """Return whether the run with this `run.json` keeps the pixels of its slices."""
    return bool(record.get("pixels_stored", True))


def layouts_of(
    spec: RunSpec, image: ImageSpec, *, codec: str, pixels_stored: bool = True
) -> tuple[ImageLayout, ImageLayout]:
    """Return how one image of a run lies in each of `STORES`."""
    layout = ImageLayout(
        name=f"{spec.name} {image.name}".strip(),
        shape=(image.size_t, len(spec.channels), image.size_z, spec.height_px, spec.width_px),
        dtype=spec.dtype,
        channels=tuple(channel.name for channel in spec.channels),
        pixel_size_um=spec.pixel_size_um,
        z_step_um=spec.z_step_um,
        labels=LABELS,
        codec=codec,
        window=None if spec.bits_per_sample is None else (0, 2**spec.bits_per_sample - 1),
        samples_per_pixel=spec.samples_per_pixel,
        corner_xy_um=_corner(spec, image),
        time_step_s=spec.time_step_s,
        pixels_stored=pixels_stored,
    )
    return layout, probability_layout(layout)


def _corner(spec: RunSpec, image: ImageSpec) -> tuple[float, float] | None:
    """Return where the first pixel of an image lay: the stage's place is its centre."""
    if image.x_um is None or image.y_um is None or spec.pixel_size_um is None:
        return None
    pixel = spec.pixel_size_um.um
    return (
        image.x_um - pixel * (spec.width_px - 1) / 2,
        image.y_um - pixel * (spec.height_px - 1) / 2,
    )


def probability_layout(image: ImageLayout) -> ImageLayout:
    """Return the layout of the network's probability for `image`: one level, coarser, uint8."""
    t, c, z, y, x = image.shape
    return ImageLayout(
        name=f"{image.name} probability",
        shape=(t, c, z, -(-y // PROBABILITY_SCALE), -(-x // PROBABILITY_SCALE)),
        dtype="uint8",
        channels=image.channels,
        pixel_size_um=image.pixel_size_um,
        z_step_um=image.z_step_um,
        codec="zstd",
        pixel_scale=PROBABILITY_SCALE,
        levels=1,
        corner_xy_um=image.corner_xy_um,
        time_step_s=image.time_step_s,
    )


def read_run_json(path: Path) -> dict[str, Any]:
    """Return the contents of a run's `run.json`.

    Raises
    ------
    InputError
        If there is none, or it was written by a later version.
    """
    try:
        record = json.loads((path / "run.json").read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: not a run directory: no readable run.json ({error.strerror})."
        ) from None
    except ValueError:
        raise InputError(f"{path}: run.json is damaged: not JSON.") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: run.json is damaged: not a record.")
    if record.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{path}: run format {record.get('format')}, this version reads {FORMAT_VERSION}: "
            "update deepfocus-live."
        )
    return record


def spec_of(path: Path, record: Mapping[str, Any]) -> RunSpec:
    """Return what was planned, as a run's `run.json` says.

    Raises
    ------
    InputError
        If it does not say so.
    """
    try:
        return RunSpec.model_validate(record["spec"])
    except (KeyError, ValidationError):
        raise InputError(
            f"{path}: run.json is damaged: it does not say what was planned."
        ) from None


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


def partial_of(path: Path) -> Path:
    """Return the folder in which a run directory is made, before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def _new_folder(output: Path, name: str) -> tuple[Path, Path]:
    """Return a free name for a run, and the folder that keeps it free: both below `output`."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    try:
        output.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = output / (f"{stamp}_{plain}" + (f"_{attempt + 1}" if attempt else ""))
            partial = partial_of(path)
            try:
                partial.mkdir()
            except FileExistsError:
                continue
            # Asked only now: until here another could have been about to take the name.
            if not path.exists():
                return path, partial
            partial.rmdir()
    except OSError as error:
        raise _unwritable(output, error) from None
    raise InputError(f"{output}: too many runs named {stamp}_{plain}.")


def _unwritable(output: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{output}: no run can be begun here: {error.strerror}. Make room, or choose another "
            "--output."
        )
    return InputError(
        f"{output}: cannot write runs here: {error.strerror}. Choose another --output."
    )


def lock_run(path: Path) -> FileLock:
    """Return the lock of a run's one writer, held.

    Raises
    ------
    InputError
        If another process holds it.
    """
    lock = FileLock(path / ".writer.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{path}: another process is writing this run.") from None
    return lock
