"""A slice made small and 8-bit for the screen, its mask made as small."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["shrink_factor", "shrink_mask", "shrink_slice"]

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
    z_slice : (Y, X) uint8 or uint16
        Camera counts.
    factor : int
        Side of a block; rows and columns left over at the end are cut off.
    low, high : float
        Counts that become black and white.

    Returns
    -------
    (Y // factor, X // factor) uint8
    """
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
