"""Stacks with labels, and random crops of them.

A target holds one value per block of the network's resolution: 0 not in focus, 1 in focus,
`UNKNOWN` where the label does not say, which carries no loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions, label_stack
from deepfocus_live.frames import Calibration

__all__ = ["UNKNOWN", "LabelledStack", "SliceStack", "block_target", "split", "with_weak_labels"]

UNKNOWN = 255
_MIN_SIDE = 64
_LEAST_GAP_PX = 32
_REGION_SHARE = 0.25  # of the columns, where one stack must do for training and for judging


class SliceStack(Protocol):
    """A stack of single-channel slices, read lazily."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""

    def __getitem__(self, z_index: int, /) -> Any:
        """Return one (Y, X) slice, uint8 or uint16."""


@dataclass(frozen=True)
class LabelledStack:
    """A stack in memory, and what is in focus in it.

    Attributes
    ----------
    name : str
    slices : (Z, Y, X) uint8 or uint16
        Raw camera counts.
    target : (Z, Y // reduction, X // reduction) uint8
        0, 1 or `UNKNOWN`.
    weight : float
        How often crops are drawn from it, beside the other stacks.
    gap_px : int
        How far from each other what is learnt and what is judged must lie, as labels look aside.
    trainable : bool
        Whether anything should be learned from it; see `focus.StackLabels`.
    """

    name: str
    slices: NDArray[np.uint8] | NDArray[np.uint16]
    target: NDArray[np.uint8]
    weight: float = 1.0
    gap_px: int = _LEAST_GAP_PX
    trainable: bool = True

    @property
    def reduction(self) -> int:
        """Pixels per block."""
        return int(self.slices.shape[1] // self.target.shape[1])

    @property
    def any_in_focus(self) -> bool:
        """Whether anything in it is labelled as in focus."""
        return bool((self.target == 1).any())

    def columns(self, start: int, stop: int) -> LabelledStack:
        """Return the stack cut to pixel columns, both multiples of `reduction`."""
        r = self.reduction
        target = self.target[:, :, start // r : stop // r]
        return replace(self, slices=self.slices[:, :, start:stop], target=target)


def block_target(
    in_focus: ArrayLike, undecided: ArrayLike | None, reduction: int
) -> NDArray[np.uint8]:
    """Return the target of one slice.

    Parameters
    ----------
    in_focus, undecided : (Y, X) bool or uint8
        Non-zero is true; without `undecided` everything is decided.
    reduction : int

    Returns
    -------
    (Y // reduction, X // reduction) uint8
        1 where at least half of a block is in focus, `UNKNOWN` where any of it is undecided.
    """
    target = (_block_mean(in_focus, reduction) >= 0.5).astype(np.uint8)
    if undecided is not None:
        target[_block_mean(undecided, reduction) > 0] = UNKNOWN
    return target


def with_weak_labels(
    stack: SliceStack, *, preset: str, reduction: int, conditions: Conditions | None = None
) -> LabelledStack:
    """Read a stack and label it by rule, with what it says of its own calibration.

    Raises
    ------
    InputError
        If its slices are smaller than 64 x 64, or of a type the network does not take, or the
        preset is unknown.
    """
    if min(stack.shape[1:]) < _MIN_SIDE:
        raise InputError(
            f"{stack.name}: slices of {stack.shape[1]} x {stack.shape[2]} pixels are too small to "
            f"learn from; {_MIN_SIDE} x {_MIN_SIDE} at least"
        )
    slices = np.stack([np.asarray(stack[z]) for z in range(stack.shape[0])])
    if slices.dtype.kind != "u" or slices.dtype.itemsize > 2:
        raise InputError(f"{stack.name}: slices must be uint8 or uint16, not {slices.dtype}")
    try:
        labels = label_stack(slices, preset, conditions=_calibrated(conditions, stack))
    except ValueError as error:
        raise InputError(f"{stack.name}: {error}") from error
    targets = [
        block_target(labels.weak_label_slice(z), labels.undecided_slice(z), reduction)
        for z in range(len(slices))
    ]
    for target, arrived in zip(targets, labels.arrived, strict=True):
        if not arrived:
            target[:] = UNKNOWN
    return LabelledStack(
        stack.name,
        slices,
        np.stack(targets),
        gap_px=max(_LEAST_GAP_PX, labels.reach_px),
        trainable=labels.trainable,
    )


def _calibrated(conditions: Conditions | None, stack: SliceStack) -> Conditions:
    """Return `conditions` with the calibration of a stack that has one."""
    # Stacks from files do; the least that a stack must be does not.
    lengths: dict[str, Any] = {}
    for name in ("pixel_size_um", "z_step_um"):
        said: Calibration | None = getattr(stack, name, None)
        if said is not None:
            lengths[name] = said.um
    return replace(conditions or Conditions(), **lengths)


def split(stacks: Sequence[LabelledStack]) -> tuple[list[LabelledStack], list[LabelledStack], str]:
    """Return stacks to learn from, stacks to judge by, and in words how they were parted.

    Whole stacks are held out, never slices of a stack that is learnt from: neighbouring slices are
    nearly the same picture. With one stack a region of it is held out.

    Raises
    ------
    InputError
        If nothing is in focus in any stack, or a single stack is too narrow to be parted.
    """
    usable = [index for index, stack in enumerate(stacks) if stack.any_in_focus]
    if not usable:
        raise InputError("nothing is in focus in any of the stacks: there is nothing to learn")
    if len(stacks) == 1:
        return _split_region(stacks[0])
    # A fifth of the stacks, spread over the list, and something in focus in each.
    count = max(1, round(len(stacks) / 5))
    chosen = {usable[i] for i in np.linspace(len(usable) - 1, 0, count).round().astype(int)}
    if len(chosen) == len(usable):  # keep one with something in focus to learn from
        chosen = set(usable[1:])
    if not chosen:
        return _split_single_usable(stacks, usable[0])
    learn = [stack for index, stack in enumerate(stacks) if index not in chosen]
    held = [stack for index, stack in enumerate(stacks) if index in chosen]
    return learn, held, "whole stacks: " + ", ".join(stack.name for stack in held)


def _split_single_usable(
    stacks: Sequence[LabelledStack], index: int
) -> tuple[list[LabelledStack], list[LabelledStack], str]:
    learn, held, words = _split_region(stacks[index])
    others = [stack for other, stack in enumerate(stacks) if other != index]
    return [*learn, *others], held, words


def _split_region(
    stack: LabelledStack,
) -> tuple[list[LabelledStack], list[LabelledStack], str]:
    """Hold out the columns at one side, whichever side leaves something in focus on both."""
    r, width = stack.reduction, stack.slices.shape[2]
    held_px = max(int(width * _REGION_SHARE), _MIN_SIDE) // r * r
    # Beyond the labels' windows: nothing that trained a label is judged.
    gap_px = min(stack.gap_px, width // 8) // r * r
    whole = stack.target.shape[2] * r
    if whole - held_px - gap_px < _MIN_SIDE:
        raise InputError(
            f"{stack.name}: slices {width} pixels wide are too narrow to hold out a region to "
            "judge by; give a second stack"
        )
    right = stack.columns(0, whole - held_px - gap_px), stack.columns(whole - held_px, whole)
    left = stack.columns(held_px + gap_px, whole), stack.columns(0, held_px)
    for side, (learn, held) in {"right": right, "left": left}.items():
        if learn.any_in_focus and held.any_in_focus:
            words = f"a region, as there is one stack: the {side} {held_px} columns of {stack.name}"
            return [learn], [held], words
    raise InputError(
        f"{stack.name}: what is in focus lies all in one place, so no region can be held out to "
        "judge by; give a second stack"
    )


def _block_mean(plane: ArrayLike, reduction: int) -> NDArray[np.float32]:
    array = np.asarray(plane)
    height, width = (side // reduction for side in array.shape)
    blocks = array[: height * reduction, : width * reduction] != 0
    blocks = blocks.reshape(height, reduction, width, reduction)
    mean: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return mean


def names(stacks: Iterable[LabelledStack]) -> list[str]:
    """Return the stacks' names."""
    return [stack.name for stack in stacks]
