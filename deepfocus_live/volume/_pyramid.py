"""Pyramid levels of one slice: each pixel of a level is what four below it say."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["halve_labels", "halve_mean", "level_count"]


def level_count(height_px: int, width_px: int, *, smallest_px: int = 256) -> int:
    """Return how many levels, the full one included, until the longer side is small enough."""
    levels = 1
    while max(height_px, width_px) > smallest_px:
        height_px, width_px = (height_px + 1) // 2, (width_px + 1) // 2
        levels += 1
    return levels


def _halve(image: NDArray[np.unsignedinteger], out: NDArray[np.unsignedinteger]) -> None:
    height, width = image.shape
    for y in range(out.shape[0]):
        top, bottom = 2 * y, min(2 * y + 1, height - 1)
        for x in range(out.shape[1]):
            left, right = 2 * x, min(2 * x + 1, width - 1)
            total = np.int64(image[top, left]) + np.int64(image[top, right])
            total += np.int64(image[bottom, left]) + np.int64(image[bottom, right])
            out[y, x] = (total + 2) // 4


@cache
def _compiled_halve() -> Callable[..., Any]:
    import numba  # slow to import

    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(_halve)
    return compiled


def halve_mean(image: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Return the 2 × 2 mean, rounded half up; an odd edge is repeated.

    Parameters
    ----------
    image : (Y, X) or (3, Y, X) uint8 or uint16

    Returns
    -------
    (ceil(Y/2), ceil(X/2)) or (3, ceil(Y/2), ceil(X/2)), same dtype
    """
    if image.ndim == 3:
        return np.stack([halve_mean(plane) for plane in image])
    out = np.empty(((image.shape[0] + 1) // 2, (image.shape[1] + 1) // 2), image.dtype)
    _compiled_halve()(np.ascontiguousarray(image), out)
    return out


def halve_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return every second pixel: labels are never averaged."""
    return labels[::2, ::2]
