"""What the consensus preset keeps of a slice: one pass over the pixels.

Design Notes
------------
Pixels are first averaged over *grains* of `grain_px` × `grain_px`: about one
resolution element of the objective, so that what is finer than a grain is noise.
Four by four grains make a block, and a window is two blocks wide and moves by one,
averaged where windows overlap: over blocks the weights are 1, 2, 1 along each axis.
With grains of 2 px that is the sliding window of 16 px with a stride of 8 px.

Per window two measures vote. *Contrast* is the variance of the grains, the std
measure's. *Detail* is the energy of their Laplacian taken over two grains, divided
by 20: white noise has the same energy in both, so their ratio says how much of the
contrast is fine. Beside them stay the mean, the brightest grain, and a high-passed
copy at half a block, by which slices are compared with each other.

Everything is added up in float32, as deviations from a count near the slice's mean. Of
whole counts and grains of 1, 2 or 4 px those are exact, and only their squares round:
to about 2⁻²² of the squared distance of a window from that count, 6 counts² at a
distance of 5000, far below the shot noise of a camera that counts that high. Where a
slice is flat both measures are exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._door import TOO_BRIGHT, checked_slice
from deepfocus_live.focus._jit import kernel

__all__ = [
    "CONTRAST_SPREAD",
    "DETAIL_SPREAD",
    "GRAINS_PER_BLOCK",
    "Evidence",
    "slice_evidence",
]

GRAINS_PER_BLOCK = 4
# Relative standard deviation of a window's contrast and detail where there is only
# white noise: sqrt(2 / n), n independent grains under the weights 1, 2, 1. Neighbouring
# values of the Laplacian are correlated and count less.
_GRAINS = GRAINS_PER_BLOCK**2 / 0.375**2
CONTRAST_SPREAD = (2 / _GRAINS) ** 0.5
DETAIL_SPREAD = (2 * 1.69 / _GRAINS) ** 0.5
_SAMPLED_LINES = 32
_LARGEST = float(np.finfo(np.float32).max)
_HIGHEST_PASSED = np.float32(60000)  # what float16 holds, nearly
_EXPONENT_SHIFT = np.float32(2.0**-112)  # from the exponent's bias in float32 to that in float16


@dataclass(frozen=True)
class Evidence:
    """What is kept of one slice, at block resolution.

    Attributes
    ----------
    contrast, detail : (By, Bx) float32
        Counts squared, >= 0; see the module. Equal, on average, in white noise.
    mean : (By, Bx) float32
        Counts, over the block alone.
    brightest : (By, Bx) float32
        Counts, of the block's brightest grain.
    high_pass : (2 By, 2 Bx) float16
        Counts: means over 2 × 2 grains less those over 10 × 10.
    """

    contrast: NDArray[np.float32]
    detail: NDArray[np.float32]
    mean: NDArray[np.float32]
    brightest: NDArray[np.float32]
    high_pass: NDArray[np.float16]


def slice_evidence(z_slice: ArrayLike, grain_px: int = 2) -> Evidence:
    """Measure one slice.

    Parameters
    ----------
    z_slice : (Y, X) uint8, uint16 or float32
        Raw camera counts. Any byte order and memory layout.
    grain_px : int
        Side of a grain in pixels, at least 1. A block is four of them wide; grains
        that the right or bottom edge cuts repeat its last pixels.

    Returns
    -------
    Evidence

    Raises
    ------
    ValueError
        If the slice is not 2-D, is empty, of another dtype or holds NaN or infinity.
    """
    pixels = checked_slice(z_slice)
    shape = tuple(-(-side // grain_px) for side in pixels.shape)
    blocks = tuple(-(-side // GRAINS_PER_BLOCK) for side in shape)
    mean, brightest, contrast, detail = np.empty((4, *blocks), np.float32)
    square, energy = np.empty((2, *blocks), np.float32)
    halves = np.empty((2 * blocks[0], 2 * blocks[1]), np.float32)
    # Whole where counts are: then whatever is added up below is exact, but for squares.
    typical = _typical_count(pixels)
    pivot = np.float32(typical if pixels.dtype.kind == "f" else round(typical))
    _measure_blocks(pixels, grain_px, pivot, mean, brightest, square, energy, halves)
    _mend_edges(shape, mean, square, energy, halves)
    if not _to_windows(mean, square, energy, contrast, detail):
        raise ValueError(TOO_BRIGHT)
    mean += pivot
    brightest += pivot
    fine, high_pass = np.empty_like(halves), np.empty(halves.shape, np.uint16)
    _high_pass(halves, fine)
    _shorten(fine.view(np.uint32).ravel(), high_pass.ravel())
    return Evidence(contrast, detail, mean, brightest, high_pass.view(np.float16))


@kernel
def _typical_count(pixels: NDArray[np.generic]) -> float:
    """Return the mean of a thousand pixels; of a flat field, its count exactly."""
    height, width = pixels.shape
    total, count = 0.0, 0
    for y in range(0, height, max(1, height // _SAMPLED_LINES)):
        for x in range(0, width, max(1, width // _SAMPLED_LINES)):
            total += np.float64(pixels[y, x])
            count += 1
    return total / count


@kernel
def _measure_blocks(
    pixels: NDArray[np.generic],
    grain_px: int,
    pivot: np.float32,
    mean: NDArray[np.float32],
    brightest: NDArray[np.float32],
    square: NDArray[np.float32],
    detail: NDArray[np.float32],
    halves: NDArray[np.float32],
) -> None:
    """Fill the blocks' means, maxima, mean squares and details, and the halves' means.

    All are of deviations from `pivot`, and as if no block were cut by the edge: grains
    beyond it count as 0. See `_mend_edges`.
    """
    height, width = -(-pixels.shape[0] // grain_px), -(-pixels.shape[1] // grain_px)
    # A block's four rows of grains and the two on either side that its details reach.
    strip = np.zeros((8, width + 4), np.float32)
    nothing = np.zeros(width, np.float32)
    columns = np.zeros(4 * mean.shape[1], np.float32)
    inside = columns[:width]
    for block_y in range(mean.shape[0]):
        top = 4 * block_y
        rows = min(4, height - top)
        for row in range(8):
            if row < 4 and block_y > 0:
                _copy(strip[row + 4], strip[row])
            else:
                y = min(max(top - 2 + row, 0), height - 1)
                _average_grains(pixels, y, grain_px, pivot, strip[row])
        one = strip[2, 2:-2]
        two = strip[3, 2:-2] if rows > 1 else nothing
        three = strip[4, 2:-2] if rows > 2 else nothing
        four = strip[5, 2:-2] if rows > 3 else nothing
        _add_pairs(one, two, halves[2 * block_y])
        _add_pairs(three, four, halves[2 * block_y + 1])
        for x in range(mean.shape[1]):
            above = halves[2 * block_y, 2 * x] + halves[2 * block_y, 2 * x + 1]
            below = halves[2 * block_y + 1, 2 * x] + halves[2 * block_y + 1, 2 * x + 1]
            mean[block_y, x] = np.float32(0.25) * (above + below)
        for x in range(width, len(columns)):
            columns[x] = 0
        _add_squares(one, two, three, four, inside)
        _average_fours(columns, np.float32(1 / 16), square[block_y])
        _add_details(strip, rows, inside)
        _average_fours(columns, np.float32(1 / 320), detail[block_y])
        # Beyond the edge the last row repeats, which a maximum does not mind.
        _keep_highest(one, strip[3, 2:-2], strip[4, 2:-2], strip[5, 2:-2], inside)
        for x in range(width, len(columns)):
            columns[x] = columns[width - 1]
        _highest_of_fours(columns, brightest[block_y])


@kernel
def _average_grains(
    pixels: NDArray[np.generic],
    y: int,
    grain_px: int,
    pivot: np.float32,
    grains: NDArray[np.float32],
) -> None:
    """Fill `grains` with row `y` of them, less `pivot`, the outermost twice more."""
    height, width = pixels.shape
    inner = grains[2:-2]
    last = len(inner) - 1
    if grain_px == 2:
        one, two = pixels[2 * y], pixels[min(2 * y + 1, height - 1)]
        for x in range(width // 2):
            total = (one[2 * x] + one[2 * x + 1]) + (two[2 * x] + two[2 * x + 1])
            inner[x] = np.float32(0.25) * np.float32(total) - pivot
        if width % 2:
            inner[last] = np.float32(0.5) * np.float32(one[width - 1] + two[width - 1]) - pivot
    else:
        share = np.float32(1 / (grain_px * grain_px))
        for x in range(last + 1):
            deviation = np.float32(0)
            for j in range(grain_px):
                row = pixels[min(grain_px * y + j, height - 1)]
                for i in range(grain_px):
                    deviation += np.float32(row[min(grain_px * x + i, width - 1)]) - pivot
            inner[x] = share * deviation
    for k in range(2):
        grains[k], grains[last + 3 + k] = inner[0], inner[last]


@kernel
def _copy(source: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    for x in range(len(source)):
        target[x] = source[x]


# One output each: with more, the compiler gives up telling the arrays apart and does one
# grain at a time. So does `max`, which minds NaN.
@kernel
def _add_pairs(
    one: NDArray[np.float32], two: NDArray[np.float32], halves: NDArray[np.float32]
) -> None:
    pairs = len(one) // 2
    for x in range(pairs):
        halves[x] = np.float32(0.25) * (
            (one[2 * x] + one[2 * x + 1]) + (two[2 * x] + two[2 * x + 1])
        )
    for x in range(pairs, len(halves)):
        halves[x] = 0
    if len(one) % 2:
        halves[pairs] = np.float32(0.25) * (one[-1] + two[-1])


@kernel
def _add_squares(
    one: NDArray[np.float32],
    two: NDArray[np.float32],
    three: NDArray[np.float32],
    four: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    for x in range(len(sums)):
        upper = one[x] * one[x] + two[x] * two[x]
        sums[x] = upper + (three[x] * three[x] + four[x] * four[x])


@kernel
def _keep_highest(
    one: NDArray[np.float32],
    two: NDArray[np.float32],
    three: NDArray[np.float32],
    four: NDArray[np.float32],
    highest: NDArray[np.float32],
) -> None:
    for x in range(len(highest)):
        upper = one[x] if one[x] > two[x] else two[x]
        lower = three[x] if three[x] > four[x] else four[x]
        highest[x] = upper if upper > lower else lower


@kernel
def _add_details(strip: NDArray[np.float32], rows: int, sums: NDArray[np.float32]) -> None:
    """Add the squared Laplacians of the strip's inner rows, the first `rows` of the four."""
    a, b, c, d = strip[0], strip[1], strip[2], strip[3]
    e, f, g, h = strip[4], strip[5], strip[6], strip[7]
    take_d, take_e, take_f = np.float32(rows > 1), np.float32(rows > 2), np.float32(rows > 3)
    four = np.float32(4)
    for x in range(len(sums)):
        of_c = four * c[x + 2] - ((a[x + 2] + e[x + 2]) + (c[x] + c[x + 4]))
        of_d = four * d[x + 2] - ((b[x + 2] + f[x + 2]) + (d[x] + d[x + 4]))
        of_e = four * e[x + 2] - ((c[x + 2] + g[x + 2]) + (e[x] + e[x + 4]))
        of_f = four * f[x + 2] - ((d[x + 2] + h[x + 2]) + (f[x] + f[x + 4]))
        upper = of_c * of_c + take_d * (of_d * of_d)
        sums[x] = upper + (take_e * (of_e * of_e) + take_f * (of_f * of_f))


