"""The camera's noise, measured in the stack itself: detail where there is none to see.

Shot noise grows with brightness, so the slices' places are sorted by brightness, and
in each class the quietest tenth is taken for noise alone. A chi-squared quantile says
how far below the mean a quietest tenth lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._evidence import DETAIL_SPREAD
from deepfocus_live.focus._jit import kernel

__all__ = ["NoiseModel", "measure_noise"]

_CLASSES = 12
_QUIETEST = 0.1
_QUIETEST_SIGMAS = -1.2816
_MOST_SAMPLES = 12_000  # a thousand per class: their quietest tenth's edge is good to 2 %


@dataclass(frozen=True)
class NoiseModel:
    """Variance of one grain's noise by brightness.

    Attributes
    ----------
    brightness : (N,) float64
        Counts, strictly ascending.
    variance : (N,) float64
        Counts squared, > 0; constant beyond either end.
    """

    brightness: NDArray[np.float64]
    variance: NDArray[np.float64]

    def at(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the variance where the mean count is `mean`, of its shape."""
        levels = (
            mean.ravel(),
            self.brightness.astype(np.float32),
            self.variance.astype(np.float32),
        )
        variance = np.empty(mean.size, np.float32)
        _interpolate(*levels, variance)
        return variance.reshape(mean.shape)


def measure_noise(detail: NDArray[np.float32], mean: NDArray[np.float32]) -> NoiseModel:
    """Measure the noise of one stack.

    Parameters
    ----------
    detail, mean : (Z, By, Bx) float32
        From `Evidence`, not corrected for brightness.

    Returns
    -------
    NoiseModel
        Too high where hardly any place is ever out of focus: then little is called
        in focus.
    """
    step = max(1, detail.size // _MOST_SAMPLES)
    while math.gcd(step, detail.shape[-1]) > 1:  # or the same few columns come every time
        step += 1
    levels, energies = mean.ravel()[::step], detail.ravel()[::step]
    order = np.argsort(levels)
    n_classes = min(_CLASSES, len(order))
    order = order[: len(order) // n_classes * n_classes].reshape(n_classes, -1)
    edge = int(_QUIETEST * order.shape[1])
    quiet = np.partition(energies[order], edge, axis=1)[:, edge].astype(np.float64)
    variance = np.maximum(quiet / _quiet_share(), np.finfo(np.float32).tiny)
    brightness, first = np.unique(levels[order].mean(axis=1, dtype=np.float64), return_index=True)
    return NoiseModel(brightness, variance[first])


def _quiet_share() -> float:
    """Return the quietest tenth's edge as a share of the mean (Wilson and Hilferty 1931)."""
    cube = 2 / (9 * (2 / DETAIL_SPREAD**2))
    return float((1 - cube + _QUIETEST_SIGMAS * np.sqrt(cube)) ** 3)


@kernel
def _interpolate(
    x: NDArray[np.float32],
    knots: NDArray[np.float32],
    values: NDArray[np.float32],
    y: NDArray[np.float32],
) -> None:
    """Do what `np.interp` does, as a sum of ramps: many at once where it takes one by one."""
    y[:] = values[0]
    for k in range(len(knots) - 1):
        left, length = knots[k], knots[k + 1] - knots[k]
        if length <= 0:
            continue
        slope = (values[k + 1] - values[k]) / length
        for i in range(len(x)):
            way = x[i] - left
            way = way if way > 0 else np.float32(0)
            y[i] += slope * (way if way < length else length)
