"""OME-Zarr 0.4 and 0.5: a bare image, a bioformats2raw collection, or a plate.

An image of a run says in attributes of its own what OME-Zarr has no word for: whether its channels
are the colours of one camera, which are then looked at as their luminance, and whether its pixels
were stored at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration, luminance
from deepfocus_live.stacks._calibration import Geometry, length_um
from deepfocus_live.stacks._names import path_stem, stack_names
from deepfocus_live.stacks._plane import checked_dtype
from deepfocus_live.stacks._stack import Stack

__all__ = ["image_paths", "is_zarr", "ome_attributes", "zarr_stacks"]

_MARKERS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
_AXES = ("t", "c", "z", "y", "x")


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr node."""
    return any((path / marker).is_file() for marker in _MARKERS)


def zarr_stacks(path: Path) -> list[Stack]:
    """Return the stacks of one OME-Zarr, see `open_stacks`."""
    images = [_image(place) for place in image_paths(path)]
    stacks = [
        stack
        for position, image in enumerate(images)
        if image.size("z") >= 2
        for stack in _image_stacks(path, image, position)
    ]
    if not stacks:
        raise InputError(
            f"{path}: has no image with more than one slice, a stack needs at least 2 slices: "
            "give an image with a z axis"
        )
    flat = sum(image.size("z") < 2 for image in images)
    indices = [(stack.position, stack.time, stack.channel) for stack in stacks]
    for stack, name in zip(stacks, stack_names(path_stem(path), indices), strict=True):
        stack.name = name
        if flat:
            stack.notes += (f"{flat} of its {len(images)} images have one slice: left out",)
    return stacks


def _open_group(path: Path) -> Any:
    import zarr  # slow to import

    try:
        return zarr.open_group(str(path), mode="r", use_consolidated=False)
    except Exception as error:  # zarr raises several kinds, by version and by damage
        raise InputError(
            f"{path}: is not a Zarr group ({error or type(error).__name__}): "
            "give the folder of the OME-Zarr image itself"
        ) from error


def ome_attributes(path: Path) -> Mapping[str, Any]:
    """Return the OME metadata of a node, where 0.5 and where 0.4 keep it."""
    attributes = dict(_open_group(path).attrs)
    ome = attributes.get("ome")
    return cast("Mapping[str, Any]", ome) if isinstance(ome, Mapping) else attributes


def image_paths(path: Path) -> list[Path]:
    """Return where the images of one OME-Zarr lie, in the order of `Stack.position`."""
    attributes = ome_attributes(path)
    if "multiscales" in attributes:
        return [path]
    series = path / "OME"
    listed = ome_attributes(series).get("series") if is_zarr(series) else None
    if "plate" in attributes and not listed:
        return list(_plate_images(path, attributes["plate"]))
    # A plate may list its images too: of a run they are then in the order of their numbers.
    names = [str(name) for name in listed] if listed else _numbered(path)
    if not names:
        raise InputError(
            f"{path}: has no OME-Zarr image (no multiscales, no plate, no 0/): "
            "give the folder of the image itself"
        )
    return [path / name for name in names]


def _plate_images(path: Path, plate: Mapping[str, Any]) -> Iterator[Path]:
    for well in plate.get("wells", ()):
        place = path / str(well["path"])
        for field in ome_attributes(place).get("well", {}).get("images", ()):
            yield place / str(field["path"])


def _numbered(path: Path) -> list[str]:
    numbers = (int(child.name) for child in path.iterdir() if child.name.isdecimal())
    return [str(number) for number in sorted(numbers) if is_zarr(path / str(number))]


@dataclass(frozen=True)
class _Image:
    """The full-resolution array of one image and its axes."""

    where: Path
    array: Any
    axes: tuple[str, ...]
    geometry: Geometry
    channel_names: list[str | None]
    samples: int = 1
    """Channels of the array that are the colours of one."""
    pixels_stored: bool = True

    def size(self, axis: str) -> int:
        size = int(self.array.shape[self.axes.index(axis)]) if axis in self.axes else 1
        return size // self.samples if axis == "c" else size

    def reader(self, t: int, c: int) -> Callable[[int], NDArray[Any]]:
        colors = slice(c * self.samples, (c + 1) * self.samples)
        fixed: dict[str, int | slice] = {"t": t, "c": c if self.samples == 1 else colors}

        def read(z: int) -> NDArray[Any]:
            if not self.pixels_stored:
                raise InputError(
                    f"{self.where}: its pixels were not stored (storage.mode: masks-only): give "
                    "the images that your own software saved"
                )
            at = {**fixed, "z": z}
            index = tuple(at.get(axis, slice(None)) for axis in self.axes)
            return luminance(np.asarray(self.array[index]))

        return read