@kernel
def _average_fours(
    columns: NDArray[np.float32], share: np.float32, blocks: NDArray[np.float32]
) -> None:
    for x in range(len(blocks)):
        left, right = columns[4 * x] + columns[4 * x + 1], columns[4 * x + 2] + columns[4 * x + 3]
        blocks[x] = share * (left + right)


@kernel
def _highest_of_fours(columns: NDArray[np.float32], blocks: NDArray[np.float32]) -> None:
    for x in range(len(blocks)):
        one, two = columns[4 * x], columns[4 * x + 1]
        three, four = columns[4 * x + 2], columns[4 * x + 3]
        left = one if one > two else two
        right = three if three > four else four
        blocks[x] = left if left > right else right


def _mend_edges(
    shape: tuple[int, ...],
    mean: NDArray[np.float32],
    square: NDArray[np.float32],
    detail: NDArray[np.float32],
    halves: NDArray[np.float32],
) -> None:
    """Make means of what the edge leaves of the last blocks; `shape` is in grains."""
    rows, columns = (4 - -side % 4 for side in shape)
    if rows == columns == 4:
        return
    for blocks in (mean, square, detail):
        blocks[-1] *= 4 / rows
        blocks[:, -1] *= 4 / columns
    for kept, lines in ((rows, halves), (columns, halves.T)):
        lines[-2] *= 2 / min(kept, 2)
        lines[-1] *= 2 / max(kept - 2, 1)
    # A half that the edge cuts off takes the block's mean.
    if rows <= 2:
        halves[-1] = np.repeat(mean[-1], 2)
    if columns <= 2:
        halves[:, -1] = np.repeat(mean[:, -1], 2)


