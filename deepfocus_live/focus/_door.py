"""What this room accepts: checked once at the door, trusted inside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["TOO_BRIGHT", "accepted_dtypes", "checked_shape", "checked_slice"]

accepted_dtypes = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))

TOO_BRIGHT = "a score of this slice is beyond float32: divide its pixels by their largest first"


def checked_slice(z_slice: ArrayLike) -> NDArray[Any]:
    """Return `z_slice` as the kernels want it, copied only where it must be.

    Parameters
    ----------
    z_slice : (Y, X) uint8, uint16 or float32
        Any byte order, any strides, read-only or not.

    Returns
    -------
    (Y, X) uint8, uint16 or float32
        Native byte order, C-contiguous, aligned, a read-only view where nothing
        had to be copied.

    Raises
    ------
    ValueError
        If the array is not 2-D, is empty, has another dtype, or holds NaN or infinity.
    """
    array = np.asarray(z_slice)
    if array.ndim != 2:
        raise ValueError(f"a slice is 2-D (Y, X), this array has shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"a slice needs at least one pixel, this one has shape {array.shape}")
    native = array.dtype.newbyteorder("=")
    if native not in accepted_dtypes:
        names = ", ".join(dtype.name for dtype in accepted_dtypes)
        raise ValueError(f"slices are {names}; this one is {array.dtype.name}: convert it first")
    ready = np.require(array, dtype=native, requirements=["C", "A"]).view()
    if native.kind == "f" and not np.isfinite(ready).all():
        raise ValueError("the slice holds NaN or infinity: focus cannot be scored there")
    # numba compiles once per mutability: show it one kind only.
    ready.flags.writeable = False
    return ready


def checked_shape(shape_yx: tuple[int, int]) -> tuple[int, int]:
    """Return `shape_yx` as two plain ints >= 1, or raise ValueError."""
    if len(shape_yx) != 2 or min(shape_yx) < 1:
        raise ValueError(f"the shape of a slice is (Y, X), both at least 1, not {shape_yx}")
    return int(shape_yx[0]), int(shape_yx[1])
