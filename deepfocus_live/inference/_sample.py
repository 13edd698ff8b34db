"""A made slice that engines are tried and compared on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_DIFFERING", "SAMPLE_PX", "differing", "made_slice"]

MOST_DIFFERING = 0.002
"""Part of the pixels in which two engines' masks may differ and yet be called the same."""

SAMPLE_PX = 512
"""Side of the slice that is made for it."""

_OFFSET, _NOISE, _DETAIL = 20_000.0, 20.0, 300.0  # counts
_PERIOD_PX, _GRAIN_PX = 128, 3


def made_slice(side: int) -> NDArray[np.uint16]:
    """Return (side, side) counts: noise on a high offset, with grainy patches that fade out.

    Both answers of the network occur, and all in between. The offset is one at which arithmetic in
    half precision loses the detail.
    """
    random = np.random.default_rng(0)
    grains = random.choice([-1.0, 1.0], (side // _GRAIN_PX + 1, side // _GRAIN_PX + 1))
    texture = np.kron(grains, np.ones((_GRAIN_PX, _GRAIN_PX)))[:side, :side]
    wave = np.sin(np.arange(side) * (2 * np.pi / _PERIOD_PX))
    strength = np.maximum(np.outer(wave, wave), 0.0) ** 2
    counts = random.normal(_OFFSET, _NOISE, (side, side)) + _DETAIL * strength * texture
    return counts.astype(np.uint16)


def differing(mask: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the part of the pixels in which two masks differ, 0..1."""
    return float(np.mean(mask != other))