@kernel
def _to_windows(
    mean: NDArray[np.float32],
    square: NDArray[np.float32],
    energy: NDArray[np.float32],
    contrast: NDArray[np.float32],
    detail: NDArray[np.float32],
) -> bool:
    """Fill windows' variances and mean energies from their blocks'; return if all are finite."""
    height, width = mean.shape
    down = np.empty(width + 2)
    moments, squares, energies = np.empty(width), np.empty(width), np.empty(width)
    beyond = 0
    for y in range(height):
        _smooth_row(mean, y, down, moments)
        _smooth_row(square, y, down, squares)
        _smooth_row(energy, y, down, energies)
        for x in range(width):
            spread = squares[x] - moments[x] * moments[x]
            spread = 0.0 if spread < 0 else spread
            contrast[y, x], detail[y, x] = spread, energies[x]
            beyond |= not spread + energies[x] < _LARGEST
    return beyond == 0


@kernel
def _smooth_row(
    blocks: NDArray[np.float32], y: int, down: NDArray[np.float64], smooth: NDArray[np.float64]
) -> None:
    """Weight blocks around row `y` 1, 2, 1 along both axes; the outermost repeat."""
    above, here, below = blocks[max(y - 1, 0)], blocks[y], blocks[min(y + 1, len(blocks) - 1)]
    for x in range(len(smooth)):
        beside = np.float64(above[x]) + np.float64(below[x])
        down[x + 1] = beside + 2 * np.float64(here[x])
    down[0], down[-1] = down[1], down[-2]
    for x in range(len(smooth)):
        smooth[x] = (down[x] + 2 * down[x + 1] + down[x + 2]) / 16


