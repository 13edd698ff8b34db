"""Plain numpy twin of the consensus preset's scan: slow, short, and obviously right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["slice_evidence"]

Plane = NDArray[np.float64]


def slice_evidence(z_slice: NDArray[np.generic], grain_px: int = 2) -> dict[str, Plane]:
    """Measure one slice, attribute by attribute of `Evidence`."""
    pixels = z_slice.astype(np.float64)
    cut = [(0, -side % grain_px) for side in pixels.shape]
    grains = means(np.pad(pixels, cut, mode="edge"), grain_px)
    centred = grains - grains.mean()
    around = np.pad(centred, 2, mode="edge")
    neighbours = around[:-4, 2:-2] + around[4:, 2:-2] + around[2:-2, :-4] + around[2:-2, 4:]
    curve = 4 * centred - neighbours
    block_mean = means(centred, 4)
    window_mean = smooth(block_mean)
    contrast = smooth(means(centred**2, 4)) - window_mean**2
    halves = half_means(centred, block_mean)
    return {
        "contrast": contrast,
        "detail": smooth(means(curve**2, 4)) / 20,
        "mean": block_mean + grains.mean(),
        "brightest": highest(grains, 4),
        "high_pass": halves - box(halves, 5),
    }


def tiles(plane: Plane, side: int) -> list[list[Plane]]:
    """Cut a plane into squares; the last of each line may be smaller."""
    return [
        [plane[y : y + side, x : x + side] for x in range(0, plane.shape[1], side)]
        for y in range(0, plane.shape[0], side)
    ]


def means(plane: Plane, side: int) -> Plane:
    return np.array([[tile.mean() for tile in line] for line in tiles(plane, side)])


def highest(plane: Plane, side: int) -> Plane:
    return np.array([[tile.max() for tile in line] for line in tiles(plane, side)])


def half_means(grains: Plane, block_mean: Plane) -> Plane:
    """Return means over 2 × 2 grains; a half of a block beyond the edge takes its mean."""
    halves = np.repeat(np.repeat(block_mean, 2, axis=0), 2, axis=1)
    inside = means(grains, 2)
    halves[: inside.shape[0], : inside.shape[1]] = inside
    return halves


def smooth(blocks: Plane) -> Plane:
    """Weight every block's neighbourhood 1, 2, 1 along both axes; the outermost repeat."""
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    around = np.pad(blocks, 1, mode="edge")
    height, width = blocks.shape
    return np.array(
        [
            [(weights * around[y : y + 3, x : x + 3]).sum() for x in range(width)]
            for y in range(height)
        ]
    )


def box(plane: Plane, side: int) -> Plane:
    """Average over squares around each place; the outermost repeat."""
    around = np.pad(plane, side // 2, mode="edge")
    height, width = plane.shape
    return np.array(
        [[around[y : y + side, x : x + side].mean() for x in range(width)] for y in range(height)]
    )
