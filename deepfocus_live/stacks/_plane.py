"""What one slice may look like, and how it becomes (Y, X)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError

__all__ = ["checked_dtype", "checked_plane"]

_KEPT = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def checked_dtype(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Return the type that pixels of `dtype` are read as.

    uint8, uint16 and float32 are kept. Other integers, which label images often are, become uint16
    if their values allow it; booleans become uint8.

    Raises
    ------
    InputError
        If it is none of these; `where` begins the message.
    """
    native = dtype.newbyteorder("=")
    if native in _KEPT:
        return native
    if native.kind == "b":
        return np.dtype(np.uint8)
    if native.kind in "iu":
        return np.dtype(np.uint16)
    raise InputError(f"{where} is {dtype.name}; stacks are integers or float32: convert it first")


def checked_plane(raw: NDArray[Any], where: str) -> NDArray[Any]:
    """Return a decoded image as (Y, X), native byte order.

    Three equal colour channels, as many microscopes write them, become one; a
    fourth (alpha) is ignored.

    Raises
    ------
    InputError
        If it is a colour image, of another dtype, or of integers that are no uint16; `where`
        begins the message.
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
    dtype = checked_dtype(plane.dtype, where)
    if plane.dtype.kind in "iu" and plane.dtype.newbyteorder("=") != dtype:
        low, high = int(plane.min()), int(plane.max())
        if low < 0 or high > np.iinfo(dtype).max:
            raise InputError(
                f"{where} has values from {low} to {high}; {dtype.name} holds 0 to "
                f"{np.iinfo(dtype).max}: convert it first"
            )
    return np.ascontiguousarray(plane, dtype=dtype)
