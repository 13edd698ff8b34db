"""Sums of I and I² over blocks, as summed-area tables: the only pass over the pixels.

Design Notes
------------
*Integers stay exact, in 32 bits.* Squares of pixels fit int32 sums of a column for a
number of rows that their range allows. Where that is too few for a block row, a pivot
in the middle of its range is taken off first, and put back once; then 512 rows of a
12-bit camera fit, 32 of a 14-bit one, one where the whole range of uint16 is used.
After that many rows the columns are added up into int64 block sums and start anew.
Eight pixels at a time instead of four in float64, and no second way of counting for
bright pixels. Differences of the tables wrap around harmlessly, so
the result is exact as long as one window's own sum fits int64.

*Floats lose what cannot be kept.* float32 pixels are summed in float64 after a
pivot has been taken off (the median of a coarse sample), which makes a constant
slice exactly zero. The error of a window's sum of squares is then below
``NOISE_FLOOR`` of the whole slice's sum; the readers in `_measures` set variances
below that to zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._jit import kernel

__all__ = ["MAX_BLOCK_PX", "Table", "accumulate", "block_moments", "block_sums", "pivot_of"]

MAX_BLOCK_PX = 65536  # a column of this many uint16 less their pivot still fits int32
MAX_INT32 = 2**31 - 1

Table = NDArray[np.int64] | NDArray[np.float64]


def block_moments(z_slice: NDArray[Any], block_px: int) -> tuple[Table, Table]:
    """Return summed-area tables of I and I² over blocks of `block_px` pixels.

    Parameters
    ----------
    z_slice : (Y, X) uint8, uint16 or float32
        From `checked_slice`.
    block_px : int
        Side of a block; blocks at the right and bottom edge may be smaller.

    Returns
    -------
    two (By + 1, Bx + 1) int64, or float64 for float32 pixels
        ``table[j, i]`` is the sum over blocks above j and left of i. For float32
        both are of the pixels less a pivot common to the slice.
    """
    blocks_y, blocks_x = (-(-side // block_px) for side in z_slice.shape)
    if z_slice.dtype == np.float32:
        floats = np.zeros((2, blocks_y + 1, blocks_x + 1))
        _float_block_sums(z_slice, block_px, pivot_of(z_slice), floats[0], floats[1])
        accumulate(floats[0])
        accumulate(floats[1])
        return floats[0], floats[1]
    if z_slice.dtype == np.uint8:  # one kernel less to compile
        z_slice = z_slice.astype(np.uint16)
        z_slice.flags.writeable = False
    integers = np.empty((2, blocks_y + 1, blocks_x + 1), np.int64)
    _integer_tables(z_slice, block_px, integers[0], integers[1])
    return integers[0], integers[1]


def pivot_of(z_slice: NDArray[Any]) -> float:
    """Return a value near the slice's middle."""
    step_y, step_x = (max(1, side // 32) for side in z_slice.shape)
    sample = np.sort(z_slice[::step_y, ::step_x], axis=None)
    return float(sample[sample.size // 2])


@kernel
def block_sums(columns: NDArray[Any], block_px: int, blocks: NDArray[Any]) -> None:
    """Add each block's columns to `blocks`; `columns` is contiguous and fills whole blocks."""
    if block_px == 2:  # a loop of two costs twice what its sum does
        pairs = columns.reshape(len(blocks), 2)
        for i in range(len(blocks)):
            blocks[i] += pairs[i, 0] + pairs[i, 1]
        return
    of_block = columns.reshape(len(blocks), block_px)
    for i in range(len(blocks)):
        total = blocks[i]
        for k in range(block_px):
            total += of_block[i, k]
        blocks[i] = total


@kernel
def _integer_tables(
    z_slice: NDArray[np.uint16], block_px: int, sums: NDArray[np.int64], squares: NDArray[np.int64]
) -> None:
    height, width = z_slice.shape
    n_blocks = sums.shape[1] - 1
    column_sum = np.zeros(n_blocks * block_px, np.int32)
    column_square = np.zeros(n_blocks * block_px, np.int32)
    block_sum = np.empty(n_blocks, np.int64)
    block_square = np.empty(n_blocks, np.int64)
    last_width = width - (n_blocks - 1) * block_px
    sums[0, :] = 0
    squares[0, :] = 0
    for j in range(sums.shape[0] - 1):
        top = j * block_px
        bottom = min(top + block_px, height)
        low, high = z_slice[top, 0], z_slice[top, 0]
        for y in range(top, bottom):
            row = z_slice[y]
            for x in range(width):
                low = min(low, row[x])
                high = max(high, row[x])
        farthest, pivot = np.int64(high), np.int32(0)
        if farthest * farthest * (bottom - top) > MAX_INT32:
            farthest = (np.int64(high) - np.int64(low) + 1) // 2
            pivot = np.int32(np.int64(low) + farthest)
        rows_that_fit = MAX_INT32 // (farthest * farthest + (farthest == 0))
        block_sum[:] = 0
        block_square[:] = 0
        y = top
        while y < bottom:
            stop = min(y + rows_that_fit, bottom)
            for x in range(width):
                column_sum[x] = 0
                column_square[x] = 0
            while y + 2 <= stop:
                row0, row1 = z_slice[y], z_slice[y + 1]
                # Each step is cut back to int32: numba widens to int64, half as fast.
                for x in range(width):
                    d0 = np.int32(np.int32(row0[x]) - pivot)
                    d1 = np.int32(np.int32(row1[x]) - pivot)
                    column_sum[x] += np.int32(d0 + d1)
                    column_square[x] += np.int32(np.int32(d0 * d0) + np.int32(d1 * d1))
                y += 2
            if y < stop:
                row0 = z_slice[y]
                for x in range(width):
                    d0 = np.int32(np.int32(row0[x]) - pivot)
                    column_sum[x] += d0
                    column_square[x] += np.int32(d0 * d0)
                y += 1
            block_sums(column_sum, block_px, block_sum)
            block_sums(column_square, block_px, block_square)
        if pivot != 0:
            p = np.int64(pivot)
            n = (bottom - top) * block_px
            for i in range(n_blocks):
                if i == n_blocks - 1:
                    n = (bottom - top) * last_width
                block_square[i] += p * (2 * block_sum[i] + n * p)
                block_sum[i] += n * p
        along, along_square = np.int64(0), np.int64(0)
        sums[j + 1, 0] = 0
        squares[j + 1, 0] = 0
        above, into = sums[j, 1:], sums[j + 1, 1:]
        above_square, into_square = squares[j, 1:], squares[j + 1, 1:]
        for i in range(n_blocks):
            along += block_sum[i]
            along_square += block_square[i]
            into[i] = along + above[i]
            into_square[i] = along_square + above_square[i]


@kernel
def _float_block_sums(
    z_slice: NDArray[np.float32],
    block_px: int,
    pivot: float,
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    height, width = z_slice.shape
    column_sum = np.empty((sums.shape[1] - 1) * block_px, np.float64)
    column_square = np.empty(len(column_sum), np.float64)
    for j in range(sums.shape[0] - 1):
        column_sum[:] = 0
        column_square[:] = 0
        for y in range(j * block_px, min((j + 1) * block_px, height)):
            row = z_slice[y]
            for x in range(width):
                value = np.float64(row[x]) - pivot
                column_sum[x] += value
                column_square[x] += value * value
        block_sums(column_sum, block_px, sums[j + 1, 1:])
        block_sums(column_square, block_px, squares[j + 1, 1:])


@kernel
def accumulate(table: NDArray[Any]) -> None:
    """Turn block sums into a summed-area table, in place."""
    for j in range(1, table.shape[0]):
        along = table[j, 0]
        for i in range(1, table.shape[1]):
            along += table[j, i]
            table[j, i] = along + table[j - 1, i]
