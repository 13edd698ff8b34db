"""Where the images of a run lie in its stores: the one place that knows.

Design Notes
------------
A run of stage positions is a bioformats2raw collection: image i lies at "i". A run over the wells
of a plate is an OME-Zarr plate: image i is a field of its well, at "row/column/field". A plate's
store lists its images as a collection does, too, in the order of their numbers: whoever knows
nothing of plates finds them there, and so do our own readers.

A tile that nobody planned becomes a further field of its position's well. An image that belongs to
no well of a plate lies beside the wells, at its number: listed with the others, no part of the
plate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from deepfocus_live.frames import ImageSpec, PlateSpec, RunSpec
from deepfocus_live.volume._layout import create_series, create_store

__all__ = ["create_run_store", "group_paths", "image_folder", "image_path", "list_images"]


def image_path(image: ImageSpec, number: int) -> str:
    """Return where an image lies in the stores of its run."""
    return str(number) if image.well is None else f"{image.well}/{image.field}"


def image_folder(store: Path, images: Sequence[ImageSpec], number: int) -> Path:
    """Return the folder of an image in one of its run's stores."""
    return store / image_path(images[number], number)


def group_paths(images: Sequence[ImageSpec]) -> list[str]:
    """Return the groups between a store and its images: the plate's rows and wells."""
    wells = _wells(images)
    return [*dict.fromkeys(well.partition("/")[0] for well in wells), *wells]


def create_run_store(path: Path, spec: RunSpec, images: Sequence[ImageSpec]) -> LocalStore:
    """Make an empty store of a run: what lists the images, and the groups above them."""
    series = [image_path(image, number) for number, image in enumerate(images)]
    plate = None if spec.plate is None else _plate(spec.plate, spec.name, images)
    store = create_store(path, series, plate=plate)
    for group in group_paths(images):
        is_well = "/" in group
        attributes = {"ome": _well(images, group)} if is_well else {}
        zarr.create_group(store, path=group, attributes=attributes)
    return store


def list_images(store: Store, images: Sequence[ImageSpec]) -> None:
    """Enter the last of the images, which lies in its place already, in the lists of a store."""
    last = images[-1]
    if last.well is not None:
        well = zarr.open_group(store, path=last.well, mode="r+")
        well.update_attributes({"ome": _well(images, last.well)})
    create_series(store, [image_path(image, number) for number, image in enumerate(images)])


def _wells(images: Iterable[ImageSpec]) -> list[str]:
    return list(dict.fromkeys(image.well for image in images if image.well is not None))


def _plate(plate: PlateSpec, name: str, images: Sequence[ImageSpec]) -> dict[str, Any]:
    wells = []
    for well in _wells(images):
        row, _, column = well.partition("/")
        at = {"rowIndex": plate.rows.index(row), "columnIndex": plate.columns.index(column)}
        wells.append({"path": well, **at})
    return {
        "version": "0.5",
        "name": f"{name} {plate.name}".strip(),
        "rows": [{"name": row} for row in plate.rows],
        "columns": [{"name": column} for column in plate.columns],
        "wells": wells,
    }


def _well(images: Iterable[ImageSpec], well: str) -> dict[str, Any]:
    fields = [{"path": str(image.field)} for image in images if image.well == well]
    return {"version": "0.5", "well": {"version": "0.5", "images": fields}}
