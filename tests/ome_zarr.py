"""Both validators of the field, asked about a store and all that is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaozarrs
import zarr
from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.labels import Labels

from deepfocus_live.volume import LABELS

__all__ = ["assert_run_is_valid", "assert_store_is_valid"]


def assert_store_is_valid(store: Path, *, labels: bool = True, growing: bool = False) -> None:
    """Raise unless both accept the store and, where it has `labels`, those of every image.

    One that is `growing` may hold an image that it does not list yet, never the other way round.
    """
    yaozarrs.validate_zarr_store(str(store))
    root = zarr.open_group(str(store), mode="r")
    ome: Any = root.attrs["ome"]
    if "bioformats2raw.layout" in ome:
        listed: Any = zarr.open_group(str(store / "OME"), mode="r").attrs["ome"]
        series = listed["series"]
        found = BioFormats2Raw.from_zarr(root).image_paths  # asks about each image
        assert found == series or (growing and found[:-1] == series), (found, series)
        images = [store / number for number in series]
        for image in images:
            yaozarrs.validate_zarr_store(str(image))
    else:
        Image.from_zarr(root)
        images = [store]
    for image in images if labels else []:
        group = zarr.open_group(str(image / "labels"), mode="r")
        # Asks about each label's image too.
        names = Labels.from_zarr(group).attributes.ome.labels
        assert names == list(LABELS), names


def assert_run_is_valid(path: Path, *, growing: bool = False) -> None:
    """Raise unless both accept the two stores of a run."""
    assert_store_is_valid(path / "volume.ome.zarr", growing=growing)
    assert_store_is_valid(path / "probability.ome.zarr", labels=False, growing=growing)
