"""The anchor set: simulated slices with true masks that no training ever sees.

A network that learns wrong labels agrees with held-out labels that are wrong in the same way. The
anchor is truth that no label made: what is lost on it was forgotten, or learnt falsely.
"""

from __future__ import annotations

import functools
import itertools
import time
import zlib

import numpy as np

from deepfocus_live.simulation import SPECIMENS
from deepfocus_live.training._evaluate import Example, held_out_slices
from deepfocus_live.training._examples import LabelledStack
from deepfocus_live.training._simulated import simulated_stack, simulated_stacks

__all__ = [
    "ANCHOR_VERSION",
    "anchor_checksum",
    "anchor_set",
    "rehearsal_stacks",
]

ANCHOR_VERSION = 1
"""Raised whenever the slices of the anchor set become others: scores before and after that do not
compare."""

_REHEARSAL_SEED = 730_001  # and those after it

_ANCHOR_SEED = 990_017_003  # drawn from nowhere else
_ANCHOR_STACKS = 12  # every specimen once, the first few twice
_ANCHOR_SHAPE = (3, 256, 256)
_ANCHOR_SLICES = 24

# Many and small: of ten large ones the network learns those ten, and forgets the others.
_REHEARSED_STACKS = 64
_LEAST_REHEARSED = len(SPECIMENS)
_REHEARSED_SHAPE = (3, 256, 256)


@functools.lru_cache(maxsize=2)
def anchor_set(reduction: int) -> tuple[Example, ...]:
    """Return the anchor's slices with true masks, the same every time.

    Takes about 3 s, once in a process.

    Parameters
    ----------
    reduction : int
        Pixels per block of the masks, each way.

    Returns
    -------
    tuple of ((Y, X) uint16, (Y // reduction, X // reduction) uint8)
        Raw counts, and 0, 1 or `UNKNOWN`.
    """
    stacks = simulated_stacks(
        _ANCHOR_STACKS, seed=_ANCHOR_SEED, shape=_ANCHOR_SHAPE, reduction=reduction
    )
    return tuple(held_out_slices(stacks, _ANCHOR_SLICES))


def anchor_checksum(reduction: int) -> str:
    """Return a checksum of the anchor's slices and masks, 8 hexadecimal digits."""
    check = 0
    for z_slice, target in anchor_set(reduction):
        check = zlib.crc32(np.ascontiguousarray(z_slice).tobytes(), check)
        check = zlib.crc32(np.ascontiguousarray(target).tobytes(), check)
    return f"{check:08x}"


def rehearsal_stacks(seed: int, reduction: int, *, deadline: float) -> list[LabelledStack]:
    """Return simulated stacks to rehearse, lest fine-tuning forgets what it does not see.

    Parameters
    ----------
    seed, reduction : int
    deadline : float
        `time.monotonic()` at which no more of them are begun; every specimen is made once at least.

    Returns
    -------
    list of LabelledStack
        Up to 64, of the specimens in turn.
    """
    made: list[LabelledStack] = []
    for number, specimen in enumerate(
        itertools.islice(itertools.cycle(SPECIMENS), _REHEARSED_STACKS)
    ):
        if number >= _LEAST_REHEARSED and time.monotonic() > deadline:
            break
        made.append(_rehearsed(specimen, seed, number, reduction))
    return made


@functools.lru_cache(maxsize=_REHEARSED_STACKS)
def _rehearsed(specimen: str, seed: int, number: int, reduction: int) -> LabelledStack:
    key = (_REHEARSAL_SEED + seed % 100_000, number)
    return simulated_stack(specimen, seed=key, shape=_REHEARSED_SHAPE, reduction=reduction)
