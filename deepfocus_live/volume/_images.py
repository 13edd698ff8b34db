"""The images of a run while it is written: planned or not, opened, as large as they have grown."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.config import StorageConfig
from deepfocus_live.frames import FrameHeader, FrameIndex, ImageSpec, Placement, RunSpec
from deepfocus_live.volume._display import DisplayRange
from deepfocus_live.volume._layout import ImageLayout, create_image, open_levels, resize
from deepfocus_live.volume._ome_xml import write_ome_xml
from deepfocus_live.volume._plate import create_run_store, image_path, list_images
from deepfocus_live.volume._run_layout import LABELS, STORES, layouts_of
from deepfocus_live.volume._slices import SliceWriter
from deepfocus_live.volume._store import DurableStore, FolderSyncs, sync_tree

__all__ = ["Levels", "OpenImage", "RunImages"]

Levels = list["zarr.Array[Any]"]


@dataclass
class OpenImage:
    """One image's arrays (t, c, z, y, x), of the raw ones the finest, of all others every level."""

    raw: Levels
    slices: SliceWriter
    coarse: Levels
    labels: dict[str, Levels]
    probability: Levels
    display: DisplayRange


class RunImages:
    """The images of one run. Whoever adds one or makes room holds the writer's guard.

    Parameters
    ----------
    path : Path
        The run directory.
    spec : RunSpec
        What was planned.
    storage : StorageConfig
        Codec, durability, and whether pixels are kept.

    Attributes
    ----------
    planned : list of ImageSpec
        As planned before the run, and those that came later.
    pixels_stored : bool
        Whether the run keeps the pixels of its slices.
    folders : FolderSyncs
        Folders in which slices have come in.
    """

    def __init__(self, path: Path, spec: RunSpec, storage: StorageConfig) -> None:
        self._path = path
        self._spec = spec
        self._codec = storage.codec
        self._power_loss = storage.durability == "power-loss"
        self.pixels_stored = storage.mode == "all"
        self.folders = FolderSyncs()
        self.planned = list(spec.images)
        self._opened: list[OpenImage] = []

    def __getitem__(self, number: int) -> OpenImage:
        return self._opened[number]

    def create(self) -> None:
        """Make the stores and all images that are planned."""
        for name in STORES:
            create_run_store(self._path / name, self._spec, self.planned)
        for number, image in enumerate(self.planned):
            self._create_image(number, image)
        self.describe()

    def open(self) -> None:
        """Open all images that are planned."""
        for number in range(len(self._opened), len(self.planned)):
            self._opened.append(self._open_image(number, self.planned[number]))

    def find(self, index: FrameIndex) -> int | None:
        """Return the number of the image that a frame belongs to; None: nobody planned it."""
        place = index.get("p", 0), index.get("g", 0)
        for number, image in enumerate(self.planned):
            if (image.position, image.tile) == place:
                return number
        return None

    def add(self, index: FrameIndex, header: FrameHeader) -> int:
        """Make an image that nobody planned, of which this is the first frame; return its number.

        Raises
        ------
        OSError
            If the disk refuses; nothing is planned then.
        """
        number, image = len(self.planned), self._unplanned(index, header)
        self._create_image(number, image)
        for name in STORES:
            list_images(self._store(name), [*self.planned, image])
            if self._power_loss:
                sync_tree(self._path / name / image_path(image, number))
        opened = self._open_image(number, image)
        # Planned only now that nothing can be refused any more: else it is made again.
        self._opened.append(opened)
        self.planned.append(image)
        self.describe()
        return number

    def describe(self) -> None:
        """Write what the images are called and how large they are, for programs that ask there."""
        layouts = []
        for number, image in enumerate(self.planned):
            layout, _ = self._layouts(image)
            if number < len(self._opened):
                t, _, z, _, _ = self._opened[number].raw[0].shape
                layout = replace(layout, shape=(t, layout.shape[1], z, *layout.shape[3:]))
            layouts.append(layout)
        write_ome_xml(self._path / STORES[0], layouts, sync=self._power_loss)

    def make_room(self, placement: Placement) -> None:
        """Let the image grow until it has this place.

        Raises
        ------
        OSError
            If the disk refuses.
        """
        image = self._opened[placement.image]
        # All are looked at: the last attempt may have ended in between.
        for levels in (image.raw, image.coarse, image.probability, *image.labels.values()):
            resize(levels, t=placement.t + 1, z=placement.z + 1)

    # ---------------------------------------------------------------- inside

    def _unplanned(self, index: FrameIndex, header: FrameHeader) -> ImageSpec:
        position, tile = index.get("p", 0), index.get("g", 0)
        beside = [image for image in self.planned if image.position == position]
        well = beside[0].well if beside else None
        fields = [image.field for image in self.planned if image.well == well]
        return self.planned[0].model_copy(
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

    def _create_image(self, number: int, image: ImageSpec) -> None:
        layouts = self._layouts(image)
        for name, made in zip(STORES, layouts, strict=True):
            store, aside = self._path / name, f".{number}.partial"
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
        return layouts_of(self._spec, image, codec=self._codec, pixels_stored=self.pixels_stored)

    def _open_image(self, number: int, image: ImageSpec) -> OpenImage:
        volume, probability = STORES
        place = image_path(image, number)
        plain = LocalStore(self._path / volume)
        raw = open_levels(self._store(volume), place)[:1]
        opened = OpenImage(
            raw=raw,
            slices=SliceWriter(raw[0], self.folders if self._power_loss else None),
            coarse=open_levels(plain, place)[1:],
            labels={name: open_levels(plain, f"{place}/labels/{name}") for name in LABELS},
            probability=open_levels(LocalStore(self._path / probability), place),
            display=DisplayRange(self._store(volume), place),
        )
        # The raw slices grow first: a writer may have died before the others had followed.
        t, _, z, _, _ = opened.raw[0].shape
        for levels in (opened.coarse, opened.probability, *opened.labels.values()):
            resize(levels, t=t, z=z)
        return opened

    def _store(self, name: str) -> LocalStore:
        """Return the store through which nothing is lost that this run promises to keep."""
        kind = DurableStore if self._power_loss else LocalStore
        return kind(self._path / name)
