"""Focus scores against reading the pixels, and against the scan written plainly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.bench._table import Row, medians
from deepfocus_live.focus import focus_score_blocks

__all__ = ["measure"]

_WINDOW, _STRIDES = 128, (16, 32, 64, 128)


def measure() -> list[Row]:
    """Return the rows of the group `focus`."""
    image = np.random.default_rng(0).integers(0, 4096, (1024, 1344), np.uint16)
    target = np.empty_like(image)
    scan, plain, copy = medians(
        lambda: focus_score_blocks(image, windows_px=(_WINDOW,), strides_px=_STRIDES),
        lambda: _plain_scan(image),
        lambda: np.copyto(target, image),
        repeat=50,
    )
    name = "std scan of a 1024 × 1344 slice, window 128, strides 16-128"
    return [
        Row("focus", name, 1e3 * scan, "ms", "plain numpy loop", 1e3 * plain),
        Row("focus", name, 1e3 * scan, "ms", "memcpy of the slice", 1e3 * copy, goal=3.0),
    ]


def _plain_scan(image: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the same scan as numpy users write it: every window's std, mean where they overlap."""
    best = np.zeros(image.shape, np.float32)
    for stride in _STRIDES:
        total, cover = np.zeros(image.shape), np.zeros(image.shape)
        for y in range(0, image.shape[0], stride):
            for x in range(0, image.shape[1], stride):
                window = (slice(y, y + _WINDOW), slice(x, x + _WINDOW))
                total[window] += image[window].std()
                cover[window] += 1
        np.maximum(best, total / cover, out=best)
    return best
