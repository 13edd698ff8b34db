"""Which stacks are learnt from, and which are held out to judge by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepfocus_live.errors import InputError
from deepfocus_live.model import MIN_SIDE
from deepfocus_live.training._examples import LabelledStack

__all__ = ["Parts", "part", "split"]

_HELD_OUT_SHARE = 0.2  # of the stacks
_REGION_SHARE = 0.25  # of the columns, where one stack must do for training and for judging
_REPLAY_SHARE = 0.5  # of the crops, at most: what is new must be learnt, too


@dataclass(frozen=True)
class Parts:
    """What is learnt from, what is held out, and how in words.

    Attributes
    ----------
    learn : list of LabelledStack
    held, held_replay : list of LabelledStack
        To judge by: of what is new, and of what is replayed.
    words : str
    """

    learn: list[LabelledStack]
    held: list[LabelledStack]
    held_replay: list[LabelledStack]
    words: str


def part(stacks: Sequence[LabelledStack], held_before: Collection[tuple[str, str]] = ()) -> Parts:
    """Part new and replayed stacks each into what is learnt from and what is judged by.

    Parameters
    ----------
    stacks : sequence of LabelledStack
    held_before : collection of (path, stack)
        Sources of stacks that an ancestor of the network was judged by: replayed ones of them are
        held out again, so that no network has ever seen them.

    Raises
    ------
    InputError
        As `split` does, and if no stack is new.
    """
    new = [stack for stack in stacks if not stack.replay]
    replayed = [stack for stack in stacks if stack.replay]
    if not new:
        raise InputError("no new stack is left to learn from, only replayed ones")
    learn, held, words = split(new)
    again, held_replay, words_again = _split_replay(replayed, held_before)
    if not replayed:
        return Parts(learn, held, [], words)
    return Parts(
        [*learn, *_drawn_less(again, sum(stack.weight for stack in learn))],
        held,
        held_replay,
        f"{words}; of replayed ones {words_again}",
    )


def _split_replay(
    stacks: Sequence[LabelledStack], held_before: Collection[tuple[str, str]]
) -> tuple[list[LabelledStack], list[LabelledStack], str]:
    before = [s for s in stacks if s.source and (s.source.path, s.source.stack) in held_before]
    if before:
        rest = [stack for stack in stacks if not any(stack is one for one in before)]
        return rest, before, "whole stacks: " + ", ".join(stack.name for stack in before)
    try:
        return split(stacks)
    except InputError:  # nothing in focus, or too narrow: a memory that nothing is judged by
        return list(stacks), [], "none"


def _drawn_less(stacks: Sequence[LabelledStack], new: float) -> list[LabelledStack]:
    """Return replayed stacks with weights that leave what is new its share."""
    total = sum(stack.weight for stack in stacks)
    most = new * _REPLAY_SHARE / (1.0 - _REPLAY_SHARE)
    factor = min(1.0, most / total) if total else 1.0
    return [replace(stack, weight=stack.weight * factor) for stack in stacks]


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
