"""Which stacks are learnt from, and which are held out to judge by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepfocus_live.errors import InputError
from deepfocus_live.model import MIN_SIDE
from deepfocus_live.training._examples import LabelledStack

__all__ = ["split"]

_HELD_OUT_SHARE = 0.2  # of the stacks
_REGION_SHARE = 0.25  # of the columns, where one stack must do for training and for judging


def split(stacks: Sequence[LabelledStack]) -> tuple[list[LabelledStack], list[LabelledStack], str]:
    """Return stacks to learn from, stacks to judge by, and in words how they were parted.

    Whole stacks are held out, never slices of a stack that is learnt from: neighbouring slices are
    nearly the same picture. A fifth is held out of those with hand-made masks and a fifth of the
    others, each where there are two or more. With one stack a region of it is held out.

    Raises
    ------
    InputError
        If nothing is in focus in any stack, or a single stack is too narrow to be parted.
    """
    usable = [index for index, stack in enumerate(stacks) if stack.any_in_focus]
    if not usable:
        raise InputError("nothing is in focus in any of the stacks: there is nothing to learn")
    if len(stacks) == 1 or len(usable) == 1:
        return _split_single_usable(stacks, usable[0])
    by_hand = [index for index in usable if stacks[index].any_hand_made]
    by_rule = [index for index in usable if not stacks[index].any_hand_made]
    chosen = _some_of(by_hand) | _some_of(by_rule)
    if not chosen:  # one of either kind: the hand-made one is to learn from
        chosen = {by_rule[0]}
    learn = [stack for index, stack in enumerate(stacks) if index not in chosen]
    held = [stack for index, stack in enumerate(stacks) if index in chosen]
    return learn, held, "whole stacks: " + ", ".join(stack.name for stack in held)


def _some_of(usable: Sequence[int]) -> set[int]:
    """Return a fifth of the indices, spread over the list; none of fewer than two."""
    if len(usable) < 2:
        return set()
    count = max(1, round(_HELD_OUT_SHARE * len(usable)))
    places = np.linspace(len(usable) - 1, 0, count).round().astype(int)
    return {usable[place] for place in places}


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
    held_px = max(int(width * _REGION_SHARE), MIN_SIDE) // r * r
    # Beyond the labels' windows: nothing that trained a label is judged.
    gap_px = min(stack.gap_px, width // 8) // r * r
    whole = stack.target.shape[2] * r
    if whole - held_px - gap_px < MIN_SIDE:
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
