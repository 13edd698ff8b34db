"""A folder with one image per slice, or with one TIFF per stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepfocus_live.errors import InputError
from deepfocus_live.stacks._calibration import Geometry
from deepfocus_live.stacks._layout import stack_layouts
from deepfocus_live.stacks._names import natural_key, path_stem
from deepfocus_live.stacks._stack import Stack
from deepfocus_live.stacks._tiff import same_type, tiff_stacks
from deepfocus_live.stacks._tiff_file import PlaneType, TiffPlanes

__all__ = ["folder_stacks"]

_TIFF = (".tif", ".tiff")
_OTHER = (".png", ".bmp", ".jpg", ".jpeg")
_PIXEL_TYPES = {"I;16": np.uint16, "I;16B": np.uint16, "F": np.float32}


def folder_stacks(path: Path) -> list[Stack]:
    """Return the stacks of a folder, see `open_stacks`."""
    files = _image_files(path)
    several = [file for file in files if _slices(file) > 1]
    if not several:
        return [_stack_of(path, files)]
    if len(several) < len(files):
        other = next(file for file in files if file not in several)
        raise InputError(
            f"{path}: {several[0].name} holds several slices, {other.name} one; a folder has "
            "either one image per slice or one TIFF per stack: sort them into two"
        )
    return _stacks_of(files)


def _image_files(path: Path) -> list[Path]:
    files = sorted(
        (
            file
            for file in path.iterdir()
            if file.suffix.lower() in _TIFF + _OTHER and not file.name.startswith(".")
        ),
        key=lambda file: natural_key(file.name),
    )
    if not files:
        raise InputError(
            f"{path}: no images in this folder; a stack is a TIFF, an OME-Zarr, a run directory, "
            "or a folder with one TIFF or PNG per slice, or one TIFF per stack"
        )
    return files


def _slices(file: Path) -> int:
    if file.suffix.lower() not in _TIFF:
        return 1
    planes = TiffPlanes(file)
    planes.close()
    return len(planes)


def _stacks_of(files: Sequence[Path]) -> list[Stack]:
    """Return the stacks of all files, each file as positions of its own."""
    found: list[Stack] = []
    stems = Counter(path_stem(file) for file in files)
    for file in files:
        first = found[-1].position + 1 if found else 0
        for stack in tiff_stacks(file):
            if stems[path_stem(file)] > 1:  # a.tif and a.ome.tif
                stack.name = stack.name.replace(path_stem(file), file.name, 1)
            stack.position += first
            # Of a thousand files none stays open before it is read.
            stack.close()
            found.append(stack)
    return found


def _stack_of(path: Path, files: Sequence[Path]) -> Stack:
    """Return the images of a folder as one stack, in natural order of their names."""
    common = same_type(path, ((file.name, _plane_type(file)) for file in files))
    if len(files) < 2:
        raise InputError(
            f"{path}: one image, {files[0].name}; a stack needs at least 2 slices: "
            "one image per slice"
        )
    return Stack(
        name=path_stem(path),
        path=path,
        shape=(len(files), *common.shape_yx),
        dtype=common.dtype,
        read_slice=lambda z: _read(files[z]),
        geometry=_geometry(files[0]),
    )


def _plane_type(file: Path) -> PlaneType:
    if file.suffix.lower() in _TIFF:
        planes = TiffPlanes(file)
        try:
            return planes.plane_type(0)
        finally:
            planes.close()
    try:
        with Image.open(file) as image:
            dtype = np.dtype(_PIXEL_TYPES.get(image.mode, np.uint8))
            if image.mode in ("I", "1"):
                raise InputError(
                    f"{file}: {image.mode!r} pixels; save it as 8- or 16-bit greyscale"
                )
            return PlaneType((image.height, image.width), dtype)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read as an image ({error}): copy it again or remove it"
        ) from error


def _read(file: Path) -> NDArray[Any]:
    if file.suffix.lower() in _TIFF:
        planes = TiffPlanes(file)
        try:
            return planes.read(0)
        finally:
            planes.close()
    with Image.open(file) as image:
        if image.mode in ("L", "RGB", "RGBA", *_PIXEL_TYPES):
            return np.asarray(image)
        return np.asarray(image.convert("RGB"))  # palettes and the like


def _geometry(first: Path) -> Geometry:
    """Return the pixel size of the first image; a folder says nothing of z."""
    if first.suffix.lower() not in _TIFF:
        return Geometry()
    planes = TiffPlanes(first)
    try:
        found = stack_layouts(planes)[0].geometry
    finally:
        planes.close()
    notes = tuple(note for note in found.notes if "unit" in note)
    return Geometry(pixel_size_um=found.pixel_size_um, notes=notes)
