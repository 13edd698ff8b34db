"""Focus measures: what a window's score is, and how it is read from one pass over the pixels.

A measure's `prepare` makes the one pass and returns what scores every window of one
size and stride. Adding a measure is adding a row to `MEASURES`.

Design Notes
------------
In the equations a mean is over the n pixels of the window, fewer where the slice's
right or bottom edge clips it. Differences use the slice's own neighbours, across
the window's edge too; a pixel at the border of the slice that lacks neighbours takes
the value of the nearest pixel that has them (see `_derivatives`). So every score is
0 on a flat field, at any brightness and, for integer pixels, exactly so in a flat
part beside a bright one.

*Numbers.* For integer pixels all sums are exact integers, and scores are off by a few
2**-53 of themselves before they are rounded to float32. Two exceptions: the Laplacian of
Gaussian filters in float32, about 1e-7 of the pixel's distance from the slice's
median; entropy is a sum of logarithms, good to 1e-14 bits. float32 pixels are
differenced in float32, summed in float64; std, variance and laplacian are 0 below
1e-14 of the sum of squares over the slice.

All scores but entropy grow with gain, squared where the unit is: compare slices of
one stack, not two stacks.

*Sources.* Most are among the 36 that [Pertuz2013]_ compares; the tags in capitals (GLVA,
LAPV, …) are from there. std and variance: [Groen1985]_; laplacian: [PechPacheco2000]_;
tenengrad: [Tenenbaum1970]_, [Krotkov1988]_; smd: [Jarvis1976]_; brenner: [Brenner1976]_;
vollath: [Vollath1987]_; entropy: [Firestone1991]_; laplacian_of_gaussian:
[MarrHildreth1980]_.

References
----------
.. [Pertuz2013] Pertuz, Puig and Garcia (2013), doi:10.1016/j.patcog.2012.11.011.
.. [Groen1985] Groen, Young and Ligthart (1985), doi:10.1002/cyto.990060202.
.. [Tenenbaum1970] Tenenbaum (1970), Accommodation in computer vision, Stanford.
.. [Krotkov1988] Krotkov (1988), doi:10.1007/BF00127822.
.. [PechPacheco2000] Pech-Pacheco et al. (2000), doi:10.1109/ICPR.2000.903548.
.. [Jarvis1976] Jarvis (1976), Focus optimisation criteria for computer image processing,
   Microscope 24, 163-180.
.. [Brenner1976] Brenner et al. (1976), doi:10.1177/24.1.1254907.
.. [Vollath1987] Vollath (1987), doi:10.1111/j.1365-2818.1987.tb02839.x.
.. [Firestone1991] Firestone et al. (1991), doi:10.1002/cyto.990120302.
.. [MarrHildreth1980] Marr and Hildreth (1980), doi:10.1098/rspb.1980.0020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._derivatives import Term, mean_table, moment_tables
from deepfocus_live.focus._entropy import entropy_windows
from deepfocus_live.focus._jit import kernel
from deepfocus_live.focus._moments import Table, block_moments

__all__ = ["MEASURES", "Measure", "WindowScores", "measure_named"]

NOISE_FLOOR = 1e-14  # of a float slice's whole sum of squares; see _moments

WindowScores: TypeAlias = Callable[[int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class Measure:
    """One focus measure.

    Attributes
    ----------
    name : str
        As written in configuration and on the command line.
    equation : str
        Of a window; I is a pixel, x to the right, y down.
    unit : str
        Of the score, for pixels in counts.
    source : str
        Where it comes from, and where ours departs.
    prepare : (z_slice, block_px) -> ((window, stride) -> (Wy, Wx) float64)
        One pass over the pixels of a slice from `checked_slice`. What it returns
        scores the windows whose corner is on the stride grid, clipped ones
        included; window and stride in blocks of `block_px` pixels.
    """

    name: str
    equation: str
    unit: str
    source: str
    prepare: Callable[[NDArray[Any], int], WindowScores]


def _of_counts(z_slice: NDArray[Any], block_px: int, *, root: bool) -> WindowScores:
    """Prepare the spread of the pixels themselves."""
    tables = block_moments(z_slice, block_px)
    return partial(_spread, tables, (z_slice.shape[0], z_slice.shape[1]), block_px, root)


def _of_laplacian(z_slice: NDArray[Any], block_px: int) -> WindowScores:
    """Prepare the variance of the Laplacian."""
    tables = moment_tables(z_slice, block_px, Term.LAPLACIAN)
    return partial(_spread, tables, (z_slice.shape[0], z_slice.shape[1]), block_px, False)


def _of_term(z_slice: NDArray[Any], block_px: int, *, term: Term, worth: float) -> WindowScores:
    """Prepare the mean of a term, times `worth`."""
    table, unit = mean_table(z_slice, block_px, term)
    return partial(_mean, table, unit * worth, (z_slice.shape[0], z_slice.shape[1]), block_px)


def _spread(
    tables: tuple[Table, Table],
    shape_yx: tuple[int, int],
    block_px: int,
    root: bool,
    window: int,
    stride: int,
) -> NDArray[np.float64]:
    """Return the variance of every window, divided by n, not n − 1, or its root."""
    scores = _scores(tables[0], stride)
    read: Callable[..., None] = _integer_spread if tables[0].dtype == np.int64 else _float_spread
    read(tables[0], tables[1], block_px, shape_yx[0], shape_yx[1], window, stride, root, scores)
    return scores


def _mean(
    table: NDArray[np.int64],
    unit: float,
    shape_yx: tuple[int, int],
    block_px: int,
    window: int,
    stride: int,
) -> NDArray[np.float64]:
    """Return the mean over every window of what `table` sums."""
    scores = _scores(table, stride)
    _integer_mean(table, unit, block_px, shape_yx[0], shape_yx[1], window, stride, scores)
    return scores


def _scores(table: Table, stride: int) -> NDArray[np.float64]:
    """Return room for the scores of every window."""
    return np.empty((-(-(table.shape[0] - 1) // stride), -(-(table.shape[1] - 1) // stride)))


@kernel
def _integer_spread(
    sums: NDArray[np.int64],
    squares: NDArray[np.int64],
    block_px: int,
    height: int,
    width: int,
    window: int,
    stride: int,
    root: bool,
    scores: NDArray[np.float64],
) -> None:
    for j in range(scores.shape[0]):
        top = j * stride
        bottom = min(top + window, sums.shape[0] - 1)
        rows = min(bottom * block_px, height) - top * block_px
        high, low = sums[top], sums[bottom]
        high_squares, low_squares = squares[top], squares[bottom]
        for i in range(scores.shape[1]):
            left = i * stride
            right = min(left + window, sums.shape[1] - 1)
            n = rows * (min(right * block_px, width) - left * block_px)
            s1 = low[right] - high[right] - low[left] + high[left]
            s2 = low_squares[right] - high_squares[right] - low_squares[left] + high_squares[left]
            # Moments about a whole number near the mean: nothing cancels in floats,
            # so a flat window scores exactly zero at any brightness.
            share = 1.0 / n
            pivot = np.int64(np.floor(s1 * share + 0.5))
            r1 = np.float64(s1 - n * pivot)
            r2 = np.float64(s2 + pivot * (n * pivot - 2 * s1))
            variance = max(0.0, (r2 - r1 * r1 * share) * share)
            scores[j, i] = np.sqrt(variance) if root else variance


@kernel
def _float_spread(
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    block_px: int,
    height: int,
    width: int,
    window: int,
    stride: int,
    root: bool,
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
            variance = spread / n if spread > floor else 0.0
            scores[j, i] = np.sqrt(variance) if root else variance


@kernel
def _integer_mean(
    table: NDArray[np.int64],
    unit: float,
    block_px: int,
    height: int,
    width: int,
    window: int,
    stride: int,
    scores: NDArray[np.float64],
) -> None:
    for j in range(scores.shape[0]):
        top = j * stride
        bottom = min(top + window, table.shape[0] - 1)
        rows = min(bottom * block_px, height) - top * block_px
        for i in range(scores.shape[1]):
            left = i * stride
            right = min(left + window, table.shape[1] - 1)
            n = rows * (min(right * block_px, width) - left * block_px)
            total = table[bottom, right] - table[top, right] - table[bottom, left]
            scores[j, i] = unit * np.float64(total + table[top, left]) / n


_TABLE = (
    Measure(
        name="std",
        equation="sqrt(mean(I²) − mean(I)²)",
        unit="counts",
        source="the paper's measure; root of grey-level variance (Groen et al. 1985)",
        prepare=partial(_of_counts, root=True),
    ),
    Measure(
        name="variance",
        equation="mean(I²) − mean(I)²",
        unit="counts²",
        source="grey-level variance, GLVA: Groen et al. 1985, doi:10.1002/cyto.990060202",
        prepare=partial(_of_counts, root=False),
    ),
    Measure(
        name="laplacian",
        equation="mean(L²) − mean(L)², L = I(y−1,x) + I(y+1,x) + I(y,x−1) + I(y,x+1) − 4 I",
        unit="counts²",
        source="variance of Laplacian, LAPV: Pech-Pacheco et al. 2000, "
        "doi:10.1109/ICPR.2000.903548; 4 neighbours",
        prepare=_of_laplacian,
    ),
    Measure(
        name="tenengrad",
        equation="mean(Gx² + Gy²), G by 3 × 3 Sobel (1 2 1 × −1 0 1, not divided by 8)",
        unit="counts²",
        source="TENG: Tenenbaum 1970, Krotkov 1988, doi:10.1007/BF00127822; no threshold",
        prepare=partial(_of_term, term=Term.TENENGRAD, worth=1.0),
    ),
    Measure(
        name="smd",
        equation="mean(|I(y,x) − I(y,x−1)| + |I(y,x) − I(y−1,x)|)",
        unit="counts",
        source="sum of modulus differences: Jarvis 1976, Microscope 24, 163",
        prepare=partial(_of_term, term=Term.SMD, worth=1.0),
    ),
    Measure(
        name="smd2",
        equation="mean(|I(y,x) − I(y,x−1)| · |I(y,x) − I(y−1,x)|)",
        unit="counts²",
        source="product of smd's two differences, as the paper compares it",
        prepare=partial(_of_term, term=Term.SMD2, worth=1.0),
    ),
    Measure(
        name="brenner",
        equation="mean((I(y,x+2) − I(y,x))²)",
        unit="counts²",
        source="BREN: Brenner et al. 1976, doi:10.1177/24.1.1254907; along x only, as published",
        prepare=partial(_of_term, term=Term.BRENNER, worth=1.0),
    ),
    Measure(
        name="vollath",
        equation="mean((I(y,x+2) − I(y,x))² − (I(y,x+1) − I(y,x))²) / 2",
        unit="counts², may be negative",
        source="F4 of Vollath 1987, doi:10.1111/j.1365-2818.1987.tb02839.x: mean(I(x) I(x+1)) − "
        "mean(I(x) I(x+2)), less (I(x+1)² − I(x+2)²) / 2, which telescopes to the window's "
        "first and last columns and is all that depends on the camera's offset",
        prepare=partial(_of_term, term=Term.VOLLATH, worth=0.5),
    ),
    Measure(
        name="laplacian_of_gaussian",
        equation="mean((∇²G ∗ I)²), G a Gaussian of sigma 1 px, cut at 3 px, sums set to 1 and 0",
        unit="counts²",
        source="Marr and Hildreth 1980, doi:10.1098/rspb.1980.0020; energy of its answer",
        prepare=partial(_of_term, term=Term.LAPLACIAN_OF_GAUSSIAN, worth=1.0),
    ),
    Measure(
        name="entropy",
        equation="−sum(p log2 p), p the share of each grey level: I for uint8, "
        "floor(4 sqrt(I)) for uint16, 256 between the slice's extremes for float32",
        unit="bits",
        source="HISE: Firestone et al. 1991, doi:10.1002/cyto.990120302; levels are ours",
        prepare=entropy_windows,
    ),
)

MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _TABLE})
"""Focus measures, by name."""


def measure_named(name: str) -> Measure:
    """Return the measure called `name`, or raise ValueError that names what exists."""
    if name not in MEASURES:
        raise ValueError(f"unknown focus measure {name!r}: there is {', '.join(sorted(MEASURES))}")
    return MEASURES[name]
