"""What is made once per shape of a slice, and kept for the last few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["ByShape"]

T = TypeVar("T")

_MOST = 3  # a full frame, a region of interest, a tile


class ByShape(Generic[T]):
    """A few things by the shape (Y, X) that they were made for; the longest unused goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def at(self, shape: tuple[int, ...], make: Callable[[tuple[int, ...]], T]) -> T:
        """Return what is kept for `shape`, made if there is none."""
        if shape not in self._kept:
            while len(self._kept) >= _MOST:
                # Before another is made: there may be no memory for one more.
                self._kept.popitem(last=False)
            self._kept[shape] = make(shape)
        self._kept.move_to_end(shape)
        return self._kept[shape]

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()
