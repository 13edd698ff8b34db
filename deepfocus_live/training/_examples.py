"""Stacks with labels: what is learnt from, and what is judged by.

A target holds one value per block of the network's resolution: 0 not in focus, 1 in focus,
`UNKNOWN` where the label does not say, which carries no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "HAND_MADE_WEIGHT",
    "LEAST_GAP_PX",
    "UNKNOWN",
    "LabelledStack",
    "SliceStack",
    "Source",
    "block_target",
]

UNKNOWN = 255
"""In targets: the label does not say."""

_LEAST_DECIDED = 0.25  # of a block, for it to have a target

HAND_MADE_WEIGHT = 4.0
"""Loss of a slice whose mask was drawn by hand, beside one that was labelled by rule."""

LEAST_GAP_PX = 32
"""Between what is learnt and what is judged in one stack, however little a label looks aside."""


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
class Source:
    """Where a labelled stack came from, so that it can be judged by again.

    Attributes
    ----------
    path : str
        What `open_stacks` opened.
    stack : str
        Which of its stacks.
    masks : str or None
        The file of hand-made masks that was given with it.
    columns : (int, int) or None
        The pixel columns that are meant; None: all.
    """

    path: str
    stack: str
    masks: str | None = None
    columns: tuple[int, int] | None = None


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
    slice_weight : (Z,) float32 or None
        Loss of each slice beside others; None: 1 everywhere.
    hand_made : (Z,) bool or None
        Which slices' targets were drawn by hand; None: none.
    source : Source or None
        None where it came from no file.
    replay : bool
        Whether it is an earlier one, learnt from beside new ones lest it be forgotten.
    """

    name: str
    slices: NDArray[np.uint8] | NDArray[np.uint16]
    target: NDArray[np.uint8]
    weight: float = 1.0
    gap_px: int = LEAST_GAP_PX
    trainable: bool = True
    slice_weight: NDArray[np.float32] | None = None
    hand_made: NDArray[np.bool_] | None = None
    source: Source | None = None
    replay: bool = False

    @property
    def reduction(self) -> int:
        """Pixels per block."""
        return int(self.slices.shape[1] // self.target.shape[1])

    @property
    def any_in_focus(self) -> bool:
        """Whether anything in it is labelled as in focus."""
        return bool((self.target == 1).any())

    @property
    def decided(self) -> bool:
        """Whether its label says anything at all."""
        return bool((self.target != UNKNOWN).any())

    @property
    def any_hand_made(self) -> bool:
        """Whether any of its slices was labelled by hand."""
        return self.hand_made is not None and bool(self.hand_made.any())

    def columns(self, start: int, stop: int) -> LabelledStack:
        """Return the stack cut to pixel columns, both multiples of `reduction`."""
        r = self.reduction
        return replace(
            self,
            slices=self.slices[:, :, start:stop],
            target=self.target[:, :, start // r : stop // r],
            source=None if self.source is None else replace(self.source, columns=(start, stop)),
        )


def block_target(
    in_focus: ArrayLike, undecided: ArrayLike | None, reduction: int
) -> NDArray[np.uint8]:
    """Return the target of one slice.

    Parameters
    ----------
    in_focus, undecided : (Y, X) bool or uint8
        Non-zero is true; without `undecided` everything is decided.
    reduction : int
        Pixels per block each way, >= 1.

    Returns
    -------
    (Y // reduction, X // reduction) uint8
        1 where at least half of what is decided of a block is in focus, `UNKNOWN` where less than
        a quarter of it is decided.
    """
    if undecided is None:
        return (_block_mean(in_focus, reduction) >= 0.5).astype(np.uint8)
    decided = np.asarray(undecided) == 0
    share = _block_mean(decided, reduction)
    inside = _block_mean((np.asarray(in_focus) != 0) & decided, reduction)
    target = (2.0 * inside >= share).astype(np.uint8)
    target[share < _LEAST_DECIDED] = UNKNOWN
    return target


def _block_mean(plane: ArrayLike, reduction: int) -> NDArray[np.float32]:
    array = np.asarray(plane)
    height, width = (side // reduction for side in array.shape)
    pixels = (array[: height * reduction, : width * reduction] != 0).astype(np.uint16)
    # Sums of whole rows first: several times as fast as a mean over two axes.
    rows = sum(pixels[row::reduction] for row in range(reduction))
    total = sum(rows[:, column::reduction] for column in range(reduction))
    mean: NDArray[np.float32] = np.asarray(total, np.float32) / np.float32(reduction**2)
    return mean
