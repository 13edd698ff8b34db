"""A slice and what belongs to it, made into the parts of a message, with what a header says of it.

Whatever is drawn, is drawn from arrays alone: no state, no thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import RunSpec
from deepfocus_live.web._contrast import Contrast
from deepfocus_live.web._curves import finite
from deepfocus_live.web._encode import encode_mask, encode_picture, encode_probability
from deepfocus_live.web._message import JPEG, PNG, Part
from deepfocus_live.web._shrink import shrink_any, shrink_factor, shrink_mask, shrink_slice
from deepfocus_live.web._source import StoredSlice

__all__ = [
    "NO_MASK",
    "display_of",
    "draw_mask",
    "draw_probability",
    "draw_slice",
    "draw_stored_mask",
    "most_counts",
    "probability_factor",
]

Header = dict[str, Any]

NO_MASK: Final[Mapping[str, Any]] = {
    "mask": None,
    "threshold": None,
    "probability_factor": None,
}
"""What a header says of a mask that is not made yet."""


def draw_slice(
    z_slice: NDArray[Any], contrast: Contrast, max_counts: int
) -> tuple[Header, list[Part]]:
    """Return header and parts of a slice, (Y, X) or (3, Y, X): its picture, and what is saturated.

    Parameters
    ----------
    max_counts : int
        What the camera gives at most.
    """
    full = z_slice.shape[-2:]
    factor = shrink_factor(*full)
    picture = shrink_slice(z_slice, factor=factor, low=contrast.low, high=contrast.high)
    header = {
        "width": picture.shape[1],
        "height": picture.shape[0],
        "factor": factor,
        "full_width": full[1],
        "full_height": full[0],
        "colour": z_slice.ndim == 3,
        "display": {**display_of(contrast), "max_counts": max_counts},
    }
    parts = [Part("picture", JPEG, encode_picture(picture))]
    fraction = 0.0
    # The maximum first: it costs a tenth of the comparison, and most slices are below.
    if z_slice.max() >= max_counts:
        flags: NDArray[np.bool_] = z_slice >= max_counts
        if flags.ndim == 3:
            flags = np.any(flags, axis=0)
        fraction = float(np.count_nonzero(flags)) / flags.size
        parts.append(Part("saturated", PNG, encode_mask(shrink_any(flags, factor=factor))))
    return {**header, "saturated_fraction": round(fraction, 8)}, parts


def display_of(contrast: Contrast) -> dict[str, float]:
    """Return a contrast as headers say it."""
    return {"low": round(contrast.low, 3), "high": round(contrast.high, 3)}


def draw_mask(name: str, mask: NDArray[Any]) -> Part:
    """Return a mask (Y, X) as a part, as large as its slice's picture."""
    factor = shrink_factor(*mask.shape)
    return Part(name, PNG, encode_mask(shrink_mask(mask, factor=factor)))


def draw_probability(probability: NDArray[np.uint8]) -> Part:
    """Return a probability (Y, X) uint8 as a part, at its own resolution."""
    return Part("probability", PNG, encode_probability(probability))


def probability_factor(
    full_shape: tuple[int, ...], probability: NDArray[np.uint8] | None
) -> int | None:
    """Return how many pixels of a slice one of its probability stands for, each way."""
    if probability is None:
        return None
    sides = zip(full_shape[-2:], probability.shape, strict=True)
    return max(-(-full // int(own)) for full, own in sides)


def most_counts(spec: RunSpec | None, pixels: NDArray[Any]) -> int:
    """Return what the camera gives at most: by its bits, else by the type of its pixels."""
    if spec is not None and spec.bits_per_sample is not None:
        return int(2**spec.bits_per_sample) - 1
    return int(np.iinfo(pixels.dtype).max)


def draw_stored_mask(read: StoredSlice) -> tuple[Mapping[str, Any], list[Part]]:
    """Return what a header says of a stored slice's mask, and the parts that belong to it."""
    told, parts = NO_MASK, []
    if read.mask is not None:
        fraction = float(np.count_nonzero(read.mask)) / read.mask.size
        told = {
            "mask": {"in_focus_fraction": finite(fraction)},
            "threshold": finite(read.threshold),
            "probability_factor": probability_factor(read.mask.shape, read.probability),
        }
        parts.append(draw_mask("mask", read.mask))
        if read.probability is not None:
            parts.append(draw_probability(read.probability))
    if read.undecided is not None:
        parts.append(draw_mask("undecided", read.undecided))
    return told, parts
