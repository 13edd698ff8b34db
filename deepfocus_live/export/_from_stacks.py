"""A STACK as a source: its stacks put together to images, one per position."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.export._source import Place, PlaneFacts, Source, SourceImage, SourceLabel
from deepfocus_live.focus import Conditions
from deepfocus_live.stacks import MaskStack, Stack, open_masks, open_stacks

__all__ = ["drawn_labels", "source_of_stacks"]

_LABELS = ("in_focus", "weak_label", "undecided", "corrected")


def source_of_stacks(path: Path) -> Source:
    """Return what `open_stacks` finds at a path, with the labels that lie beside it."""
    stacks = open_stacks(path)
    labels = {name: masks for name in _LABELS if (masks := _masks(path, name))}
    opened: list[Stack | MaskStack] = [*stacks, *(m for masks in labels.values() for m in masks)]
    positions = sorted({stack.position for stack in stacks})
    images = []
    name = _common_name(stacks)
    for position in positions:
        own = [number for number, stack in enumerate(stacks) if stack.position == position]
        tag = f"p{position}" if len(positions) > 1 else ""
        images.append(
            _image(
                [stacks[number] for number in own],
                {name: [masks[number] for number in own] for name, masks in labels.items()},
                name,
                tag,
            )
        )
    notes = dict.fromkeys(note for stack in stacks for note in stack.notes)
    return Source(
        name=name,
        path=path,
        images=tuple(images),
        about=(f"from {path.name}",),
        notes=tuple(notes),
        close=lambda: _close(opened),
    )


def _close(opened: Sequence[Stack | MaskStack]) -> None:
    for one in opened:
        one.close()


def drawn_labels(path: Path) -> dict[tuple[int, int, int], MaskStack]:
    """Return the masks that a person corrected in a run, by position, time and channel."""
    return {
        (mask.image.position, mask.image.time, mask.image.channel): mask
        for mask in _masks(path, "corrected")
        if mask.image is not None
    }


def _masks(path: Path, label: str) -> list[MaskStack]:
    """Return a label's masks in the order of the path's stacks; none where it has no such label."""
    volume = path / "volume.ome.zarr"
    volume = volume if volume.is_dir() else path
    # An image, one of a collection's, or one of a plate's: row, column, field.
    homes = (volume.glob(f"{above}labels/{label}") for above in ("", "*/", "*/*/*/"))
    if not path.is_dir() or not any(next(found, None) for found in homes):
        return []
    return open_masks(path, label)


def _common_name(stacks: Sequence[Stack]) -> str:
    """Return the stacks' name without what tells them apart."""
    name = stacks[0].name
    return re.sub(r"(-p\d+)?(-t\d+)?(-c\d+)?$", "", name) if len(stacks) > 1 else name


def _image(
    stacks: Sequence[Stack], labels: dict[str, list[MaskStack]], name: str, tag: str
) -> SourceImage:
    first = stacks[0]
    for stack in stacks:
        if (stack.shape[1:], stack.dtype) != (first.shape[1:], first.dtype):
            raise InputError(
                f"{stack.path}: {stack.name} is {stack.shape[1]} × {stack.shape[2]} "
                f"{stack.dtype.name}, {first.name} is {first.shape[1]} × {first.shape[2]} "
                f"{first.dtype.name}: one position's images have one size; crop or convert them."
            )
    times = sorted({stack.time for stack in stacks})
    channels = sorted({stack.channel for stack in stacks})
    by_tc = {(times.index(stack.time), channels.index(stack.channel)): stack for stack in stacks}
    planes = {
        Place(t, c, z): PlaneFacts(z_um=float(stack.z_um[z]))
        for (t, c), stack in by_tc.items()
        if stack.z_um is not None and _is_measured(stack)
        for z in range(len(stack))
    }
    there = frozenset(Place(*tc, z) for tc, stack in by_tc.items() for z in range(len(stack)))
    by_label = {
        name: {tc: masks[stacks.index(stack)] for tc, stack in by_tc.items()}
        for name, masks in labels.items()
    }
    names = {channels.index(stack.channel): stack.channel_name for stack in stacks}
    return SourceImage(
        name=f"{name} {tag}".strip(),
        tag=tag,
        shape=(
            len(times),
            len(channels),
            max(map(len, stacks)),
            *first.shape[1:],
        ),
        dtype=first.dtype,
        channels=tuple(names[c] for c in range(len(channels))),
        read=_reader(by_tc),
        there=there,
        pixel_size_um=first.pixel_size_um,
        z_step_um=first.z_step_um,
        planes=planes,
        labels={name: _label(name, masks) for name, masks in by_label.items()},
        conditions=Conditions(
            pixel_size_um=first.pixel_size_um.um if first.pixel_size_um else None,
            z_step_um=first.z_step_um.um if first.z_step_um else None,
        ),
    )


def _is_measured(stack: Stack) -> bool:
    """Return whether a stack's z are more than its step counted from 0."""
    if stack.z_um is None or stack.z_step_um is None:
        return stack.z_um is not None
    return not np.allclose(stack.z_um, stack.z_step_um.um * np.arange(len(stack)), rtol=1e-6)


def _reader(stacks: dict[tuple[int, int], Stack]) -> Callable[[Place], NDArray[Any]]:
    return lambda place: stacks[place[:2]][place.z]


def _label(name: str, masks: dict[tuple[int, int], MaskStack]) -> SourceLabel:
    there = frozenset(
        Place(*tc, z) for tc, mask in masks.items() for z in range(len(mask)) if mask.said(z)
    )

    def read(place: Place) -> NDArray[np.uint8]:
        states = masks[place[:2]][place.z]
        # Beside the weak label its doubts are a label of their own.
        return states if name == "corrected" else (states == 1).astype(np.uint8)

    return SourceLabel(read, there)
