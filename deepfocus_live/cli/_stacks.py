"""What `label` and `segment` share: stacks in, an OME-Zarr with labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from pydantic import ValidationError

from deepfocus_live.config import ProfileConfig, said_of
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.focus import Conditions
    from deepfocus_live.stacks import Stack
    from deepfocus_live.volume import ImageLayout

__all__ = ["calibrated", "conditions_given", "layout_of", "open_all"]


def open_all(paths: Sequence[Path]) -> list[Stack]:
    """Open every stack of every path, and say what had to be assumed."""
    from deepfocus_live.stacks import open_stacks

    stacks = [stack for path in paths for stack in open_stacks(path)]
    for stack in stacks:
        for note in stack.notes:
            typer.echo(f"{stack.name}: {note}", err=True)
    return stacks


def layout_of(stack: Stack, labels: tuple[str, ...]) -> ImageLayout:
    """Return how `stack` is stored beside its labels.

    Raises
    ------
    InputError
        If its pixels are floating-point numbers.
    """
    from deepfocus_live.volume import ImageLayout

    if stack.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise InputError(
            f"{stack.path}: {stack.dtype.name} pixels; convert the stack to uint8 or uint16."
        )
    return ImageLayout(
        name=stack.name,
        shape=(1, 1, *stack.shape),
        dtype=stack.dtype.name,
        channels=(stack.channel_name or "default",),
        pixel_size_um=stack.pixel_size_um,
        z_step_um=stack.z_step_um,
        labels=labels,
    )


def conditions_given(**imaging: Any) -> Conditions:
    """Return what options say of how stacks were imaged; they are named as in a profile.

    Raises
    ------
    InputError
        If one cannot be, or the flat field cannot be used.
    """
    from deepfocus_live.focus import Conditions

    known = {name: value for name, value in imaging.items() if value is not None}
    try:
        profile = ProfileConfig(**known)
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} {said_of(error)}") from None
    return Conditions(**profile.imaging())


def calibrated(conditions: Conditions, stack: Stack) -> Conditions:
    """Return `conditions` with the calibration of a stack.

    Raises
    ------
    InputError
        If they have a flat field of another size.
    """
    flat = conditions.flat_field
    if flat is not None and flat.shape != stack.shape[1:]:
        raise InputError(
            f"{stack.path}: slices are {stack.shape[1]} × {stack.shape[2]} pixels, the flat field "
            f"is {flat.shape[0]} × {flat.shape[1]}: take one with the same camera settings."
        )
    return replace(
        conditions,
        pixel_size_um=stack.pixel_size_um.um if stack.pixel_size_um else None,
        z_step_um=stack.z_step_um.um if stack.z_step_um else None,
    )
