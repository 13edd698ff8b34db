"""What `label` and `segment` share: stacks in, an OME-Zarr with labels out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.stacks import Stack
    from deepfocus_live.volume import ImageLayout

__all__ = ["layout_of", "open_all"]


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
