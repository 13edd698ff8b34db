"""Whether labels belong to the slices they lie beside, asked of the pixels alone.

The scores that a rule was found by say nothing of that: where labels of other slices, or of a
specimen that has moved since, were stored, their scores have moved with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["LEAST_SHARPER", "sharpness_over_z"]

LEAST_SHARPER = 1.0
"""Labels of the wrong slices lie below; the rules' own, on simulated and on real stacks, above."""

_LEAST_SLICES = 3
_WINDOW_BLOCKS = 5


def sharpness_over_z(
    slices: NDArray[np.unsignedinteger[Any]], target: NDArray[np.uint8]
) -> float | None:
    """Return how much sharper the pixels are where labels call them in focus.

    Parameters
    ----------
    slices : (Z, Y, X) uint8 or uint16
    target : (Z, Y // block, X // block) uint8
        1 where in focus.

    Returns
    -------
    float or None
        Energy of the gradient over its median over z at the same place, the median over all that is
        in focus: above 1 where labels are those of the sharper slices. None where nothing is in
        focus, and of fewer than three slices.
    """
    in_focus = target == 1
    if len(slices) < _LEAST_SLICES or not in_focus.any():
        return None
    energy = np.stack([_gradient_energy(plane, target.shape[1:]) for plane in slices])
    usual = np.maximum(np.median(energy, axis=0), np.finfo(np.float32).tiny)
    _, rows, columns = np.nonzero(in_focus)
    return float(np.median(energy[in_focus] / usual[rows, columns]))


def _gradient_energy(
    plane: NDArray[np.unsignedinteger[Any]], blocks: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the mean squared gradient around each block, relative to the brightness."""
    height, width = blocks
    block = plane.shape[0] // height
    counts = plane[: height * block, : width * block].astype(np.float32)
    counts /= max(float(counts.mean()), 1.0)
    squared = np.zeros_like(counts)
    squared[1:] += np.diff(counts, axis=0) ** 2
    squared[:, 1:] += np.diff(counts, axis=1) ** 2
    means = squared.reshape(height, block, width, block).mean(axis=(1, 3))
    pooled: NDArray[np.float32] = ndimage.uniform_filter(means, _WINDOW_BLOCKS)
    return pooled
