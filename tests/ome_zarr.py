"""Both validators of the field, asked about a store and all that is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaozarrs
import zarr
from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw
from ome_zarr_models.v05.hcs import HCS
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.labels import Labels
from ome_zarr_models.v05.well import Well

from deepfocus_live.volume import LABELS

__all__ = ["assert_run_is_valid", "assert_store_is_valid", "sizes_in_xml"]


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
        if "plate" in ome:
            # What lies in no well is listed as an image, and no part of the plate.
            found = _images_of_plate(root)
            assert {path for path in series if "/" in path} <= set(found), (found, series)
            assert growing or set(found) <= set(series), (found, series)
        else:
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


def _images_of_plate(root: zarr.Group) -> list[str]:
    """Return the fields of all wells."""
    found: list[str] = []
    for well in HCS.from_zarr(root).attributes.ome.plate.wells:
        group: Any = root[well.path]
        fields = Well.from_zarr(group).attributes.ome.well.images  # asks about each image
        found += [f"{well.path}/{field.path}" for field in fields]
    return found


def assert_run_is_valid(path: Path, *, growing: bool = False) -> None:
    """Raise unless both accept the two stores of a run."""
    assert_store_is_valid(path / "volume.ome.zarr", growing=growing)
    assert_store_is_valid(path / "probability.ome.zarr", labels=False, growing=growing)
    listed: Any = zarr.open_group(str(path / "volume.ome.zarr" / "OME"), mode="r").attrs["ome"]
    told = sizes_in_xml(path)
    assert len(told) == len(listed["series"]) or growing, told


def sizes_in_xml(path: Path) -> list[tuple[int, ...]]:
    """Return t c z y x of every image, as the OME-XML of a run's volume tells them."""
    text = (path / "volume.ome.zarr" / "OME" / "METADATA.ome.xml").read_bytes()
    schema = {"": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    pixels = ElementTree.fromstring(text).iterfind("Image/Pixels", schema)
    return [tuple(int(one.attrib[f"Size{axis}"]) for axis in "TCZYX") for one in pixels]
