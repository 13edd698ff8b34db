"""What a slice is measured against: its level and its noise, in plain arrays.

Design Notes
------------
The network measures these two itself, in torch and in its graph (`BlockStem.noise`). Here they are
measured without either, of slices that neither could hold: only every fourth block each way is
looked at, so a sixteenth of the pixels is gathered and nothing else is copied. What both ways must
share stands here.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["COUNT_NOISE", "QUARTILE", "STATISTICS", "STATISTICS_STRIDE", "measure_statistics"]

STATISTICS = ("level", "noise_variance")
"""Names, in every graph, of what `measure_statistics` returns; each (N,) float32."""

COUNT_NOISE = 0.25
"""Counts squared; what is added to every variance, so that a constant field has a finite log."""

STATISTICS_STRIDE = 4  # every 4th block each way is enough for a median, and 16 times cheaper

# Lower quartile of the mean of 4 squares (blocks of 4 pixels) or 1 (of 2) of normal numbers.
QUARTILE = {4: 0.481, 2: 0.1015}


def measure_statistics(
    z_slice: NDArray[np.uint16], *, reduction: int, noise: str
) -> tuple[np.float32, np.float32]:
    """Return a slice's level and noise variance, as the network of an architecture sees them.

    Parameters
    ----------
    z_slice : (Y, X) uint16
        Raw camera counts; Y and X at least `MIN_SIDE`.
    reduction : {1, 2, 4}
        Pixels per block each way, of the architecture.
    noise : {"diagonal", "median"}
        How the architecture measures noise.

    Returns
    -------
    level : float32
        Counts: the median over blocks.
    noise_variance : float32
        Counts squared, at least `COUNT_NOISE`.
    """
    # Pixels have no detail of their own: for blocks of one pixel those of 4 x 4 are measured.
    side = 4 if reduction == 1 else reduction
    coefficients = _sparse_blocks(z_slice, side) @ _hadamard(side**2) / np.float32(side)
    level = _quartile(coefficients[:, 0] / np.float32(side), 2)
    if noise == "median":
        detail = (coefficients[:, 1:] ** 2).mean(axis=1)
        return level, _quartile(detail + np.float32(COUNT_NOISE), 2)
    diagonal = [k for k in range(side**2) if k & side and k & 1]
    quietest = _quartile((coefficients[:, diagonal] ** 2).mean(axis=1), 1)
    return level, quietest / np.float32(QUARTILE[side]) + np.float32(COUNT_NOISE)


def _sparse_blocks(z_slice: NDArray[np.uint16], side: int) -> NDArray[np.float32]:
    """Return every fourth `side` x `side` block each way, (blocks, side**2)."""
    rows, columns = (length // side for length in z_slice.shape)
    whole = z_slice[: rows * side, : columns * side].reshape(rows, side, columns, side)
    sparse = whole[::STATISTICS_STRIDE, :, ::STATISTICS_STRIDE].transpose(0, 2, 1, 3)
    return sparse.astype(np.float32, order="C").reshape(-1, side**2)


def _hadamard(size: int) -> NDArray[np.float32]:
    """Return Sylvester's (size, size) matrix of +1 and -1, which is symmetric."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _quartile(values: NDArray[np.float32], quarters: int) -> np.float32:
    rank = len(values) * quarters // 4
    return cast("np.float32", np.partition(values, rank)[rank])
