"""A slice made small and 8-bit for the screen, its mask made as small."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["shrink_any", "shrink_factor", "shrink_mask", "shrink_slice"]

_LONG_SIDE_PX = 1024
# Rows summed at a time: what they need stays in the cache, which makes
# 2048 x 2048 four times faster than the whole slice at once.
_BAND_ROWS = 128


def shrink_factor(height_px: int, width_px: int) -> int:
    """Return the whole number that brings the long side nearest to 1024 px.

    Nearest and not below, so that 1344 px stay as they are: half of them would
    look soft on any screen.
    """
    factor = round(max(height_px, width_px) / _LONG_SIDE_PX)
    return max(1, min(factor, height_px, width_px))


def shrink_slice(
    z_slice: NDArray[Any], *, factor: int, low: float, high: float
) -> NDArray[np.uint8]:
    """Return block means, `low` … `high` counts stretched to 0 … 255.

    Parameters
    ----------
    z_slice : (Y, X) or (3, Y, X) uint8 or uint16
        Camera counts; of three planes red, green and blue.
    factor : int
        Side of a block; rows and columns left over at the end are cut off.
    low, high : float
        Counts that become black and white.

    Returns
    -------
    (Y // factor, X // factor) uint8, of colours with a last axis of 3
    """
    if z_slice.ndim == 3:
        planes = [shrink_slice(plane, factor=factor, low=low, high=high) for plane in z_slice]
        return np.stack(planes, axis=-1)
    height, width = (side // factor for side in z_slice.shape)
    table = _grey_table(low, high)
    small = np.empty((height, width), np.uint8)
    step = max(1, _BAND_ROWS // factor)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        band = z_slice[top * factor : bottom * factor, : width * factor]
        # mode="clip" spares numpy a bounds check; no mean of uint16 is out of bounds.
        np.take(table, _block_means(band, factor), mode="clip", out=small[top:bottom])
    return small


def shrink_mask(mask: NDArray[Any], *, factor: int) -> NDArray[np.uint8]:
    """Return the mask at the middles of the blocks that `shrink_slice` averages."""
    height, width = (side // factor for side in mask.shape)
    middle = factor // 2
    picked = mask[middle::factor, middle::factor][:height, :width]
    return np.ascontiguousarray(picked, np.uint8)


def shrink_any(flags: NDArray[np.bool_], *, factor: int) -> NDArray[np.uint8]:
    """Return 1 for each block of `shrink_slice` in which any of `flags` (Y, X) is set."""
    height, width = (side // factor for side in flags.shape)
    cut = flags[: height * factor, : width * factor]
    blocks = cut.reshape(height, factor, width, factor)
    return np.ascontiguousarray(blocks.any(axis=(1, 3)), np.uint8)


def _block_means(band: NDArray[Any], factor: int) -> NDArray[Any]:
    if factor == 1:
        return band
    rows = band[0::factor].astype(np.uint32)
    for k in range(1, factor):
        rows += band[k::factor]
    total = rows[:, 0::factor].copy()
    for k in range(1, factor):
        total += rows[:, k::factor]
    total //= factor * factor
    return total


@lru_cache(maxsize=32)
def _grey_table(low: float, high: float) -> NDArray[np.uint8]:
    counts = np.arange(65536, dtype=np.float32)
    grey = (counts - low) * (255 / max(high - low, 1e-6))
    return grey.clip(0, 255).round().astype(np.uint8)
