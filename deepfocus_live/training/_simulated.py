"""Simulated stacks with true masks, over the range of instruments a model should know."""

from __future__ import annotations

import itertools

import numpy as np

from deepfocus_live.simulation import SPECIMENS, varied_focal_stack
from deepfocus_live.training._examples import LabelledStack, block_target

__all__ = ["simulated_stack", "simulated_stacks"]


def simulated_stacks(
    count: int, *, seed: int, shape: tuple[int, int, int] = (9, 384, 384), reduction: int = 4
) -> list[LabelledStack]:
    """Return stacks of every specimen in turn, each with optics, camera and light of its own.

    Parameters
    ----------
    count : int
        How many.
    seed : int
        The same seed and arguments give the same stacks; the k-th does not depend on `count`.
    shape : (Z, Y, X)
        Of each.
    reduction : int
        Pixels per block of the target, each way.
    """
    specimens = itertools.islice(itertools.cycle(SPECIMENS), count)
    return [
        simulated_stack(specimen, seed=(seed, number), shape=shape, reduction=reduction)
        for number, specimen in enumerate(specimens)
    ]


def simulated_stack(
    specimen: str, *, seed: tuple[int, int], shape: tuple[int, int, int], reduction: int = 4
) -> LabelledStack:
    """Return one stack of a specimen, everything else drawn at random from `seed`.

    What one slice does not tell is `UNKNOWN` in its target. See `varied_focal_stack` and
    `block_target`.

    Raises
    ------
    InputError
        If there is no such specimen or shape.
    """
    varied = varied_focal_stack(specimen, seed=seed, shape=shape)
    stack = varied.stack
    target = np.stack(
        [
            block_target(in_focus, undecided, reduction)
            for in_focus, undecided in zip(stack.in_focus, stack.undecided, strict=True)
        ]
    )
    return LabelledStack(f"{specimen}, {varied.modality}, {seed}", stack.slices, target)
