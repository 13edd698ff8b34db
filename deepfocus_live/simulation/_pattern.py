"""What a camera shows that is no specimen: stripes, uneven gain, dust."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError

__all__ = ["FixedPattern"]

_DUST_EDGE_PX = 8


@dataclass(frozen=True, kw_only=True)
class FixedPattern:
    """Marks that are the same in every slice of a stack.

    Attributes
    ----------
    stripes : float
        Root mean square of the difference between rows or columns, as a part of the light, >= 0.
    gain_spread : float
        Standard deviation of the pixels' gain, as a part of it, >= 0.
    dust_per_megapixel : float
        Specks on the camera's window, sharp in all slices, >= 0.

    Raises
    ------
    InputError
        If a value is below 0 or no finite number.
    """

    stripes: float = 0.0
    gain_spread: float = 0.0
    dust_per_megapixel: float = 0.0

    def __post_init__(self) -> None:
        for name in ("stripes", "gain_spread", "dust_per_megapixel"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}: give a number of 0 or more.")

    def draw(
        self, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return what the light is multiplied by, and where dust lies.

        Parameters
        ----------
        shape : (int, int)
            Height and width.
        rng : numpy.random.Generator

        Returns
        -------
        factor : (Y, X) float32
            About 1, never negative.
        dusty : (Y, X) bool
            On a speck, and up to 8 pixels round it.
        """
        factor = np.ones(shape, np.float32)
        if self.stripes:
            lines = (shape[0], 1) if rng.random() < 0.5 else (1, shape[1])
            factor += np.float32(self.stripes) * rng.standard_normal(lines, np.float32)
        if self.gain_spread:
            factor += np.float32(self.gain_spread) * rng.standard_normal(shape, np.float32)
        dusty = np.zeros(shape, np.bool_)
        for _ in range(int(rng.poisson(self.dust_per_megapixel * shape[0] * shape[1] / 1e6))):
            _add_speck(factor, dusty, rng)
        return np.maximum(factor, 0, out=factor), dusty


def _add_speck(
    factor: NDArray[np.float32], dusty: NDArray[np.bool_], rng: np.random.Generator
) -> None:
    """Darken `factor` by one speck with a crisp edge, and mark its place."""
    height, width = factor.shape
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    radius, darkness = rng.uniform(1.0, 5.0), rng.uniform(0.1, 0.6)
    reach = math.ceil(1.6 * radius) + _DUST_EDGE_PX + 1
    top, left = max(int(centre_y) - reach, 0), max(int(centre_x) - reach, 0)
    place = (slice(top, int(centre_y) + reach), slice(left, int(centre_x) + reach))
    y, x = np.ogrid[: factor[place].shape[0], : factor[place].shape[1]]
    distance = np.hypot(y + top - centre_y, (x + left - centre_x) * rng.uniform(0.6, 1.0))
    factor[place] *= 1 - np.float32(darkness) * np.clip(radius - distance + 0.5, 0, 1)
    dusty[place] |= distance < radius + _DUST_EDGE_PX
