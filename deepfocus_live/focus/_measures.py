"""Focus measures: what a window's score is, from what is summed over its blocks.

A measure has two steps: `tables`, the one pass over the pixels, and `windows`,
which reads the score of every window of one stride out of them. Adding a measure
is adding a row to `MEASURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._jit import kernel
from deepfocus_live.focus._moments import block_moments

__all__ = ["MEASURES", "Measure", "measure_named", "std_windows"]

NOISE_FLOOR = 1e-14  # of a float slice's whole sum of squares; see _moments


@dataclass(frozen=True)
class Measure:
    """One focus measure.

    Attributes
    ----------
    name : str
        As written in configuration and on the command line.
    equation : str
        Per window of n pixels.
    tables : (z_slice, block_px) -> arrays
        One pass over the pixels.
    windows : (tables, block_px, shape_yx, window, stride) -> (Wy, Wx) float64
        Scores of the windows whose corner is on the stride grid; window and
        stride in blocks.
    """

    name: str
    equation: str
    tables: Callable[[NDArray[Any], int], tuple[NDArray[Any], ...]]
    windows: Callable[
        [tuple[NDArray[Any], ...], int, tuple[int, int], int, int], NDArray[np.float64]
    ]


def std_windows(
    tables: tuple[NDArray[Any], ...],
    block_px: int,
    shape_yx: tuple[int, int],
    window: int,
    stride: int,
) -> NDArray[np.float64]:
    """Return the standard deviation of every window, clipped ones included.

    Parameters
    ----------
    tables : two (By + 1, Bx + 1) arrays
        From `block_moments`.
    block_px : int
        Side of a block in pixels.
    shape_yx : (int, int)
        Of the slice, in pixels.
    window, stride : int
        In blocks.

    Returns
    -------
    (Wy, Wx) float64
        Counts, >= 0; sqrt(mean(I²) − mean(I)²) over the window's own pixels
        (divided by n, not n − 1). Window (j, i) has its top left corner at block
        (j · stride, i · stride).
    """
    blocks_y, blocks_x = tables[0].shape[0] - 1, tables[0].shape[1] - 1
    scores = np.empty((-(-blocks_y // stride), -(-blocks_x // stride)))
    read = _integer_std if tables[0].dtype == np.int64 else _float_std
    read(tables[0], tables[1], block_px, shape_yx[0], shape_yx[1], window, stride, scores)
    return scores


@kernel
def _integer_std(
    sums: NDArray[np.int64],
    squares: NDArray[np.int64],
    block_px: int,
    height: int,
    width: int,
    window: int,
    stride: int,
    scores: NDArray[np.float64],
) -> None:
    for j in range(scores.shape[0]):
        top = j * stride
        bottom = min(top + window, sums.shape[0] - 1)
        rows = min(bottom * block_px, height) - top * block_px
        for i in range(scores.shape[1]):
            left = i * stride
            right = min(left + window, sums.shape[1] - 1)
            n = rows * (min(right * block_px, width) - left * block_px)
            s1 = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            s2 = squares[bottom, right] - squares[top, right]
            s2 += squares[top, left] - squares[bottom, left]
            # Moments about the whole number below the mean: nothing cancels in floats,
            # so a flat window scores exactly zero at any brightness.
            pivot = s1 // n
            r1 = np.float64(s1 - n * pivot)
            r2 = np.float64(s2 - 2 * pivot * s1 + n * pivot * pivot)
            scores[j, i] = np.sqrt(max(0.0, (r2 - r1 * r1 / n) / n))


@kernel
def _float_std(
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    block_px: int,
    height: int,
    width: int,
    window: int,
    stride: int,
    scores: NDArray[np.float64],
) -> None:
    floor = NOISE_FLOOR * squares[-1, -1]
    for j in range(scores.shape[0]):
        top = j * stride
        bottom = min(top + window, sums.shape[0] - 1)
        rows = min(bottom * block_px, height) - top * block_px
        for i in range(scores.shape[1]):
            left = i * stride
            right = min(left + window, sums.shape[1] - 1)
            n = rows * (min(right * block_px, width) - left * block_px)
            s1 = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            s2 = squares[bottom, right] - squares[top, right]
            s2 += squares[top, left] - squares[bottom, left]
            spread = s2 - s1 * s1 / n
            scores[j, i] = np.sqrt(spread / n) if spread > floor else 0.0


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "std": Measure(
            name="std",
            equation="sqrt(sum(I²)/n − (sum(I)/n)²)",
            tables=block_moments,
            windows=std_windows,
        )
    }
)


def measure_named(name: str) -> Measure:
    """Return the measure called `name`, or raise ValueError that names what exists."""
    if name not in MEASURES:
        raise ValueError(f"unknown focus measure {name!r}: there is {', '.join(sorted(MEASURES))}")
    return MEASURES[name]
