"""Plain numpy twins of the fast code: slow, short, and obviously right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["axial_rule", "focus_score_map", "stack_otsu_rule"]


def focus_score_map(
    z_slice: NDArray[np.generic],
    *,
    windows_px: Sequence[int],
    strides_px: Sequence[int],
    overlap: str,
) -> NDArray[np.float64]:
    """Write the standard deviation of every window over its pixels; keep the best of all scans."""
    pixels = z_slice.astype(np.float64)
    best = np.full(pixels.shape, -np.inf)
    for window in windows_px:
        for stride in strides_px:
            total, covered = np.zeros(pixels.shape), np.zeros(pixels.shape, int)
            for top in range(0, pixels.shape[0], stride):
                for left in range(0, pixels.shape[1], stride):
                    inside = np.s_[top : top + window, left : left + window]
                    total[inside] += pixels[inside].std()
                    covered[inside] += 1
            value = total / np.maximum(covered, 1) if overlap == "mean" else total
            best = np.where(covered > 0, np.maximum(best, value), best)
    return np.where(np.isneginf(best), 0.0, best)


def axial_rule(
    scores: NDArray[np.float32], *, threshold: float, rise: float = 0.8
) -> NDArray[np.bool_]:
    """Label where a place has risen `rise` of the way to a best above `threshold`."""
    label = np.zeros(scores.shape, bool)
    for y, x in np.ndindex(scores.shape[1:]):
        curve = scores[:, y, x]
        low, high = curve.min(), curve.max()
        if high > threshold and high > low:
            label[:, y, x] = curve >= low + np.float32(rise) * (high - low)
    return label


def stack_otsu_rule(scores: NDArray[np.float32], *, threshold: float) -> NDArray[np.bool_]:
    """Label where the score is above `threshold`, whatever the slice."""
    return np.array([[row > threshold for row in z_slice] for z_slice in scores])
