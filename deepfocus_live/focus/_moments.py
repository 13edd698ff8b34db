"""Sums of I and I² over blocks, as summed-area tables: the only pass over the pixels.

Design Notes
------------
*Integers stay exact.* Columns of a block row are summed first (uint32 for I,
float64 for I²: integers below 2**53, so exact for blocks up to 2**21 rows),
then along the row into int64. Table differences wrap around harmlessly, so the
result is exact as long as one window's own sum fits int64.

*Floats lose what cannot be kept.* float32 pixels are summed in float64 after a
pivot has been taken off (the median of a coarse sample), which makes a constant
slice exactly zero. The error of a window's sum of squares is then below
``NOISE_FLOOR`` of the whole slice's sum; `std_windows` sets variances below
that to zero.

Four rows at a time, because the loop is bound by loads and stores of the column
sums once the pixels themselves stream in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._jit import kernel

__all__ = ["MAX_BLOCK_PX", "block_moments"]

MAX_BLOCK_PX = 65536  # a column of this many uint16 still fits uint32


def block_moments(
    z_slice: NDArray[Any], block_px: int
) -> tuple[NDArray[np.int64] | NDArray[np.float64], NDArray[np.int64] | NDArray[np.float64]]:
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

    Raises
    ------
    ValueError
        If a float32 slice holds NaN or infinity.
    """
    blocks_y, blocks_x = (-(-side // block_px) for side in z_slice.shape)
    is_float = z_slice.dtype == np.float32
    tables = np.zeros((2, blocks_y + 1, blocks_x + 1), np.float64 if is_float else np.int64)
    if is_float:
        _float_block_sums(z_slice, block_px, _pivot(z_slice), tables[0], tables[1])
    else:
        _integer_block_sums(z_slice, block_px, tables[0], tables[1])
    _accumulate(tables[0])
    _accumulate(tables[1])
    if is_float and not np.isfinite(tables[1, -1, -1]):
        raise ValueError("the slice holds NaN or infinity: focus cannot be scored there")
    return tables[0], tables[1]


def _pivot(z_slice: NDArray[np.float32]) -> float:
    """Return a value near the slice's middle, finite where the slice is."""
    step_y, step_x = (max(1, side // 32) for side in z_slice.shape)
    sample = np.sort(z_slice[::step_y, ::step_x], axis=None)
    return float(sample[sample.size // 2])


@kernel
def _integer_block_sums(
    z_slice: NDArray[Any], block_px: int, sums: NDArray[np.int64], squares: NDArray[np.int64]
) -> None:
    height, width = z_slice.shape
    column_sum = np.zeros(width, np.uint32)
    column_square = np.zeros(width, np.float64)
    for block_y in range(sums.shape[0] - 1):
        column_sum[:] = 0
        column_square[:] = 0
        y = block_y * block_px
        bottom = min(y + block_px, height)
        while y + 4 <= bottom:
            row0, row1, row2, row3 = z_slice[y], z_slice[y + 1], z_slice[y + 2], z_slice[y + 3]
            for x in range(width):
                i0, i1 = np.int32(row0[x]), np.int32(row1[x])
                i2, i3 = np.int32(row2[x]), np.int32(row3[x])
                column_sum[x] += np.uint32(i0 + i1 + i2 + i3)
                f0, f1, f2, f3 = np.float64(i0), np.float64(i1), np.float64(i2), np.float64(i3)
                column_square[x] += f0 * f0 + f1 * f1 + f2 * f2 + f3 * f3
            y += 4
        while y < bottom:
            row = z_slice[y]
            for x in range(width):
                value = np.int32(row[x])
                column_sum[x] += np.uint32(value)
                column_square[x] += np.float64(value) * np.float64(value)
            y += 1
        for block_x in range(sums.shape[1] - 1):
            total = np.int64(0)
            total_square = np.int64(0)
            for x in range(block_x * block_px, min((block_x + 1) * block_px, width)):
                total += np.int64(column_sum[x])
                total_square += np.int64(column_square[x])
            sums[block_y + 1, block_x + 1] = total
            squares[block_y + 1, block_x + 1] = total_square


@kernel
def _float_block_sums(
    z_slice: NDArray[np.float32],
    block_px: int,
    pivot: float,
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    height, width = z_slice.shape
    column_sum = np.zeros(width, np.float64)
    column_square = np.zeros(width, np.float64)
    for block_y in range(sums.shape[0] - 1):
        column_sum[:] = 0
        column_square[:] = 0
        for y in range(block_y * block_px, min((block_y + 1) * block_px, height)):
            row = z_slice[y]
            for x in range(width):
                value = np.float64(row[x]) - pivot
                column_sum[x] += value
                column_square[x] += value * value
        for block_x in range(sums.shape[1] - 1):
            total = 0.0
            total_square = 0.0
            for x in range(block_x * block_px, min((block_x + 1) * block_px, width)):
                total += column_sum[x]
                total_square += column_square[x]
            sums[block_y + 1, block_x + 1] = total
            squares[block_y + 1, block_x + 1] = total_square


@kernel
def _accumulate(table: NDArray[Any]) -> None:
    """Turn block sums into a summed-area table, in place."""
    for j in range(1, table.shape[0]):
        along = table[j, 0]
        for i in range(1, table.shape[1]):
            along += table[j, i]
            table[j, i] = along + table[j - 1, i]
