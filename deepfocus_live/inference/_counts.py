"""What cameras give, as the counts that the network takes.

Design Notes
------------
The network measures a slice against its own level and noise, so a slice times a gain, plus an
offset, is the same slice to it. Hence numbers that are no counts, or too large for 16 bits, may be
stretched over the range of counts, each slice by itself. What is lost is what lies below one count:
nothing, as long as the slice's noise spans several of the 65536 counts.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.frames import luminance
from deepfocus_live.model import MIN_SIDE

__all__ = ["as_counts"]

_TOP = 65535
_RED, _BLUE = 19595, 7471  # Rec. 601's 0.299 and 0.114, times 65536


def as_counts(z_slice: NDArray[Any]) -> NDArray[np.uint16]:
    """Return a slice as the network takes it.

    Whole numbers within 0..65535 are taken as they are, of whatever type, floating point included.
    Of any other slice the finite range is mapped to 0..65535 and rounded; NaN and -infinity become
    its lowest value, +infinity its highest. If that range is a single value, all are 0.

    Parameters
    ----------
    z_slice : (Y, X) or (Y, X, 3) or (Y, X, 4)
        Boolean, integer or floating point, of any byte order and layout; Y and X at least
        `MIN_SIDE`. Of colours, red, green and blue, the luminance of Rec. 601 is taken, rounded for
        integers; alpha is left out. Three equal planes give that plane.

    Returns
    -------
    (Y, X) uint16
        C-contiguous; the slice itself where it is so already.

    Raises
    ------
    InputError
        If the slice is of another shape or type, or too small.
    """
    _check(z_slice)
    z_slice = z_slice[..., :3] if z_slice.ndim == 3 else z_slice
    if z_slice.dtype.kind == "f":
        values = _all_finite(z_slice)
        return _stretched(_luminance_of_floats(values) if values.ndim == 3 else values)
    if z_slice.ndim == 3:
        if not _is_narrow(z_slice):
            return _stretched(_luminance_of_floats(z_slice.astype(np.float64)))
        z_slice = luminance(np.moveaxis(z_slice, -1, 0))
    if _is_narrow(z_slice) or (z_slice.min() >= 0 and z_slice.max() <= _TOP):
        return cast("NDArray[np.uint16]", np.ascontiguousarray(z_slice, dtype=np.uint16))
    return _stretched(z_slice.astype(np.float64))


def _check(z_slice: NDArray[Any]) -> None:
    colours = z_slice.ndim == 3 and z_slice.shape[2] in (3, 4)
    if not (z_slice.ndim == 2 or colours) or z_slice.dtype.kind not in "buif":
        raise InputError(
            f"a slice must be (Y, X), or (Y, X, 3 or 4) in colour, of integers or floating point "
            f"numbers, not {z_slice.shape} of {z_slice.dtype}"
        )
    if min(z_slice.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"a slice of {z_slice.shape[0]} x {z_slice.shape[1]} pixels is too small: the network "
            f"needs {MIN_SIDE} x {MIN_SIDE} at least"
        )


def _is_narrow(values: NDArray[Any]) -> bool:
    """Return whether every value of the type is a count."""
    return values.dtype.kind in "bu" and values.dtype.itemsize <= 2


def _luminance_of_floats(colours: NDArray[Any]) -> NDArray[Any]:
    """Return (Y, X) luminance of (Y, X, 3) finite numbers."""
    red, green, blue = colours[..., 0], colours[..., 1], colours[..., 2]
    # As differences from green: of three equal planes nothing but that plane is left.
    luminance: NDArray[Any] = green + (red - green) * (_RED / 65536)
    luminance += (blue - green) * (_BLUE / 65536)
    return luminance


def _all_finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return floats in the machine's byte order, what is not finite replaced.

    Where their range is no finite number, all are halved: differences are finite, too.
    """
    kind = np.float64 if values.dtype.itemsize > 4 else np.float32
    values = values.astype(kind, copy=False)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # either is NaN if any value is
        finite = values[np.isfinite(values)]
        if not finite.size:
            return np.zeros_like(values)
        low, high = finite.min(), finite.max()
        values = np.nan_to_num(values, nan=low, neginf=low, posinf=high)
    return values if high / 2 - low / 2 <= np.finfo(kind).max / 2 else values / 2


def _stretched(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return finite floats as counts: as they are, if they are counts, else from 0 to 65535."""
    low, high = float(values.min()), float(values.max())
    if low >= 0.0 and high <= _TOP and _are_whole(values):
        return np.ascontiguousarray(values, dtype=np.uint16)
    if low == high:
        return np.zeros(values.shape, np.uint16)
    # In three steps: a gain of all of it might be too large a number.
    counts: NDArray[Any] = values - values.dtype.type(low)
    counts /= values.dtype.type(high - low)
    counts *= _TOP
    np.rint(counts, out=counts)
    return np.ascontiguousarray(counts, dtype=np.uint16)


def _are_whole(values: NDArray[Any]) -> bool:
    # The first row tells of most slices.
    return all(np.array_equal(part, np.rint(part)) for part in (values[0], values))
