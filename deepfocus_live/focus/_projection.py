"""One stack seen from above: the image in which all is in focus.

Design Notes
------------
*The all-in-focus image* is a weighted mean over the slices. A slice weighs, at each
pixel, its focus score to the power of `sharpness`; the logarithm of the score is
interpolated bilinearly between block centres. A power knows no unit, so that one
number serves all exposures: where the best slice is half as good again as the next
it has all the weight, where two are equally good they share, and where there is only
noise, whose scores differ by a per cent or two, all weigh about the same and the
mean over slices comes out. Two neighbouring objects meet where their interpolated
scores cross, without a seam.

*Slices come one at a time and are not kept.* Per pixel there are the mean so far and
the total weight so far, relative to the best score so far at that place. A better
slice first fades the total. Mean and fading are linear in the logarithm, as the
interpolation is, so the result does not depend on the order: not at all in exact
arithmetic, as long as scores at one place differ by less than the factor 2 to the
power of 100 / `sharpness` (8.7); what is fainter than that beside the best weighs as
if it differed by that. In float32 the mean moved by 0.001 counts at most when the
order of three stacks was changed, so that 1 pixel in 10 000 is rounded otherwise.

*Weights cost no exponential per pixel*: along a row between two block centres the
interpolated logarithm is linear, so the weight is a geometric series, and down a
column likewise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._door import accepted_dtypes, checked_shape, checked_slice
from deepfocus_live.focus._jit import kernel

__all__ = ["StackProjector"]

# Weights below 2 ** -100 of the best are raised to it: no pixel's total can be 0,
# because float32 holds them with room for the interpolation.
_FAINTEST = np.float32(-100)
# A score of 0 has no logarithm; no camera scores anything this low.
_LOWEST_SCORE = np.float32(1e-30)


class StackProjector:
    """The all-in-focus image of one stack, slice by slice; one thread at a time.

    Holds two float32 values per pixel (11 MB for 1024 × 1344) and the scores of each
    slice at block resolution, however many slices there are.

    Parameters
    ----------
    shape_yx : (int, int)
        Of every slice, in pixels.
    dtype : uint8, uint16 or float32
        Of every slice, and of the image.
    block_px : int
        Side of the blocks that scores are given for, in pixels, >= 1.
    sharpness : float
        Power of the score by which slices are weighed, > 0. For scores in counts
        (std) 32 is good: 16 leaves blur around what is sharp, 64 averages little
        noise away. For scores in counts squared take half of it.
    dark_offset : float
        Counts of a pixel that saw no light: what `gain` does not scale.

    Raises
    ------
    ValueError
        If the shape, dtype, block or sharpness is not one of these, or the offset is NaN or
        infinite.
    """

    def __init__(
        self,
        *,
        shape_yx: tuple[int, int],
        dtype: Any,
        block_px: int,
        sharpness: float = 32.0,
        dark_offset: float = 0.0,
    ) -> None:
        self.shape_yx = checked_shape(shape_yx)
        self.dtype = np.dtype(dtype).newbyteorder("=")
        if self.dtype not in accepted_dtypes:
            names = ", ".join(accepted.name for accepted in accepted_dtypes)
            raise ValueError(f"slices are {names}, not {self.dtype.name}")
        if block_px < 1:
            raise ValueError(f"a block is at least 1 px wide, not {block_px}")
        if not (np.isfinite(sharpness) and sharpness > 0):
            raise ValueError(f"sharpness is a number above 0, not {sharpness}")
        if not np.isfinite(dark_offset):
            raise ValueError(f"dark_offset is a number of counts, not {dark_offset}")
        self.block_px = int(block_px)
        self._sharpness = np.float32(sharpness)
        self._dark_offset = float(dark_offset)
        self._blocks = (-(-self.shape_yx[0] // block_px), -(-self.shape_yx[1] // block_px))
        self._weights: dict[int, NDArray[np.float32]] = {}  # log2, one per slice
        self._heaviest = np.full(self._blocks, -np.inf, np.float32)
        self._mean = np.zeros(self.shape_yx, np.float32)
        self._total = np.zeros(self.shape_yx, np.float32)

    def __len__(self) -> int:
        """Return how many slices have arrived."""
        return len(self._weights)

    def add(
        self, z_index: int, z_slice: ArrayLike, scores: NDArray[np.float32], *, gain: float = 1.0
    ) -> None:
        """Blend one slice in; slices may come in any order, missing ones are no harm.

        A slice that comes again takes the place of its first coming where it is all
        that is seen, and counts once in the weights. Where it had a share s of a
        blend, s · (1 − s) of its old pixels stays: at most a quarter.

        Parameters
        ----------
        z_index : int
            Its place in the stack, from 0.
        z_slice : (Y, X), the stack's dtype
            Not kept.
        scores : (By, Bx) float32
            Its focus scores, one per block, higher is sharper; of all slices by
            the same scan. What is not above 0 counts as nothing in focus at all.
        gain : float
            Brightness of this slice relative to the stack, > 0: pixels, less the
            dark offset, are divided by it. Scores are taken as they are: a measure
            that grows with brightness must be corrected before.

        Raises
        ------
        ValueError
            If the index is negative, the slice or the scores have another shape or
            dtype, a pixel or a score is NaN or infinite, or the gain is not above 0.
        """
        if z_index < 0:
            raise ValueError(f"slices are numbered from 0, not {z_index}")
        if np.shape(z_slice) != self.shape_yx:
            raise ValueError(
                f"slice {z_index} is {np.shape(z_slice)}, the stack is {self.shape_yx}: "
                "slices of one stack have one size"
            )
        pixels = checked_slice(z_slice)
        if pixels.dtype != self.dtype:
            raise ValueError(f"slice {z_index} is {pixels.dtype}, the stack is {self.dtype}")
        if not (np.isfinite(gain) and gain > 0):
            raise ValueError(f"slice {z_index} has gain {gain}: give a number above 0")
        weight = self._weight(z_index, scores)
        if z_index in self._weights:
            _withdraw(self._relative(self._weights[z_index]), self.block_px, self._total)
        heaviest = np.maximum(self._heaviest, weight)
        # Before the first slice there is no total that could fade.
        fade = np.zeros_like(weight)
        if self._weights:
            fade = np.maximum(self._heaviest - heaviest, _FAINTEST)
        self._heaviest = heaviest
        self._weights[z_index] = weight
        scale = np.float32(1 / gain)
        shift = np.float32(self._dark_offset * (1 - 1 / gain))
        _blend(
            pixels, scale, shift, self._relative(weight), fade, self.block_px,
            self._mean, self._total,
        )  # fmt: skip

    def image(self) -> NDArray[Any]:
        """Return the all-in-focus image of the slices so far; more may be added after.

        Returns
        -------
        (Y, X), the stack's dtype
            A copy, in counts. Integers are rounded, and clipped where `gain` brought
            them above the dtype's range. A stack of equal slices gives that slice.

        Raises
        ------
        ValueError
            If no slice has arrived.
        """
        if not self._weights:
            raise ValueError("no slice has arrived: there is no image to show")
        if self.dtype == np.float32:
            return self._mean.copy()
        counts = np.rint(self._mean)
        np.clip(counts, 0, np.iinfo(self.dtype).max, out=counts)
        return counts.astype(self.dtype)

    def _weight(self, z_index: int, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logarithm to base 2 of what each block of a slice weighs."""
        if np.shape(scores) != self._blocks:
            raise ValueError(
                f"slice {z_index} has scores {np.shape(scores)}, a slice of {self.shape_yx} "
                f"has {self._blocks} blocks of {self.block_px} px"
            )
        if not np.isfinite(scores).all():
            raise ValueError(f"slice {z_index} has scores that are NaN or infinite")
        positive = np.maximum(np.ascontiguousarray(scores, np.float32), _LOWEST_SCORE)
        weight: NDArray[np.float32] = self._sharpness * np.log2(positive)
        return weight

    def _relative(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        relative: NDArray[np.float32] = np.maximum(weight - self._heaviest, _FAINTEST)
        return relative


@kernel
def _blend(
    z_slice: NDArray[Any],
    scale: np.float32,
    shift: np.float32,
    weight: NDArray[np.float32],
    fade: NDArray[np.float32],
    block_px: int,
    mean: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Fade `total` and blend a slice into `mean`, in place; weight and fade are log2."""
    height, width = z_slice.shape
    weight_row, weight_ratio = np.empty(width, np.float32), np.empty(width, np.float32)
    fade_row, fade_ratio = np.empty(width, np.float32), np.empty(width, np.float32)
    y = 0
    while y < height:
        bottom = _start_rows(weight, block_px, y, height, weight_row, weight_ratio)
        _start_rows(fade, block_px, y, height, fade_row, fade_ratio)
        while y < bottom:
            pixels, means, totals = z_slice[y], mean[y], total[y]
            for x in range(width):
                added = weight_row[x]
                all_of_it = totals[x] * fade_row[x] + added
                counts = np.float32(pixels[x]) * scale + shift
                # So written, equal slices leave the mean exactly as it is.
                means[x] += (counts - means[x]) * (added / all_of_it)
                totals[x] = all_of_it
                weight_row[x] = added * weight_ratio[x]
                fade_row[x] *= fade_ratio[x]
            y += 1


@kernel
def _withdraw(weight: NDArray[np.float32], block_px: int, total: NDArray[np.float32]) -> None:
    """Take a slice's weight (log2) out of `total`, in place."""
    height, width = total.shape
    row, ratio = np.empty(width, np.float32), np.empty(width, np.float32)
    y = 0
    while y < height:
        bottom = _start_rows(weight, block_px, y, height, row, ratio)
        while y < bottom:
            for x in range(width):
                total[y, x] = max(total[y, x] - row[x], np.float32(0))
                row[x] *= ratio[x]
            y += 1


@kernel
def _start_rows(
    blocks: NDArray[np.float32],
    block_px: int,
    y: int,
    height: int,
    row: NDArray[np.float32],
    ratio: NDArray[np.float32],
) -> int:
    """Return up to which row 2 ** interpolated `blocks` is `row` times powers of `ratio`.

    `row` becomes the values of row y, `ratio` the factor from each row to the next.
    """
    last_y, last_x = blocks.shape[0] - 1, blocks.shape[1] - 1
    per_px = np.float32(1 / block_px)
    half = 0.5 / block_px - 0.5  # pixel 0 lies this many blocks from block 0's centre
    place = y / block_px + half
    j = int(np.floor(place))
    down = np.float32(place - j)
    above, below = max(j, 0), min(j + 1, last_y)
    x = 0
    while x < len(row):
        place = x / block_px + half
        i = int(np.floor(place))
        along = np.float32(place - i)
        left, right = max(i, 0), min(i + 1, last_x)
        fall_left = blocks[below, left] - blocks[above, left]
        fall_right = blocks[below, right] - blocks[above, right]
        from_left = blocks[above, left] + down * fall_left
        to_right = blocks[above, right] + down * fall_right - from_left
        value = np.exp2(from_left + along * to_right)
        value_ratio = np.exp2(to_right * per_px)
        fall = np.exp2((fall_left + along * (fall_right - fall_left)) * per_px)
        fall_ratio = np.exp2((fall_right - fall_left) * per_px * per_px)
        # The first pixel at or beyond the next block's centre starts a new series.
        stop = min(len(row), max(x + 1, int(np.ceil((i + 1 - half) * block_px))))
        while x < stop:
            row[x] = value
            ratio[x] = fall
            value *= value_ratio
            fall *= fall_ratio
            x += 1
    return min(height, max(y + 1, int(np.ceil((j + 1 - half) * block_px))))
