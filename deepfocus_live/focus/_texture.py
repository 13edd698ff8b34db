"""Detail and noise of a slice, in pixels a few times larger than the camera's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "REDUCTION",
    "SMALLEST_SIDE_PX",
    "Patches",
    "correlation",
    "noise_counts_of",
    "reduced_slice",
    "with_noise",
]

REDUCTION = 4  # sides of the pixels that texture and inversion are judged on
SMALLEST_SIDE_PX = 4 * REDUCTION


class Patches:
    """Which reduced pixels lie around each block: as wide as a window, all inside."""

    def __init__(self, shape_yx: tuple[int, int], block_px: int, window_px: int) -> None:
        self._shape = [side // REDUCTION for side in shape_yx]
        self._sides = [min(window_px // REDUCTION, side) for side in self._shape]
        self._starts = []
        for px, side, length in zip(shape_yx, self._sides, self._shape, strict=True):
            middles = (np.arange(0, px, block_px) + block_px / 2) / REDUCTION
            starts = np.rint(middles - side / 2).astype(np.intp)
            self._starts.append(np.clip(starts, 0, length - side))
        self.blocks_yx = (len(self._starts[0]), len(self._starts[1]))

    def of(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the flat indices of the patches of the chosen blocks, (K, pixels)."""
        ys, xs = np.nonzero(chosen)
        rows = self._starts[0][ys, None] + np.arange(self._sides[0])
        columns = self._starts[1][xs, None] + np.arange(self._sides[1])
        indices = rows[:, :, None] * self._shape[1] + columns[:, None, :]
        return indices.reshape(len(ys), self._sides[0] * self._sides[1])

    def covered(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which reduced pixels lie in a patch of the chosen blocks, flat."""
        covered = np.zeros(self._shape[0] * self._shape[1], bool)
        covered[self.of(chosen)] = True
        return covered

    def mean_square(self, reduced: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the mean square of each block's patch, (By, Bx)."""
        squares = np.zeros([side + 1 for side in self._shape])
        squares[1:, 1:] = reduced.reshape(self._shape).astype(np.float64) ** 2
        table = squares.cumsum(axis=0).cumsum(axis=1)
        top, left = self._starts
        bottom, right = top + self._sides[0], left + self._sides[1]
        total = table[np.ix_(bottom, right)] - table[np.ix_(top, right)]
        total += table[np.ix_(top, left)] - table[np.ix_(bottom, left)]
        mean: NDArray[np.float64] = np.maximum(0, total) / (self._sides[0] * self._sides[1])
        return mean


def reduced_slice(pixels: NDArray[Any], window_px: int) -> NDArray[np.float32]:
    """Return means of 4 × 4 pixels less their mean over about a window, flat float32."""
    from scipy import ndimage  # slow to import, needed only here

    rows, columns = (side // REDUCTION for side in pixels.shape)
    whole = pixels[: rows * REDUCTION, : columns * REDUCTION]
    means = whole.reshape(rows, REDUCTION, columns, REDUCTION).mean(axis=(1, 3), dtype=np.float32)
    means -= means.mean()  # so that little is lost where the offset is large
    high_passed: NDArray[np.float32] = means - ndimage.uniform_filter(means, window_px // REDUCTION)
    return high_passed.ravel()


def noise_counts_of(pixels: NDArray[Any]) -> float:
    """Return the standard deviation of the noise of one slice, in counts.

    Immerkær's: the response to the difference of two Laplacians, which a plane and a
    straight edge do not excite, averaged over blocks of 14 px. The lower quartile of
    the blocks, for texture answers too. Blocks without any response are saturated or
    empty and are left out; rounding to whole counts is noise as well.
    """
    counts = pixels.astype(np.float32)
    along_y = counts[:-2] - 2 * counts[1:-1] + counts[2:]
    response = np.abs(along_y[:, :-2] - 2 * along_y[:, 1:-1] + along_y[:, 2:])
    side = SMALLEST_SIDE_PX - 2
    rows, columns = (length // side for length in response.shape)
    blocks = response[: rows * side, : columns * side].reshape(rows, side, columns, side)
    means = blocks.mean(axis=(1, 3))
    rounding = 0.0 if pixels.dtype == np.float32 else 1 / math.sqrt(12)
    if not means.any():
        return rounding
    lower = float(np.quantile(means[means > 0], 0.25))
    return max(rounding, math.sqrt(math.pi / 2) / 6 * lower)


def with_noise(pixels: NDArray[Any], noise_counts: float, seed: tuple[int, ...]) -> NDArray[Any]:
    """Return the slice with Gaussian noise added, of the same dtype; the same for a seed."""
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
    noise *= np.float32(noise_counts)
    noise += pixels
    if pixels.dtype == np.float32:
        return noise
    limits = np.iinfo(pixels.dtype)
    return np.rint(noise).clip(limits.min, limits.max).astype(pixels.dtype)


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Pearson's correlation of each row of `a` with that of `b`; 0 where one is flat."""
    a = a.astype(np.float64) - a.mean(axis=1, keepdims=True)
    b = b.astype(np.float64) - b.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("kp,kp->k", a, a) * np.einsum("kp,kp->k", b, b))
    correlation: NDArray[np.float64] = np.einsum("kp,kp->k", a, b) / np.where(norm > 0, norm, 1)
    return correlation
