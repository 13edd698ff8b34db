"""The sliding-window scan: window scores, overlap, and the best of several scans.

Design Notes
------------
Every window corner and every window edge lies on the grid of gcd(windows,
strides), so the whole map is constant on blocks of that size. Of one stride's
map only the cells between neighbouring edges differ, at most two a stride along
each axis: in the first one window more is there than in the second. Cells are summed
from the windows that cover them (first down, then along) and drawn as one line of
blocks per scan; a line stands until its cells end, and the best of all scans' lines
is written once a row of blocks. Terms are only added, nothing is taken away again,
so a flat field stays exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._door import TOO_BRIGHT, checked_slice
from deepfocus_live.focus._jit import kernel
from deepfocus_live.focus._measures import WindowScores, measure_named
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


class _Scan(NamedTuple):
    """One window size and stride, in blocks, and the scores of its windows."""

    window: int
    stride: int
    of_windows: NDArray[np.float64]


@dataclass(frozen=True)
class FocusScores:
    """Focus scores of one slice at block resolution.

    Attributes
    ----------
    scores : (By, Bx) float32
        In the measure's unit, higher is sharper. One value per block of `block_px` ×
        `block_px` pixels.
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

    For each window size and stride, every window whose top left corner lies on the
    stride grid is scored, those clipped by the right and bottom edge over the
    pixels they have. Where windows overlap their scores are averaged or added, and
    of several scans the best is taken. With strides of 8, 10, … 36 px and overlap "sum" it
    is the scan of the published code [casus]_. Sums over windows come from summed-area
    tables [Crow1984]_, ours over blocks, not pixels.

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
        "mean" is in the measure's unit whatever the stride. "sum" is the published code: the
        smallest stride wins nearly everywhere, and the top and left edges, covered
        by fewer windows, come out dark.
    combine : {"max"}
        How the maps of all windows and strides become one.

    Returns
    -------
    (Y, X) float32
        In the measure's unit, higher is sharper; 0 where no window lies (stride larger
        than window). Deterministic; all but entropy grow with exposure and contrast,
        so compare slices of one stack, not two stacks.

    Raises
    ------
    ValueError
        If the slice is not 2-D, is empty, of another dtype, or holds NaN, infinity or
        float32 pixels whose score is beyond float32; or if an option is unknown or out
        of range.

    References
    ----------
    .. [casus] The repository casus/deepfocus on GitHub.
    .. [Crow1984] Crow (1984), doi:10.1145/800031.808600.

    Examples
    --------
    Fine stripes on the left, nothing on the right:

    >>> import numpy as np
    >>> from deepfocus_live.focus import focus_score_map
    >>> z_slice = np.full((64, 64), 100, np.uint16)
    >>> z_slice[:, 0:32:2] = 140
    >>> scores = focus_score_map(z_slice, windows_px=(16,), strides_px=(16,))
    >>> float(scores[8, 8]), float(scores[8, 56])
    (20.0, 0.0)
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

    What `focus_score_map` enlarges to pixels: parameters and errors are the same.

    Returns
    -------
    FocusScores
        One value per block of `scan_block_px` pixels, on which the map is constant.
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
    of_windows = scored_by.prepare(pixels, block_px)
    scans = _scores_of_all_windows(
        of_windows, [side // block_px for side in windows], [side // block_px for side in strides]
    )
    scores = np.empty([-(-side // block_px) for side in shape_yx], np.float32)
    _best_overlap(
        np.concatenate([scan.of_windows.ravel() for scan in scans]),
        np.array([(scan.window, scan.stride, *scan.of_windows.shape) for scan in scans]),
        overlap == "mean",
        scores,
    )
    if max(strides) > min(windows):  # else no block can have been left out
        scores[np.isneginf(scores)] = 0
    if pixels.dtype == np.float32 and not np.isfinite(scores).all():
        raise ValueError(TOO_BRIGHT)
    return FocusScores(scores, block_px, shape_yx)


def scan_block_px(windows_px: Sequence[int], strides_px: Sequence[int]) -> int:
    """Return the side of the blocks that a scan's map is constant on, in pixels.

    It is the greatest common divisor of all windows and strides.

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


def _scores_of_all_windows(
    of_windows: WindowScores, windows: Sequence[int], strides: Sequence[int]
) -> list[_Scan]:
    """Return every scan's window scores; window and stride in blocks."""
    scans: list[_Scan] = []
    for window in sorted(set(windows)):
        of_stride: dict[int, NDArray[np.float64]] = {}
        for stride in sorted(set(strides)):
            # A multiple of a stride has some of its windows, the very same.
            finer = next((known for known in of_stride if stride % known == 0), None)
            if finer is None:
                of_stride[stride] = of_windows(window, stride)
                scans.append(_Scan(window, stride, of_stride[stride]))
            else:
                step = stride // finer
                scans.append(_Scan(window, stride, of_stride[finer][::step, ::step]))
    return scans


@kernel
def _best_overlap(
    of_windows: NDArray[np.float64],
    plans: NDArray[np.int64],
    averaged: bool,
    scores: NDArray[np.float32],
) -> None:
    """Fill `scores` (By, Bx) with the highest of all scans' maps, -inf where none covers.

    `of_windows` holds the scores of all scans one after another; a row of `plans` is
    a scan's window, stride and number of windows along y and x.
    """
    n_scans, n_blocks = len(plans), scores.shape[1]
    lines = np.empty((n_scans, n_blocks), np.float32)
    spare = np.empty((2, n_blocks), np.float32)
    cell_of_block = np.empty((n_scans, n_blocks), np.uint32)
    for s in range(n_scans):
        window, stride = plans[s, 0], plans[s, 1]
        for x in range(n_blocks):
            cell_of_block[s, x] = 2 * (x // stride) + (x % stride >= window % stride)
    drawn_to = np.zeros(n_scans, np.int64)
    for y in range(scores.shape[0]):
        start = 0
        for s in range(n_scans):
            stop = start + plans[s, 2] * plans[s, 3]
            if drawn_to[s] == y:
                here = of_windows[start:stop].reshape(plans[s, 2], plans[s, 3])
                cells, drawn_to[s] = _cell_values(here, plans[s, 0], plans[s, 1], y, averaged)
                line, cell = lines[s], cell_of_block[s]
                for x in range(n_blocks):
                    line[x] = cells[cell[x]]
            start = stop
        best = lines[0]
        for s in range(1, n_scans):
            # Into another row each time: a maximum in place is not compiled to vectors.
            line, higher = lines[s], spare[s % 2]
            for x in range(n_blocks):
                higher[x] = max(best[x], line[x])
            best = higher
        row = scores[y]
        for x in range(n_blocks):
            row[x] = best[x]


@kernel
def _cell_values(
    of_windows: NDArray[np.float64], window: int, stride: int, y: int, averaged: bool
) -> tuple[NDArray[np.float32], int]:
    """Return the two cells of each stride at block row `y`, and the first row that differs."""
    n_windows = of_windows.shape[1]
    whole, rest = window // stride, window % stride
    r = y // stride
    # Up to `rest` past each corner one window more is there: the oldest has not ended.
    early = y - r * stride < rest
    n_rows = min(r + 1, whole + 1 if early else whole)
    down = np.zeros(n_windows + whole)  # `whole` zeros stand for windows left of the first
    into = down[whole:]
    for j in range(r - n_rows + 1, r + 1):
        row = of_windows[j]
        for i in range(n_windows):
            into[i] += row[i]
    late = np.zeros(n_windows)
    for k in range(1, whole + 1):
        shifted = down[k:]
        for i in range(n_windows):
            late[i] += shifted[i]
    cells = np.full(2 * n_windows, -np.inf, np.float32)
    for i in range(n_windows):
        n_early, n_late = n_rows * min(i + 1, whole + 1), n_rows * min(i + 1, whole)
        if n_early > 0:
            total = late[i] + down[i]
            cells[2 * i] = np.float32(total / n_early if averaged else total)
        if n_late > 0:
            cells[2 * i + 1] = np.float32(late[i] / n_late if averaged else late[i])
    return cells, r * stride + (rest if early else stride)
