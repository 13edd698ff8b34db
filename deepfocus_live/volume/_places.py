"""Where the slices of a run lie, kept small: a run may have millions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import Placement

__all__ = ["SlicePlaces"]

_PAGE = 1024
_BLOCK = 6  # bits: 64 time points x 64 z are one set of bits
_SLICE = np.dtype([("place", np.int64, 4), ("crc32", np.uint32), ("state", np.uint8)])
_FREE, _CLAIMED, _DURABLE = 0, 1, 2


class SlicePlaces(Mapping[int, Placement]):
    """The places of the durable slices, by sequence number; and which places are taken.

    About 40 bytes a slice, whatever the order in which they come: pages of slices by number, and
    taken places as bits. Who changes it from several threads holds a lock; reading needs none.
    """

    def __init__(self) -> None:
        self._pages: dict[int, NDArray[np.void]] = {}
        self._taken: dict[tuple[int, int, int, int], int] = {}
        self._durable = 0

    def claim(self, number: int, place: Placement) -> None:
        """Note where a slice goes that is not durable yet."""
        self._enter(number, place, 0, _CLAIMED)

    def remember(self, number: int, place: Placement, crc32: str) -> None:
        """Note that a slice is durable; `crc32` in hexadecimal digits."""
        self._durable += self._state(number) != _DURABLE
        self._enter(number, place, int(crc32, 16), _DURABLE)

    def claimed(self, number: int) -> Placement | None:
        """Return where a slice goes, durable or not; None where it has no place yet."""
        return None if self._state(number) == _FREE else self._place(number)

    def crc32(self, number: int) -> str | None:
        """Return the checksum of a durable slice, eight hexadecimal digits; None of any other."""
        if self._state(number) != _DURABLE:
            return None
        return f"{int(self._row(number)['crc32']):08x}"

    def is_taken(self, place: Placement) -> bool:
        """Return whether some slice has this place."""
        block, bit = _bit(place)
        return bool(self._taken.get(block, 0) & bit)

    def __getitem__(self, number: int) -> Placement:
        if self._state(number) != _DURABLE:
            raise KeyError(number)
        return self._place(number)

    def __iter__(self) -> Iterator[int]:
        for page in sorted(self._pages):
            for offset in np.flatnonzero(self._pages[page]["state"] == _DURABLE):
                yield page * _PAGE + int(offset)

    def __len__(self) -> int:
        return self._durable

    def _enter(self, number: int, place: Placement, crc32: int, state: int) -> None:
        page, offset = divmod(number, _PAGE)
        if page not in self._pages:
            self._pages[page] = np.zeros(_PAGE, _SLICE)
        self._pages[page][offset] = (place, crc32, state)
        block, bit = _bit(place)
        self._taken[block] = self._taken.get(block, 0) | bit

    def _row(self, number: int) -> np.void:
        page, offset = divmod(number, _PAGE)
        row: np.void = self._pages[page][offset]
        return row

    def _state(self, number: int) -> int:
        return int(self._row(number)["state"]) if number // _PAGE in self._pages else _FREE

    def _place(self, number: int) -> Placement:
        return Placement(*self._row(number)["place"].tolist())


def _bit(place: Placement) -> tuple[tuple[int, int, int, int], int]:
    """Return the block that a place lies in, and its bit there."""
    image, t, c, z = place
    low = (1 << _BLOCK) - 1
    return (image, c, t >> _BLOCK, z >> _BLOCK), 1 << ((t & low) << _BLOCK | (z & low))
