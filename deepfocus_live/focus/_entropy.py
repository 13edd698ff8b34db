"""Entropy of a window's grey levels, by a histogram that slides.

Design Notes
------------
*Grey levels* are fixed for integer cameras, so that slices of one stack can be
compared: scaling each slice to its own range would spread the noise of a dark one
over all levels. uint8 has its 256. uint16 has 1024 of equal noise instead of equal
width: level = floor(4 · sqrt(I)), so a level is about half a standard deviation of
shot noise wide at one count per electron, and cameras of any depth fill theirs (256
levels at 12 bits). float32 has no counts: 256 equal levels between the slice's own
least and greatest value, so only slices of one range compare.

*Strips.* The edges of all windows along x cut the slice into strips, each with a
histogram over the rows of the windows at hand. Moving down one stride counts the
rows that enter and uncounts those that leave; moving right adds and takes away
whole strips. Each pixel is looked at twice a stride whatever the window, and memory
is 4 bytes a strip and level in use: 0.2 MB at a stride of 16 px, 5 MB at 2 px where
uint16 is full to the brim, beside 2 bytes a pixel for the levels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._jit import kernel

__all__ = ["entropy_windows", "grey_levels"]

FLOAT_LEVELS = 256
COUNTS_IN_TABLE = 128 * 128  # larger counts take their logarithm one by one


def entropy_windows(
    z_slice: NDArray[Any], block_px: int
) -> Callable[[int, int], NDArray[np.float64]]:
    """Return what scores all windows of one size and stride, both in blocks.

    Parameters
    ----------
    z_slice : (Y, X) uint8, uint16 or float32
        From `checked_slice`.
    block_px : int
        Side of a block in pixels.

    Returns
    -------
    (window, stride) -> (Wy, Wx) float64
        Bits, 0 to log2 of the number of levels.
    """
    levels, n_levels = grey_levels(z_slice)
    return partial(_windows, levels, n_levels, block_px)


def grey_levels(z_slice: NDArray[Any]) -> tuple[NDArray[np.uint16], int]:
    """Return each pixel's grey level less the slice's lowest, and how many are spanned."""
    low, high = z_slice.min(), z_slice.max()
    if z_slice.dtype == np.uint16:
        levels = np.empty(z_slice.shape, np.uint16)
        first = int(4 * np.sqrt(float(low)))
        _square_root_levels(z_slice, first, levels)
        return levels, int(4 * np.sqrt(float(high))) - first + 1
    if z_slice.dtype == np.uint8:
        return (z_slice - low).astype(np.uint16), int(high) - int(low) + 1
    if low == high:
        return np.zeros(z_slice.shape, np.uint16), 1
    per_level = (float(high) - float(low)) / FLOAT_LEVELS
    levels = np.empty(z_slice.shape, np.uint16)
    for row, into in zip(z_slice, levels, strict=True):
        scaled = (row.astype(np.float64) - float(low)) / per_level
        into[:] = np.minimum(scaled, FLOAT_LEVELS - 1)
    return levels, FLOAT_LEVELS


@cache
def _count_times_log() -> NDArray[np.float64]:
    """Return c · log2(c) for c = 0, 1, … ; 0 at 0."""
    counts = np.arange(COUNTS_IN_TABLE + 1, dtype=np.float64)
    return counts * np.log2(np.maximum(counts, 1))


def _windows(
    levels: NDArray[np.uint16], n_levels: int, block_px: int, window: int, stride: int
) -> NDArray[np.float64]:
    height, width = levels.shape
    window_px, stride_px = window * block_px, stride * block_px
    corners = np.arange(0, width, stride_px)
    ends = np.minimum(corners + window_px, width)
    edges = np.unique(np.concatenate([corners, ends, [width]]))
    scores = np.empty((-(-height // stride_px), len(corners)))
    _slide(
        levels,
        -(-n_levels // 4) * 4,
        window_px,
        stride_px,
        edges,
        np.searchsorted(edges, corners),
        np.searchsorted(edges, ends),
        _count_times_log(),
        scores,
    )
    return scores


@kernel
def _square_root_levels(
    z_slice: NDArray[np.uint16], first: int, levels: NDArray[np.uint16]
) -> None:
    below = np.float32(first)
    for y in range(z_slice.shape[0]):
        row, into = z_slice[y], levels[y]
        for x in range(z_slice.shape[1]):
            # Exact: a float32 root of 16 · I < 2**20 never rounds up to the next whole.
            root = np.float32(4) * np.sqrt(np.float32(row[x]))
            into[x] = np.uint16(np.int32(root - below))


@kernel
def _slide(
    levels: NDArray[np.uint16],
    n_levels: int,
    window_px: int,
    stride_px: int,
    edges: NDArray[np.int64],
    first_strip: NDArray[np.int64],
    end_strip: NDArray[np.int64],
    count_times_log: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> None:
    height = levels.shape[0]
    n_strips = len(edges) - 1
    strips = np.zeros((n_strips, n_levels), np.uint32)
    current = np.empty(n_levels, np.uint32)
    counted_from, counted_to = 0, 0
    for j in range(scores.shape[0]):
        top = j * stride_px
        bottom = min(top + window_px, height)
        if top >= counted_to:
            strips[:, :] = 0
            counted_to = top
        else:
            for y in range(counted_from, top):
                _count(levels[y], edges, strips, np.uint32(0xFFFFFFFF))
        for y in range(counted_to, bottom):
            _count(levels[y], edges, strips, np.uint32(1))
        counted_from, counted_to = top, bottom
        have_from, have_to = 0, 0
        current[:] = 0
        for i in range(scores.shape[1]):
            for c in range(max(have_to, first_strip[i]), end_strip[i]):
                entering = strips[c]
                for k in range(n_levels):
                    current[k] += entering[k]
            for c in range(have_from, min(have_to, first_strip[i])):
                leaving = strips[c]
                for k in range(n_levels):
                    current[k] -= leaving[k]
            have_from, have_to = first_strip[i], end_strip[i]
            n = (bottom - top) * (edges[have_to] - edges[have_from])
            total = _sum_of_logs(current, count_times_log)
            whole = _one_log(np.uint32(n), count_times_log)
            scores[j, i] = max(0.0, (whole - total) / n)


@kernel
def _count(
    row: NDArray[np.uint16], edges: NDArray[np.int64], strips: NDArray[np.uint32], step: np.uint32
) -> None:
    for c in range(len(edges) - 1):
        strip = strips[c]
        for level in row[edges[c] : edges[c + 1]]:
            strip[level] += step


@kernel
def _one_log(count: np.uint32, count_times_log: NDArray[np.float64]) -> float:
    if count < len(count_times_log):
        return float(count_times_log[count])
    return float(count * np.log2(np.float64(count)))


@kernel
def _sum_of_logs(counts: NDArray[np.uint32], count_times_log: NDArray[np.float64]) -> float:
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for k in range(len(counts) // 4):  # four sums, for one would wait for itself
        a += _one_log(counts[4 * k], count_times_log)
        b += _one_log(counts[4 * k + 1], count_times_log)
        c += _one_log(counts[4 * k + 2], count_times_log)
        d += _one_log(counts[4 * k + 3], count_times_log)
    return (a + b) + (c + d)
