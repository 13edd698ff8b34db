"""Sums over blocks of what neighbouring pixels make of each pixel: the derivative terms.

Design Notes
------------
*One kernel for every dtype and every term.* A row is widened to float64 once, into
a ring of as many rows as the term needs, and from there on all pixels are alike:
compiling takes seconds, and 7 terms × 3 dtypes would take them 21 times.

*Integers stay exact.* Every term but the Laplacian of Gaussian is a whole number
below 2**39 for uint16 pixels, and so is its sum over a block up to 2**53; blocks
are added up in int64. Sums that are not whole are put on a fixed point of 62 bits
first, so that their tables, too, can be subtracted without a trace: a flat window
beside a bright texture scores exactly zero.

*Borders.* A term is computed where all the neighbours it needs exist. A pixel
nearer to the border takes the term of the nearest pixel that has them. No pixel is
made up, so a ramp has the same gradient everywhere and the border of a noise field
scores like its middle; extending the slice would change the variance of the
differences there. A slice smaller than the neighbourhood is first extended to its
size by repeating its border.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._door import TOO_BRIGHT
from deepfocus_live.focus._jit import kernel
from deepfocus_live.focus._moments import Table, accumulate, block_sums, pivot_of

__all__ = ["LOG_GAUSS", "LOG_SECOND", "Term", "mean_table", "moment_tables"]

FIXED_POINT_BITS = 62


class Term(IntEnum):
    """What is computed for each pixel."""

    LAPLACIAN = 0
    TENENGRAD = 1
    SMD = 2
    SMD2 = 3
    BRENNER = 4
    VOLLATH = 5
    LAPLACIAN_OF_GAUSSIAN = 6


@dataclass(frozen=True)
class _Reach:
    """How many neighbours a term needs on each side."""

    above: int
    below: int
    left: int
    right: int


_REACH = {
    Term.LAPLACIAN: _Reach(1, 1, 1, 1),
    Term.TENENGRAD: _Reach(1, 1, 1, 1),
    Term.SMD: _Reach(1, 0, 1, 0),
    Term.SMD2: _Reach(1, 0, 1, 0),
    Term.BRENNER: _Reach(0, 0, 0, 2),
    Term.VOLLATH: _Reach(0, 0, 0, 2),
    Term.LAPLACIAN_OF_GAUSSIAN: _Reach(3, 3, 3, 3),
}


def _log_taps() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a Gaussian of sigma 1 px, and its second derivative, at 0 to 3 px.

    Cut there, they are set to sums of 1 and 0. The second is applied to differences
    from the centre, so that a flat part answers with exactly zero.
    """
    k = np.arange(4)
    gauss = np.exp(-(k**2) / 2)
    gauss /= gauss[0] + 2 * gauss[1:].sum()
    second = (k**2 - 1) * gauss
    second[0] = -2 * second[1:].sum()
    return gauss.astype(np.float32), second.astype(np.float32)


LOG_GAUSS, LOG_SECOND = _log_taps()


def mean_table(z_slice: NDArray[Any], block_px: int, term: Term) -> tuple[NDArray[np.int64], float]:
    """Return a summed-area table over blocks of one term, and what a 1 in it is worth.

    Parameters
    ----------
    z_slice : (Y, X) uint8, uint16 or float32
        From `checked_slice`.
    block_px : int
        Side of a block; blocks at the right and bottom edge may be smaller.
    term : Term
        What to sum.

    Returns
    -------
    (By + 1, Bx + 1) int64, float
        Exact for integer pixels but for the Laplacian of Gaussian; else each block's
        sum is rounded to 2**-62 of the sum over the slice.

    Raises
    ------
    ValueError
        If a difference of float32 pixels is beyond float32.
    """
    if z_slice.dtype != np.float32 and term is not Term.LAPLACIAN_OF_GAUSSIAN:
        exact = _sums(z_slice, block_px, term, 1, np.int64)[0]
        accumulate(exact)
        return exact, 1.0
    sums = _sums(z_slice, block_px, term, 1, np.float64)[0]
    total = float(np.abs(sums).sum())
    if not np.isfinite(total):  # the slice was finite, a difference of its pixels is not
        raise ValueError(TOO_BRIGHT)
    if total == 0:
        return np.zeros(sums.shape, np.int64), 1.0
    bits = FIXED_POINT_BITS - int(np.frexp(total)[1])
    table = np.rint(np.ldexp(sums, bits, out=sums), out=sums).astype(np.int64)
    accumulate(table)
    return table, float(np.ldexp(1.0, -bits))


def moment_tables(z_slice: NDArray[Any], block_px: int, term: Term) -> tuple[Table, Table]:
    """Return summed-area tables over blocks of one term and of its square.

    Both int64 and exact for integer pixels, float64 for float32 pixels; otherwise as
    `mean_table`.

    Raises
    ------
    ValueError
        If a difference of float32 pixels is beyond float32.
    """
    dtype = np.float64 if z_slice.dtype == np.float32 else np.int64
    tables = _sums(z_slice, block_px, term, 2, dtype)
    accumulate(tables[0])
    accumulate(tables[1])
    if not np.isfinite(tables[1, -1, -1]):
        raise ValueError(TOO_BRIGHT)
    return tables[0], tables[1]


