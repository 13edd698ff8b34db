"""Contrast that inverts through focus: bright becomes dark, and between them is focus.

A transparent thing seen in brightfield shifts the light's phase and hardly takes any
away [Agero2004]_. It shows dark on one side of focus and bright on the other, and nearly vanishes
in between: every contrast measure has a minimum at focus, with a maximum on either
side. What tells them from two layers is the sign: high-passed slices either side of
such a dip are each other's negative.

References
----------
.. [Agero2004] Agero et al. (2004), doi:10.1002/jemt.20117: phase objects in brightfield.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._jit import kernel

__all__ = ["CELL_BLOCKS", "Inversion", "find_inversion"]

CELL_BLOCKS = 4
_STEPS = (1, 2, 3, 4)
_REACH = max(_STEPS)
_NOISE_TIMES = 3.0
_MIRRORED = -0.3
_CURVE_CELLS = 5  # a cell's dip is shallow and noisy by itself; one specimen is wider
_EXPONENT_SHIFT = np.float32(2.0**112)  # from the exponent's bias in float16 to that in float32
_DIP = 0.7  # of the lower maximum beside it: what contrast falls below


@dataclass(frozen=True)
class Inversion:
    """Where contrast inverts, in cells of `CELL_BLOCKS` × `CELL_BLOCKS` blocks.

    Attributes
    ----------
    inverted : (Cy, Cx) bool
        Whether it does.
    in_focus : (Z, Cy, Cx) bool
        The slices of its dip: the focus of what inverts.
    share : float
        Inverted cells among those with more than noise in them, 0 to 1.
    """

    inverted: NDArray[np.bool_]
    in_focus: NDArray[np.bool_]
    share: float


def find_inversion(
    high_pass: list[NDArray[np.float16]],
    signal: NDArray[np.float32],
    *,
    noise: float,
    rise: float,
) -> Inversion:
    """Find where contrast inverts.

    Parameters
    ----------
    high_pass : Z arrays (2 By, 2 Bx) float16
        From `Evidence`.
    signal : (Z, By, Bx) float32
        Contrast less its noise, >= 0, corrected for brightness.
    noise : float
        Variance of noise alone in `high_pass`, counts squared.
    rise : float
        How far a peak's slices are in focus, 0 to 1; a dip's as far, upside down.

    Returns
    -------
    Inversion
    """
    mirror, loud = _mirror_correlation(high_pass, noise)
    inverted = np.zeros(loud.shape, bool)
    in_focus = np.zeros(mirror.shape, bool)
    if mirror.min() < _MIRRORED:
        curves = np.sqrt(_smoothed(_cell_means(signal), _CURVE_CELLS))
        _find_dips(curves, mirror, rise, inverted, in_focus)
    share = float(inverted[loud].mean()) if loud.any() else 0.0
    return Inversion(inverted, in_focus, share)


@kernel
def _find_dips(
    contrast: NDArray[np.float32],
    mirror: NDArray[np.float32],
    rise: float,
    inverted: NDArray[np.bool_],
    in_focus: NDArray[np.bool_],
) -> None:
    """Mark the slices of every mirrored cell's dip in contrast, unless it is shallow."""
    n_z, rows, columns = mirror.shape
    for row in range(rows):
        for column in range(columns):
            near = int(mirror[:, row, column].argmin())
            if mirror[near, row, column] >= _MIRRORED:
                continue
            curve = contrast[:, row, column]
            first = max(near - _REACH, 1)
            dip = first + int(curve[first : near + _REACH + 1].argmin())
            if dip + 1 >= n_z:
                continue
            top = min(curve[:dip].max(), curve[dip + 1 :].max())
            bottom = curve[dip]
            if bottom > _DIP * top or top <= 0:
                continue
            limit = bottom + (1 - rise) * (top - bottom)
            inverted[row, column] = True
            z = dip
            while z >= 0 and curve[z] <= limit:
                in_focus[z, row, column] = True
                z -= 1
            z = dip
            while z < n_z and curve[z] <= limit:
                in_focus[z, row, column] = True
                z += 1


