"""The sliding-window scan: window scores, overlap, and the best of several scans.

Design Notes
------------
Every window corner and every window edge lies on the grid of gcd(windows,
strides), so the whole map is constant on blocks of that size. Of one stride's
map only the *cells* between neighbouring edges differ: cell values are summed
from the windows that cover them (first along x, then along y), and written to
the blocks once. Only non-negative terms are added, nothing is taken away again,
so a flat field stays exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._door import checked_slice
from deepfocus_live.focus._jit import kernel
from deepfocus_live.focus._measures import measure_named
from deepfocus_live.focus._moments import MAX_BLOCK_PX

__all__ = [
    "FocusScores",
    "enlarge_blocks",
    "focus_score_blocks",
    "focus_score_map",
    "scan_block_px",
]

Overlap = Literal["mean", "sum"]
Combine = Literal["max"]

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class FocusScores:
    """Focus scores of one slice at block resolution.

    Attributes
    ----------
    scores : (By, Bx) float32
        Higher is sharper. One value per block of `block_px` × `block_px` pixels.
    block_px : int
        Side of a block; blocks at the right and bottom edge may be cut.
    shape_yx : (int, int)
        Of the slice, in pixels.
    """

    scores: NDArray[np.float32]
    block_px: int
    shape_yx: tuple[int, int]

    def enlarge(self) -> NDArray[np.float32]:
        """Return the scores at full resolution, (Y, X) float32."""
        return enlarge_blocks(self.scores, self.block_px, self.shape_yx)


def enlarge_blocks(blocks: NDArray[_T], block_px: int, shape_yx: tuple[int, int]) -> NDArray[_T]:
    """Repeat each block's value over its pixels.

    Parameters
    ----------
    blocks : (By, Bx), any dtype
        One value per block.
    block_px : int
        Side of a block in pixels.
    shape_yx : (int, int)
        Of the result; the last blocks are cut to it.

    Returns
    -------
    (Y, X), dtype of `blocks`

    Raises
    ------
    ValueError
        If `blocks` is not what a slice of `shape_yx` has.
    """
    want = tuple(-(-side // block_px) for side in shape_yx)
    if blocks.shape != want:
        raise ValueError(
            f"a slice of {shape_yx} has {want} blocks of {block_px} px, not {blocks.shape}"
        )
    rows = np.repeat(blocks, block_px, axis=1)[:, : shape_yx[1]]
    return np.repeat(rows, block_px, axis=0)[: shape_yx[0]]


def focus_score_map(
    z_slice: ArrayLike,
    *,
    measure: str = "std",
    windows_px: Sequence[int] = (128,),
    strides_px: Sequence[int] = (16, 32, 64, 128),
    overlap: Overlap = "mean",
    combine: Combine = "max",
) -> NDArray[np.float32]:
    """Return the focus score of every pixel of a slice by sliding windows.

    `focus_score_blocks` enlarged to full resolution; see there.

    Returns
    -------
    (Y, X) float32
    """
    return focus_score_blocks(
        z_slice,
        measure=measure,
        windows_px=windows_px,
        strides_px=strides_px,
        overlap=overlap,
        combine=combine,
    ).enlarge()


def focus_score_blocks(
    z_slice: ArrayLike,
    *,
    measure: str = "std",
    windows_px: Sequence[int] = (128,),
    strides_px: Sequence[int] = (16, 32, 64, 128),
    overlap: Overlap = "mean",
    combine: Combine = "max",
) -> FocusScores:
    """Score a slice by sliding windows, at the resolution of the scan's own grid.

    For each window size and stride, every window whose top left corner lies on the
    stride grid is scored, those clipped by the right and bottom edge over the
    pixels they have. Where windows overlap their scores are averaged or added, and
    of several scans the best is taken.

    Parameters
    ----------
    z_slice : (Y, X) uint8, uint16 or float32
        Raw camera counts. Any byte order and memory layout.
    measure : str
        A name in `MEASURES`.
    windows_px : sequence of int
        Sides of the square windows, 2 to 65536 pixels.
    strides_px : sequence of int
        Distances between neighbouring windows, at least 1 pixel.
    overlap : {"mean", "sum"}
        "mean" is in counts whatever the stride. "sum" is the published code: the
        smallest stride wins nearly everywhere, and the top and left edges, covered
        by fewer windows, come out dark.
    combine : {"max"}
        How the maps of all windows and strides become one.

    Returns
    -------
    FocusScores
        float32 scores; 0 where no window lies (stride larger than window).
        Deterministic; grows with exposure and contrast, so compare slices of one
        stack, not two stacks.

    Raises
    ------
    ValueError
        If the slice is not 2-D, is empty, of another dtype or holds NaN, or if an
        option is unknown or out of range.

    References
    ----------
    .. [1] The scan of casus/deepfocus: strides 8, 10, … 36, window 128, "sum".
    .. [2] Crow (1984), doi:10.1145/800031.808600, summed-area tables. Ours are
       over blocks, not pixels.
    """
    scored_by = measure_named(measure)
    windows, strides = tuple(windows_px), tuple(strides_px)
    block_px = scan_block_px(windows, strides)
    if overlap not in ("mean", "sum"):
        raise ValueError(f"unknown overlap {overlap!r}: there is 'mean', 'sum'")
    if combine != "max":
        raise ValueError(f"unknown combine {combine!r}: there is 'max'")
    pixels = checked_slice(z_slice)
    shape_yx = (pixels.shape[0], pixels.shape[1])
    tables = scored_by.tables(pixels, block_px)
    scores = np.full([-(-side // block_px) for side in shape_yx], -np.inf, np.float32)
    for window_px in windows:
        for stride_px in strides:
            window, stride = window_px // block_px, stride_px // block_px
            of_windows = scored_by.windows(tables, block_px, shape_yx, window, stride)
            _raise_to_overlap(of_windows, window, stride, overlap == "mean", scores)
    if max(strides) > min(windows):  # else no block can have been left out
        scores[np.isneginf(scores)] = 0
    return FocusScores(scores, block_px, shape_yx)


def scan_block_px(windows_px: Sequence[int], strides_px: Sequence[int]) -> int:
    """Return the side of the blocks that a scan's map is constant on, in pixels.

    Raises
    ------
    ValueError
        If there is no window or stride, a window is not 2 to 65536 pixels, or a
        stride is below 1.
    """
    if not windows_px or not strides_px:
        raise ValueError("a scan needs at least one window and one stride")
    for window_px in windows_px:
        if not 2 <= window_px <= MAX_BLOCK_PX:
            raise ValueError(f"a window is 2 to {MAX_BLOCK_PX} px wide, not {window_px}")
    for stride_px in strides_px:
        if stride_px < 1:
            raise ValueError(f"a stride is at least 1 px, not {stride_px}")
    return math.gcd(*windows_px, *strides_px)


@kernel
def _cells(blocks: int, window: int, stride: int) -> NDArray[np.int64]:
    """Return (start, stop, first window, last window + 1) of every cell of one axis."""
    cells = np.empty((2 * (-(-blocks // stride)) + 1, 4), np.int64)
    count = 0
    start = 0
    while start < blocks:
        next_corner = (start // stride + 1) * stride
        # The oldest window that still covers `start` is the next one to end.
        first = max(0, (start - window) // stride + 1)
        stop = min(next_corner, blocks)
        last = start // stride + 1
        if first < last:
            stop = min(stop, first * stride + window)
        cells[count, 0] = start
        cells[count, 1] = stop
        cells[count, 2] = first
        cells[count, 3] = last
        count += 1
        start = stop
    return cells[:count]


@kernel
def _raise_to_overlap(
    of_windows: NDArray[np.float64],
    window: int,
    stride: int,
    averaged: bool,
    scores: NDArray[np.float32],
) -> None:
    """Raise `scores` (By, Bx), in place, to this scan's map where that is higher."""
    cells_y = _cells(scores.shape[0], window, stride)
    cells_x = _cells(scores.shape[1], window, stride)
    along_x = np.zeros((of_windows.shape[0], len(cells_x)))
    for j in range(of_windows.shape[0]):
        for c in range(len(cells_x)):
            for i in range(cells_x[c, 2], cells_x[c, 3]):
                along_x[j, c] += of_windows[j, i]
    total = np.zeros(len(cells_x))
    row = np.empty(scores.shape[1], np.float32)
    for r in range(len(cells_y)):
        first, last = cells_y[r, 2], cells_y[r, 3]
        total[:] = 0
        for j in range(first, last):
            for c in range(len(cells_x)):
                total[c] += along_x[j, c]
        for c in range(len(cells_x)):
            covered = (last - first) * (cells_x[c, 3] - cells_x[c, 2])
            value = np.float32(-np.inf)
            if covered > 0:
                value = np.float32(total[c] / covered if averaged else total[c])
            for x in range(cells_x[c, 0], cells_x[c, 1]):
                row[x] = value
        for y in range(cells_y[r, 0], cells_y[r, 1]):
            for x in range(scores.shape[1]):
                scores[y, x] = max(scores[y, x], row[x])