def _sums(
    z_slice: NDArray[Any], block_px: int, term: Term, powers: int, dtype: type
) -> NDArray[Any]:
    """Return the block sums, at [power, 1:, 1:]; zeros before."""
    height, width = z_slice.shape
    blocks_y, blocks_x = -(-height // block_px), -(-width // block_px)
    sums = np.zeros((powers, blocks_y + 1, blocks_x + 1), dtype)
    is_whole = dtype == np.int64
    reach = _REACH[term]
    pixels = _at_least(z_slice, reach.above + 1 + reach.below, reach.left + 1 + reach.right)
    bytes_, words, floats = _as_every_dtype(pixels)
    _term_sums(
        bytes_,
        words,
        floats,
        np.float32(pivot_of(z_slice) if term is Term.LAPLACIAN_OF_GAUSSIAN else 0),
        (height, width),
        block_px,
        int(term),
        (reach.above, reach.below, reach.left, reach.right),
        LOG_GAUSS,
        LOG_SECOND,
        powers == 2,
        sums if is_whole else np.zeros((powers, 0, 0), np.int64),
        np.zeros((powers, 0, 0)) if is_whole else sums,
    )
    return sums


def _at_least(z_slice: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Return the slice, its border repeated on all sides where it is smaller than asked."""
    missing = [
        max(0, want - have) for want, have in zip((rows, columns), z_slice.shape, strict=True)
    ]
    if not any(missing):
        return z_slice
    padded = np.pad(z_slice, [(n // 2, n - n // 2) for n in missing], mode="edge")
    padded.flags.writeable = False
    return padded


def _as_every_dtype(pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the pixels as uint8, uint16 and float32: one of them, the others empty.

    All slices then have one signature, and their kernel is compiled once.
    """
    views = []
    for dtype in (np.uint8, np.uint16, np.float32):
        if pixels.dtype == dtype:
            views.append(pixels)
        else:
            empty = np.empty((0, 0), dtype)
            empty.flags.writeable = False
            views.append(empty)
    return views


@kernel
def _term_sums(
    bytes_: NDArray[np.uint8],
    words: NDArray[np.uint16],
    floats: NDArray[np.float32],
    pivot: np.float32,
    shape_yx: tuple[int, int],
    block_px: int,
    term: int,
    reach: tuple[int, int, int, int],
    gauss: NDArray[np.float32],
    second: NDArray[np.float32],
    squared: bool,
    whole_sums: NDArray[np.int64],
    float_sums: NDArray[np.float64],
) -> None:
    above, below, left, right = reach
    rows = max(len(bytes_), len(words), len(floats))
    width = max(bytes_.shape[1], words.shape[1], floats.shape[1])
    blocks_y, blocks_x = -(-shape_yx[0] // block_px), -(-shape_yx[1] // block_px)
    ring = np.empty((above + 1 + below, width), np.float32)
    smooth, curved = np.empty(width, np.float32), np.empty(width, np.float32)
    answer = np.empty(width, np.float32)
    of_row = np.zeros(width)
    column = np.empty(max(width, blocks_x * block_px))
    column_square = np.empty(len(column))
    loaded = 0
    for j in range(blocks_y):
        for x in range(len(column)):
            column[x] = 0
            column_square[x] = 0
        for y in range(j * block_px, min((j + 1) * block_px, shape_yx[0])):
            centre = min(max(y, above), rows - 1 - below)
            while loaded <= centre + below:
                into = ring[loaded % len(ring)]
                if len(words):
                    _widen(words[loaded], pivot, into)
                elif len(bytes_):
                    _widen(bytes_[loaded], pivot, into)
                else:
                    _widen(floats[loaded], pivot, into)
                loaded += 1
            if term == 6:
                _log_down(ring, centre, gauss, second, smooth, curved)
                _log_along(smooth, curved, gauss, second, answer, of_row)
            else:
                up, here = ring[(centre - above) % len(ring)], ring[centre % len(ring)]
                _near_terms(up, here, ring[(centre + below) % len(ring)], term, of_row)
            for x in range(width):
                column[x] += of_row[x]
            if squared:
                for x in range(width):
                    column_square[x] += of_row[x] * of_row[x]
        _store(column, left, right, width, shape_yx[1], block_px, whole_sums[0], float_sums[0], j)
        if squared:
            sums = whole_sums[1], float_sums[1]
            _store(column_square, left, right, width, shape_yx[1], block_px, sums[0], sums[1], j)


@kernel
def _store(
    column: NDArray[np.float64],
    left: int,
    right: int,
    width: int,
    of_slice: int,
    block_px: int,
    whole_sums: NDArray[np.int64],
    float_sums: NDArray[np.float64],
    j: int,
) -> None:
    """Put the sums of block row `j` into whichever table is there."""
    for x in range(left):
        column[x] = column[left]
    for x in range(right):
        column[width - right + x] = column[width - right - 1]
    for x in range(of_slice, len(column)):
        column[x] = 0
    blocks_x = -(-of_slice // block_px)
    of_block = np.zeros(blocks_x)
    block_sums(column[: blocks_x * block_px], block_px, of_block)
    if len(whole_sums):
        for i in range(blocks_x):
            whole_sums[j + 1, i + 1] = np.int64(of_block[i])
    else:
        for i in range(blocks_x):
            float_sums[j + 1, i + 1] = of_block[i]


@kernel
def _widen(row: NDArray[Any], pivot: np.float32, into: NDArray[np.float32]) -> None:
    for x in range(len(row)):
        into[x] = np.float32(row[x]) - pivot


@kernel
def _near_terms(
    above: NDArray[np.float32],
    here: NDArray[np.float32],
    below: NDArray[np.float32],
    term: int,
    of_row: NDArray[np.float64],
) -> None:
    n = len(here)
    if term == 0:
        for x in range(n - 2):
            at = here[x + 1]
            upright = (above[x + 1] - at) + (below[x + 1] - at)
            of_row[x + 1] = upright + ((here[x] - at) + (here[x + 2] - at))
    elif term == 1:
        for x in range(n - 2):
            falling, rising = below[x + 2] - above[x], above[x + 2] - below[x]
            along, down = here[x + 2] - here[x], below[x + 1] - above[x + 1]
            gx = np.float64(falling + rising + (along + along))
            gy = np.float64(falling - rising + (down + down))
            of_row[x + 1] = gx * gx + gy * gy
    elif term == 2:
        for x in range(n - 1):
            at = here[x + 1]
            of_row[x + 1] = abs(at - here[x]) + abs(at - above[x + 1])
    elif term == 3:
        for x in range(n - 1):
            at = here[x + 1]
            of_row[x + 1] = np.float64(abs(at - here[x])) * np.float64(abs(at - above[x + 1]))
    elif term == 4:
        for x in range(n - 2):
            d2 = np.float64(here[x + 2] - here[x])
            of_row[x] = d2 * d2
    else:
        for x in range(n - 2):
            d1, d2 = np.float64(here[x + 1] - here[x]), np.float64(here[x + 2] - here[x])
            of_row[x] = d2 * d2 - d1 * d1


@kernel
def _log_down(
    ring: NDArray[np.float32],
    centre: int,
    gauss: NDArray[np.float32],
    second: NDArray[np.float32],
    smooth: NDArray[np.float32],
    curved: NDArray[np.float32],
) -> None:
    """Put the columns, smoothed and bent, into `smooth` and `curved`."""
    here, above, below = ring[centre % 7], ring[(centre - 1) % 7], ring[(centre + 1) % 7]
    middle, weight, bend = gauss[0], gauss[1], second[1]
    for x in range(len(here)):
        pair = above[x] + below[x]
        smooth[x] = middle * here[x] + weight * pair
        curved[x] = bend * (pair - (here[x] + here[x]))
    # One pair of rows at a time: with all of them in one loop, too many arrays could
    # overlap for the compiler to use vectors.
    for k in range(2, 4):
        above, below = ring[(centre - k) % 7], ring[(centre + k) % 7]
        weight, bend = gauss[k], second[k]
        for x in range(len(here)):
            pair = above[x] + below[x]
            smooth[x] += weight * pair
            curved[x] += bend * (pair - (here[x] + here[x]))


@kernel
def _log_along(
    smooth: NDArray[np.float32],
    curved: NDArray[np.float32],
    gauss: NDArray[np.float32],
    second: NDArray[np.float32],
    answer: NDArray[np.float32],
    of_row: NDArray[np.float64],
) -> None:
    """Bend the smooth row, smooth the curved one, and square their sum."""
    g0, g1, g2, g3 = gauss[0], gauss[1], gauss[2], gauss[3]
    s1, s2, s3 = second[1], second[2], second[3]
    for x in range(len(smooth) - 6):
        twice = smooth[x + 3] + smooth[x + 3]
        bent = s1 * (smooth[x + 2] + smooth[x + 4] - twice)
        bent += s2 * (smooth[x + 1] + smooth[x + 5] - twice)
        bent += s3 * (smooth[x] + smooth[x + 6] - twice)
        bent += g0 * curved[x + 3] + g1 * (curved[x + 2] + curved[x + 4])
        bent += g2 * (curved[x + 1] + curved[x + 5]) + g3 * (curved[x] + curved[x + 6])
        answer[x] = bent
    for x in range(len(smooth) - 6):
        of_row[x + 3] = np.float64(answer[x]) * np.float64(answer[x])