def _mirror_correlation(
    high_pass: list[NDArray[np.float16]], noise: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Correlate the slices either side of every slice with each other.

    Returns the lowest correlation over 1 to 4 steps to either side, (Z, Cy, Cx), 1 where
    there is no such pair or nothing but noise in it; and (Cy, Cx) whether there ever
    was more.
    """
    n_z, side = len(high_pass), 2 * CELL_BLOCKS
    pairs = np.array(
        [(z, z) for z in range(n_z)]
        + [(z - step, z + step) for step in _STEPS for z in range(step, n_z - step)]
    )
    height, width = high_pass[0].shape
    products = np.empty((len(pairs), -(-height // side), -(-width // side)), np.float32)
    _cell_products(np.stack(high_pass).view(np.uint16), pairs, side, products)
    products = _smoothed(products, 3)
    power, products, pairs = products[:n_z], products[n_z:], pairs[n_z:]
    heard: NDArray[np.bool_] = power > _NOISE_TIMES * noise * side * side
    lowest = np.ones_like(power)
    if heard.any():
        _keep_lowest(products, pairs, power, heard, lowest)
    return lowest, np.any(heard, axis=0)


@kernel
def _keep_lowest(
    products: NDArray[np.float32],
    pairs: NDArray[np.int64],
    power: NDArray[np.float32],
    heard: NDArray[np.bool_],
    lowest: NDArray[np.float32],
) -> None:
    """Lower `lowest` (Z, Cy, Cx) in the middle of each pair to its correlation."""
    for k in range(len(pairs)):
        before, after = pairs[k, 0], pairs[k, 1]
        middle = (before + after) // 2
        for row in range(power.shape[1]):
            for column in range(power.shape[2]):
                if heard[before, row, column] and heard[after, row, column]:
                    scale = np.sqrt(power[before, row, column] * power[after, row, column])
                    correlation = products[k, row, column] / scale
                    if correlation < lowest[middle, row, column]:
                        lowest[middle, row, column] = correlation


@kernel
def _cell_products(
    planes: NDArray[np.uint16],
    pairs: NDArray[np.int64],
    side: int,
    products: NDArray[np.float32],
) -> None:
    """Fill each pair's sums of products over cells of `side` × `side`; the last may be cut.

    `planes` (Z, Y, X) are the bits of float16, which numba does not have.
    """
    n_z, height, width = planes.shape
    n_columns = products.shape[2]
    band = np.zeros((n_z, side, n_columns * side), np.float32)
    bits = band.view(np.uint32)
    sums = np.empty(band.shape[2], np.float32)
    for row in range(products.shape[1]):
        rows = min(side, height - row * side)
        for z in range(n_z):
            for j in range(rows):
                half, full = planes[z, row * side + j], bits[z, j]
                for x in range(width):
                    magnitude = np.uint32(half[x] & 0x7FFF) << np.uint32(13)
                    full[x] = magnitude | (np.uint32(half[x] & 0x8000) << np.uint32(16))
        band *= _EXPONENT_SHIFT
        for k in range(len(pairs)):
            one, other = band[pairs[k, 0]], band[pairs[k, 1]]
            sums[:] = 0
            for j in range(rows):
                _add_products(one[j], other[j], sums)
            for column in range(n_columns):
                total = np.float32(0)
                for x in range(column * side, (column + 1) * side):
                    total += sums[x]
                products[k, row, column] = total


@kernel
def _add_products(
    one: NDArray[np.float32], other: NDArray[np.float32], sums: NDArray[np.float32]
) -> None:
    for x in range(len(sums)):
        sums[x] += one[x] * other[x]


@kernel
def _cell_means(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means over cells of every plane, (Z, Cy, Cx); the last may be cut."""
    n_z, height, width = planes.shape
    n_rows, n_columns = -(-height // CELL_BLOCKS), -(-width // CELL_BLOCKS)
    means = np.empty((n_z, n_rows, n_columns), np.float32)
    for z in range(n_z):
        for row in range(n_rows):
            bottom = min((row + 1) * CELL_BLOCKS, height)
            for column in range(n_columns):
                right = min((column + 1) * CELL_BLOCKS, width)
                total, count = np.float32(0), np.float32(0)
                for y in range(row * CELL_BLOCKS, bottom):
                    for x in range(column * CELL_BLOCKS, right):
                        total += planes[z, y, x]
                        count += np.float32(1)
                means[z, row, column] = total / count
    return means


def _smoothed(cells: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return each cell's mean with its neighbours', plane by plane; the outermost repeat."""
    for axis in (1, 2):
        ends = [(width // 2, width // 2) if k == axis else (0, 0) for k in range(3)]
        padded = np.pad(cells, ends, mode="edge")
        n = cells.shape[axis]
        total = np.zeros_like(cells)
        for k in range(width):
            total += padded[:, k : k + n] if axis == 1 else padded[:, :, k : k + n]
        cells = total / np.float32(width)
    return cells