@kernel
def _high_pass(halves: NDArray[np.float32], fine: NDArray[np.float32]) -> None:
    """Fill `fine` with what is left of `halves` less means over 5 × 5, scaled for `_shorten`.

    The outermost repeat.
    """
    height, width = halves.shape
    down = np.empty(width + 4, np.float32)
    for y in range(height):
        one, two = halves[max(y - 2, 0)], halves[max(y - 1, 0)]
        four, five = halves[min(y + 1, height - 1)], halves[min(y + 2, height - 1)]
        here = halves[y]
        for x in range(width):
            down[x + 2] = (one[x] + five[x]) + (two[x] + four[x]) + here[x]
        for k in range(2):
            down[k], down[width + 2 + k] = down[2], down[width + 1]
        for x in range(width):
            box = (down[x] + down[x + 4]) + (down[x + 1] + down[x + 3]) + down[x + 2]
            value = here[x] - np.float32(1 / 25) * box
            value = value if value < _HIGHEST_PASSED else _HIGHEST_PASSED
            value = value if value > -_HIGHEST_PASSED else -_HIGHEST_PASSED
            fine[y, x] = value * _EXPONENT_SHIFT


@kernel
def _shorten(bits: NDArray[np.uint32], short: NDArray[np.uint16]) -> None:
    """Fill `short` with the bits of float16, given those of float32 scaled to its exponents.

    They are the upper ones below the sign, rounded half to even. Numba has no float16,
    and numpy takes as long to convert as all the rest takes.
    """
    for i in range(len(bits)):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        odd = (magnitude >> np.uint32(13)) & np.uint32(1)
        rounded = (magnitude + np.uint32(0xFFF) + odd) >> np.uint32(13)
        short[i] = rounded | ((bits[i] >> np.uint32(16)) & np.uint32(0x8000))
