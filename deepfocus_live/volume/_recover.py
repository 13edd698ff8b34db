"""What a crash leaves of a run, and what of it can be mended from the run alone.

Design Notes
------------
Slices and journal lines are on the medium before they are acknowledged; nothing here touches them.
All else is written without a sync and can be made again: after a killed process the last of it is
missing, after a power cut some of it may be empty or cut short. So nothing is believed for standing
in the journal; each file is looked at. A look at its head is enough (`is_chunk`).

Masks and labels need a network and a rule, which this room does not know: it says which of them
are missing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.volume._chunks import chunk_path, is_chunk
from deepfocus_live.volume._folder import JOURNAL, lock_run
from deepfocus_live.volume._journal import cut_torn_line
from deepfocus_live.volume._layout import (
    ImageLayout,
    create_image,
    list_label,
    open_levels,
)
from deepfocus_live.volume._ledger import Ledger
from deepfocus_live.volume._plate import create_run_store, group_paths, image_path
from deepfocus_live.volume._pyramid import halve_labels, halve_mean
from deepfocus_live.volume._run_layout import CORRECTED, STORES, layouts_of, slice_at
from deepfocus_live.volume._store import sync_tree
from deepfocus_live.volume._verify import SliceFault, partial_files

__all__ = [
    "Leftovers",
    "Owed",
    "find_leftovers",
    "find_owed",
    "mend_files",
    "refuse_run_in_use",
    "write_levels",
]

_VOLUME, _PROBABILITY = STORES


@dataclass(frozen=True)
class Leftovers:
    """What a writer that died left of its files.

    Attributes
    ----------
    partial : tuple of Path
        Half-written files and images, under their temporary names.
    metadata : tuple of Path
        `zarr.json` files that are missing or no longer JSON.
    torn : bool
        Whether the journal ends with half a line.
    """

    partial: tuple[Path, ...] = ()
    metadata: tuple[Path, ...] = ()
    torn: bool = False

    def __bool__(self) -> bool:
        return bool(self.partial or self.metadata or self.torn)


@dataclass(frozen=True)
class Owed:
    """What is still to be made of the slices of a run.

    Attributes
    ----------
    no_end : bool
        Whether nobody wrote how the acquisition ended.
    levels : tuple of (str, Placement)
        Slices whose coarser levels are missing, of "image" or a label.
    masks : tuple of (int, Placement)
        Slices without mask, with their sequence numbers.
    labels : tuple of (StackKey, tuple of int)
        Stacks without weak labels, with the z of their slices that are whole.
    """

    no_end: bool = False
    levels: tuple[tuple[str, Placement], ...] = ()
    masks: tuple[tuple[int, Placement], ...] = ()
    labels: tuple[tuple[StackKey, tuple[int, ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.no_end or self.levels or self.masks or self.labels)


def refuse_run_in_use(run: Path) -> None:
    """Leave a run alone that a process is writing.

    Raises
    ------
    InputError
        If there is such a process.
    """
    # Where nothing can be written nobody writes; and whoever only looks makes no file.
    if (run / ".writer.lock").exists() and os.access(run, os.W_OK):
        lock_run(run).release()


# ------------------------------------------------------------------- files


def find_leftovers(ledger: Ledger) -> Leftovers:
    """Return what is half-written, and which metadata are missing."""
    missing = [path for path in _metadata(ledger) if not _is_metadata(path)]
    return Leftovers(tuple(partial_files(ledger.path)), tuple(missing), ledger.torn)


def mend_files(ledger: Ledger, left: Leftovers) -> None:
    """Remove what is half-written, make missing metadata anew, cut the journal's torn line off.

    Raises
    ------
    InputError
        If another process is writing the run.
    OSError
        If the disk refuses.
    """
    lock = lock_run(ledger.path)
    try:
        for path in left.partial:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for image, store in dict.fromkeys(_home(ledger, path) for path in left.metadata):
            _make_metadata(ledger, image, store, left.metadata)
        if left.torn:
            cut_torn_line(ledger.path / JOURNAL)
    finally:
        lock.release()


def _metadata(ledger: Ledger) -> Iterator[Path]:
    """Yield every `zarr.json` that a run must have."""
    # Levels depend on the size of a slice alone, which a run has one of.
    layouts = layouts_of(ledger.spec, ledger.images[0], codec=_codec(ledger))
    for name, layout in zip(STORES, layouts, strict=True):
        levels = [str(level) for level in range(len(layout.level_shapes))]
        yield ledger.path / name / "zarr.json"
        yield ledger.path / name / "OME" / "zarr.json"
        yield from (ledger.path / name / x / "zarr.json" for x in group_paths(ledger.images))
        for image in range(len(ledger.images)):
            folder = ledger.folder(image, store=name)
            yield from (folder / below / "zarr.json" for below in ("", *levels))
            if layout.labels:
                yield folder / "labels" / "zarr.json"
            for label in layout.labels:
                yield from (folder / "labels" / label / x / "zarr.json" for x in ("", *levels))


def _is_metadata(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("zarr_format") == 3 and "node_type" in found


def _home(ledger: Ledger, path: Path) -> tuple[int | None, str]:
    """Return the image that metadata belong to, None: what is above the images; and the store."""
    store, *below = path.relative_to(ledger.path).parts
    for number, image in enumerate(ledger.images):
        own = image_path(image, number).split("/")
        if below[: len(own)] == own:
            return number, store
    return None, store


def _make_metadata(
    ledger: Ledger, image: int | None, store_name: str, missing: Sequence[Path]
) -> None:
    """Make an image, or what is above the images, empty, aside; take from it what is missing."""
    store = ledger.path / store_name
    root = store if image is None else ledger.folder(image, store=store_name)
    name = f".{image or 0}.partial"
    aside = store / name
    if image is None:
        create_run_store(aside, ledger.spec, ledger.images)
    else:
        layout = _grown_layouts(ledger, image)[STORES.index(store_name)]
        create_image(LocalStore(store), name, layout)
        if (root / "labels" / CORRECTED / "zarr.json").is_file():
            list_label(LocalStore(store), f"{name}/labels", CORRECTED)
    sync_tree(aside)
    for path in missing:
        if _home(ledger, path) == (image, store_name):
            path.parent.mkdir(parents=True, exist_ok=True)
            _platform.replace(aside / path.relative_to(root), path)
    shutil.rmtree(aside)


def _grown_layouts(ledger: Ledger, image: int) -> tuple[ImageLayout, ImageLayout]:
    """Return how an image lies in the two stores: as planned, or longer where it has grown."""
    places = [place for place, _ in ledger.frames.values() if place.image == image]
    planned = ledger.images[image]
    grown = planned.model_copy(
        update={
            "size_t": max([planned.size_t, *(place.t + 1 for place in places)]),
            "size_z": max([planned.size_z, *(place.z + 1 for place in places)]),
        }
    )
    return layouts_of(ledger.spec, grown, codec=_codec(ledger), pixels_stored=ledger.pixels_stored)


def _codec(ledger: Ledger) -> str:
    try:
        return str(ledger.record["configuration"]["storage"]["codec"])
    except (KeyError, TypeError):
        return "lz4"


# -------------------------------------------------------- what is derived


def find_owed(
    ledger: Ledger,
    faults: Sequence[SliceFault],
    *,
    masked: Callable[[Placement], bool],
    labelled: bool,
) -> Owed:
    """Return what is still to be made of the slices that are whole.

    Parameters
    ----------
    ledger : Ledger
        The journal.
    faults : sequence of SliceFault
        Slices that nothing can be made of.
    masked : callable
        Whether the slice at a place gets a mask.
    labelled : bool
        Whether stacks get weak labels.
    """
    broken = {fault.sequence_number for fault in faults}
    look = _Look(ledger)
    levels: list[tuple[str, Placement]] = []
    masks: list[tuple[int, Placement]] = []
    stacks: defaultdict[StackKey, list[Placement]] = defaultdict(list)
    for number, (place, _) in sorted(ledger.frames.items()):
        if number in broken:
            continue
        stacks[place.stack(ledger.spec.run_id)].append(place)
        if ledger.pixels_stored and not look.coarse(place, "image"):
            levels.append(("image", place))
        if number in ledger.masked and look.finest(place, "in_focus") and look.chance(place):
            if not look.coarse(place, "in_focus"):
                levels.append(("in_focus", place))
        elif masked(place):
            masks.append((number, place))
    labels = []
    for key, places in sorted(stacks.items()):
        made = key in ledger.labelled
        if made and all(look.finest(p, label) for p in places for label in _RULE):
            levels += [(label, p) for p in places for label in _RULE if not look.coarse(p, label)]
        elif labelled:
            labels.append((key, tuple(sorted(place.z for place in places))))
    return Owed(ledger.ended is None, tuple(levels), tuple(masks), tuple(labels))


_RULE = ("weak_label", "undecided")


class _Look:
    """Looks whether chunks that were derived are there and whole."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        volume, chance = layouts_of(ledger.spec, ledger.images[0], codec=_codec(ledger))
        pixels = [y * x for *_, y, x in volume.level_shapes]
        itemsize = np.dtype(ledger.spec.dtype).itemsize * ledger.spec.samples_per_pixel
        self._bytes = {"image": [itemsize * n for n in pixels], "label": pixels}
        self._chance_bytes = chance.level_shapes[0][3] * chance.level_shapes[0][4]

    def finest(self, place: Placement, label: str) -> bool:
        """Whether a label's full level is there."""
        path = chunk_path(self._ledger.folder(place.image), f"labels/{label}/0", place)
        return is_chunk(path, self._bytes["label"][0])

    def coarse(self, place: Placement, of: str) -> bool:
        """Whether all levels but the finest are there, of the image or a label."""
        base, sizes = ("", "image") if of == "image" else (f"labels/{of}/", "label")
        image = self._ledger.folder(place.image)
        return all(
            is_chunk(chunk_path(image, f"{base}{level}", place), size)
            for level, size in enumerate(self._bytes[sizes])
            if level
        )

    def chance(self, place: Placement) -> bool:
        """Whether the probability is there."""
        image = self._ledger.folder(place.image, store=_PROBABILITY)
        path = chunk_path(image, "0", place)
        return is_chunk(path, self._chance_bytes)


def write_levels(ledger: Ledger, of: str, placement: Placement) -> None:
    """Write the coarser levels of one slice of the image, or of a label, from its finest."""
    image = image_path(ledger.images[placement.image], placement.image)
    of_image = of == "image"
    group = image if of_image else f"{image}/labels/{of}"
    at = slice_at(placement, ledger.spec.samples_per_pixel if of_image else 1)
    finest, *coarse = open_levels(LocalStore(ledger.path / _VOLUME), group)
    pixels: Any = np.asarray(finest[at])
    for level in coarse:
        pixels = halve_mean(pixels) if of_image else halve_labels(pixels)
        level[at] = pixels
