"""TIFF, OME-TIFF and ImageJ TIFF as stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.stacks._layout import StackLayout, stack_layouts
from deepfocus_live.stacks._names import path_stem, stack_names
from deepfocus_live.stacks._stack import Stack
from deepfocus_live.stacks._tiff_file import PlaneType, TiffPlanes

__all__ = ["same_type", "tiff_stacks"]


def tiff_stacks(path: Path) -> list[Stack]:
    """Return the stacks of one TIFF file, see `open_stacks`."""
    planes = TiffPlanes(path)
    try:
        layouts = _with_slices(path, stack_layouts(planes))
        names = stack_names(path_stem(path), [(x.position, x.time, x.channel) for x in layouts])
        return [_stack(planes, *pair) for pair in zip(layouts, names, strict=True)]
    except InputError:
        planes.close()
        raise


def _with_slices(path: Path, layouts: list[StackLayout]) -> list[StackLayout]:
    """Return the layouts that are stacks; the others are left out, and said to be."""
    stacks = [layout for layout in layouts if len(layout.planes) >= 2]
    if not stacks:
        raise InputError(
            f"{path}: is a 2-D image, a stack needs at least 2 slices: "
            "give a TIFF with several, or the folder that holds one image per slice"
        )
    left_out = len(layouts) - len(stacks)
    if not left_out:
        return stacks
    note = f"{left_out} of its {len(layouts)} images have one slice: left out"
    return [replace(x, geometry=x.geometry.with_note(note)) for x in stacks]


def _stack(planes: TiffPlanes, layout: StackLayout, name: str) -> Stack:
    n_z = len(layout.planes)
    common = same_type(
        planes.path, ((z, planes.plane_type(p)) for z, p in enumerate(layout.planes))
    )
    return Stack(
        name=name,
        path=planes.path,
        shape=(n_z, *common.shape_yx),
        dtype=common.dtype,
        read_slice=_reader(planes, layout.planes),
        position=layout.position,
        time=layout.time,
        channel=layout.channel,
        channel_name=layout.channel_name,
        geometry=layout.geometry,
        close=planes.close,
    )


def _reader(planes: TiffPlanes, order: tuple[int, ...]) -> Callable[[int], NDArray[Any]]:
    return lambda z: planes.read(order[z])


def same_type(path: Path, types: Iterable[tuple[int | str, PlaneType]]) -> PlaneType:
    """Return the one size and type of all slices.

    Raises
    ------
    InputError
        If one differs from the first, naming that slice and both.
    """
    first: PlaneType | None = None
    for slice_name, found in types:
        first = first or found
        if found != first:
            raise InputError(
                f"{path}: slice {slice_name} is {found}, the stack began with {first}. "
                "Slices of one stack must have one size and type: crop, convert or remove it."
            )
    if first is None:
        raise InputError(f"{path}: holds no slices")
    return first
