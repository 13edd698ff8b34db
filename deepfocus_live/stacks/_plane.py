"""What one slice may look like, and how it becomes (Y, X)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError

__all__ = ["checked_dtype", "checked_plane"]

_KEPT = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def checked_dtype(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Return `dtype` in native byte order; InputError if it is none that is kept."""
    native = dtype.newbyteorder("=")
    if native not in _KEPT:
        raise InputError(
            f"{where} is {dtype.name}; stacks are uint8, uint16 or float32: convert it first"
        )
    return native


def checked_plane(raw: NDArray[Any], where: str) -> NDArray[Any]:
    """Return a decoded image as (Y, X), native byte order.

    Three equal colour channels, as many microscopes write them, become one; a
    fourth (alpha) is ignored.

    Raises
    ------
    InputError
        If it is a colour image or of another dtype; `where` begins the message.
    """
    plane = raw
    if raw.ndim == 3 and raw.shape[-1] not in (1, 3, 4):
        plane = np.moveaxis(raw, 0, -1)  # planes stored one after the other
    if plane.ndim == 3 and plane.shape[-1] == 1:
        plane = plane[..., 0]
    if plane.ndim == 3 and plane.shape[-1] in (3, 4):
        first = plane[..., 0]
        if not (np.array_equal(first, plane[..., 1]) and np.array_equal(first, plane[..., 2])):
            raise InputError(
                f"{where} is a colour image (its channels differ): save one channel as greyscale"
            )
        plane = first
    if plane.ndim != 2:
        raise InputError(f"{where} has shape {raw.shape}: a slice is 2-D, save it as greyscale")
    return np.ascontiguousarray(plane, dtype=checked_dtype(plane.dtype, where))