def _image_stacks(path: Path, image: _Image, position: int) -> Iterator[Stack]:
    dtype = checked_dtype(np.dtype(image.array.dtype), str(image.where))
    for t in range(image.size("t")):
        for c in range(image.size("c")):
            yield Stack(
                name=path_stem(path),
                path=path,
                shape=(image.size("z"), image.size("y"), image.size("x")),
                dtype=dtype,
                read_slice=image.reader(t, c),
                position=position,
                time=t,
                channel=c,
                channel_name=image.channel_names[c] if c < len(image.channel_names) else None,
                geometry=image.geometry,
            )


def _image(place: Path) -> _Image:
    group = _open_group(place)
    attributes = ome_attributes(place)
    try:
        scales = attributes["multiscales"][0]
        dataset = scales["datasets"][0]
        array = group[str(dataset["path"])]
        axes = scales.get("axes") or _AXES[-len(array.shape) :]
        names = tuple(axis if isinstance(axis, str) else str(axis["name"]) for axis in axes)
        if len(names) != len(array.shape) or not {"y", "x"} <= set(names) <= set(_AXES):
            raise ValueError(f"axes {names} for shape {array.shape}")
        geometry = _geometry(scales, dataset, axes, names, array.shape)
        labels = [
            channel.get("label") for channel in attributes.get("omero", {}).get("channels", ())
        ]
        ours = dict(group.attrs).get("deepfocus_live") or {}
        samples = int(ours.get("samples_per_pixel", 1))
        if samples > 1:
            # "DAPI red", "DAPI green", "DAPI blue"
            labels = [label.rpartition(" ")[0] for label in labels[::samples]]
    except Exception as error:  # whatever a hand-made or damaged store can raise
        raise InputError(
            f"{place}: its OME-Zarr metadata cannot be used ({type(error).__name__}: {error}): "
            "check it with an OME-Zarr validator"
        ) from error
    stored = bool(ours.get("pixels_stored", True))
    return _Image(place, array, names, geometry, labels, samples, stored)


def _geometry(
    scales: Mapping[str, Any],
    dataset: Mapping[str, Any],
    axes: Any,
    names: tuple[str, ...],
    shape: tuple[int, ...],
) -> Geometry:
    scale, shift = np.ones(len(names)), np.zeros(len(names))
    transforms = [
        *dataset.get("coordinateTransformations", ()),
        *scales.get("coordinateTransformations", ()),
    ]
    for transform in transforms:
        if transform.get("type") == "scale":
            factor = np.asarray(transform["scale"], float)
            scale, shift = scale * factor, shift * factor
        elif transform.get("type") == "translation":
            shift = shift + np.asarray(transform["translation"], float)
    units = {
        name: axis.get("unit") if isinstance(axis, Mapping) else None
        for name, axis in zip(names, axes, strict=True)
    }
    found = {name: _stated(float(scale[i]), units[name]) for i, name in enumerate(names)}
    pixel_size, z_step = found["x"], found.get("z")
    z_um = None
    if z_step is not None:
        index = names.index("z")
        um_per_unit = z_step.um / scale[index]
        z_um = (shift[index] + scale[index] * np.arange(shape[index])) * um_per_unit
    assumed = any(c is not None and c.source == "assumed" for c in (pixel_size, z_step))
    notes = ("lengths are given without a unit: µm is assumed",) if assumed else ()
    return Geometry(pixel_size, z_step, z_um, notes)


def _stated(scale: float, unit: str | None) -> Calibration | None:
    # A scale of 1 without a unit is how writers say that they know nothing.
    return None if unit is None and scale == 1 else length_um(scale, unit)
