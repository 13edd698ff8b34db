"""Lateral drift: how far the specimen moves from slice to slice.

A drifting stage moves a place out of its own axial curve. Neighbouring slices are
compared by normalised cross-correlation of their block means, high-passed so that
vignetting does not hold them in place; the shifts add up over the stack.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._jit import kernel

__all__ = ["measure_drift"]

_LINE = 1024
_FARTHEST_BLOCKS = 6
_LEAST_BEND = -0.01
_LEAST_CORRELATION = 0.5  # below it two slices have too little in common to be compared


def measure_drift(mean: NDArray[np.float32], block_px: int) -> NDArray[np.float64]:
    """Return where the specimen lies in each slice, beside the first one.

    By the peak of the cross-correlation of neighbouring slices, finer than a block
    [GuizarSicairos2008]_.

    Parameters
    ----------
    mean : (Z, By, Bx) float32
        Mean counts of every block.
    block_px : int
        Side of a block in pixels.

    Returns
    -------
    (Z, 2) float64
        Pixels along y and x, good to about a tenth of a block. Slices that have too
        little in common with the one before count as not moved.

    References
    ----------
    .. [GuizarSicairos2008] Guizar-Sicairos et al. (2008), doi:10.1364/OL.33.000156; ours is
       at block resolution with a parabola through the peak.
    """
    shifts = np.zeros((len(mean), 2))
    if min(mean.shape[1:]) < 2 * _FARTHEST_BLOCKS:
        return shifts
    fine = np.zeros((len(mean), mean.shape[1] + 2, mean.shape[2] + 2), np.float32)
    soft = np.empty(mean.shape, np.float32)
    _soften(np.pad(mean, ((0, 0), (1, 1), (1, 1)), mode="edge"), soft)
    _high_pass(soft, fine)
    near = np.zeros((len(mean) - 1, 3, 3))
    _correlate_near(fine.reshape(len(fine), -1), fine.shape[2], near)
    # Patterns that move differently share a correlation of 1 between them: a peak above
    # a half is the highest, and farther shifts need no look.
    middle = near[:, 1, 1]
    known = (middle >= 0.5) & (middle >= near.max(axis=(1, 2)))
    sides = mean.shape[1:]
    shifts[1:][known] = np.reshape([_peak(one, sides) for one in near[known]], (-1, 2))
    moved = 1 + np.flatnonzero(~known)
    if len(moved):
        far = _correlate_far(fine[:, 1:-1, 1:-1], moved)
        shifts[moved] = [_peak(correlation, sides) for correlation in far]
    return np.cumsum(shifts, axis=0) * block_px


def _common(side: int, farthest: int) -> NDArray[np.float64]:
    """Return which share of a side two slices still have in common, by shift.

    What they do not share adds nothing to their correlation: without this a shift looks
    smaller than it is.
    """
    return 1 - np.abs(np.arange(-farthest, farthest + 1)) / side


@kernel
def _soften(padded: NDArray[np.float32], soft: NDArray[np.float32]) -> None:
    """Fill `soft` with neighbouring blocks weighted 1, 2, 1 along both axes.

    Detail finer than two blocks makes a correlation peak so narrow that the parabola
    through its three highest values is drawn to the middle one.
    """
    for z in range(len(soft)):
        for y in range(soft.shape[1]):
            above, here, below = padded[z, y], padded[z, y + 1], padded[z, y + 2]
            down = above + np.float32(2) * here + below
            out = soft[z, y]
            for x in range(len(out)):
                out[x] = np.float32(1 / 16) * (down[x] + np.float32(2) * down[x + 1] + down[x + 2])


@kernel
def _high_pass(mean: NDArray[np.float32], fine: NDArray[np.float32]) -> None:
    """Fill `fine`, but for a border of one, with what is left of slices less means over 9 × 9.

    The outermost blocks repeat. The squares of each slice add up to 1.
    """
    height, width = mean.shape[1:]
    down = np.empty(width + 8)
    energies = np.empty(width)
    for z in range(len(mean)):
        for x in range(width):
            down[x + 4] = energies[x] = 0
        for y in range(-9, height):
            # Sums over 9 lines, kept up by the one that enters and the one that leaves.
            enters = mean[z, min(max(y + 4, 0), height - 1)]
            if y < 0:
                for x in range(width):
                    down[x + 4] += np.float64(enters[x])
                continue
            leaves = mean[z, max(y - 5, 0)]
            here, left = mean[z, y], fine[z, y + 1, 1:-1]
            for x in range(width):
                down[x + 4] += np.float64(enters[x]) - np.float64(leaves[x])
            for k in range(4):
                down[k], down[width + 4 + k] = down[4], down[width + 3]
            for x in range(width):
                first = (down[x] + down[x + 1]) + (down[x + 2] + down[x + 3])
                last = (down[x + 5] + down[x + 6]) + (down[x + 7] + down[x + 8])
                left[x] = here[x] - (first + down[x + 4] + last) / 81
            for x in range(width):
                energies[x] += left[x] * left[x]
        power = 0.0
        for x in range(width):
            power += energies[x]
        scale = np.float32(1 / np.sqrt(power) if power > 0 else 1)
        for y in range(1, height + 1):
            for x in range(1, width + 1):
                fine[z, y, x] *= scale


@kernel
def _correlate_near(planes: NDArray[np.float32], width: int, near: NDArray[np.float64]) -> None:
    """Fill the correlations of neighbouring slices, (Z − 1, 3, 3), shifted by one block at most.

    `planes` (Z, Y · X) have a border of zeros, so that what a shift carries around a
    line's end does not count.
    """
    n_pixels = planes.shape[1]
    sums = np.empty(_LINE, np.float32)
    for z in range(len(near)):
        for j in range(3):
            for i in range(3):
                shift = (j - 1) * width + i - 1
                before, here = planes[z, max(-shift, 0) :], planes[z + 1, max(shift, 0) :]
                sums[:] = 0
                for start in range(0, n_pixels - abs(shift), _LINE):
                    length = min(_LINE, n_pixels - abs(shift) - start)
                    one, other = before[start : start + length], here[start : start + length]
                    for x in range(length):
                        sums[x] += one[x] * other[x]
                near[z, j, i] = sums.sum()


def _correlate_far(fine: NDArray[np.float32], z: NDArray[np.int64]) -> NDArray[np.float32]:
    """Correlate slices `z` with the ones before at all shifts up to the farthest, (N, 13, 13).

    So few shifts are cheaper from the spectrum by its definition, as two matrix
    products, than by a whole inverse transform.
    """
    import scipy.fft  # slow to import

    # Zeros around it: what moves out on one side must not come in on the other.
    height, width = (
        scipy.fft.next_fast_len(side + _FARTHEST_BLOCKS, real=True) for side in fine.shape[1:]
    )
    of_plane = {k: scipy.fft.rfft2(fine[k], s=(height, width)) for k in {*z, *(z - 1)}}
    shifts = np.arange(-_FARTHEST_BLOCKS, _FARTHEST_BLOCKS + 1)
    rows, columns = np.arange(height), np.arange(width // 2 + 1)
    # Columns beyond the middle mirror those before it and are left out.
    twice = np.where((columns == 0) | (2 * columns == width), 1, 2)
    down = np.exp(2j * np.pi / height * np.outer(shifts, rows)) / height
    along = np.exp(2j * np.pi / width * np.outer(columns, shifts)) * (twice[:, None] / width)
    products = np.stack([of_plane[k] * np.conj(of_plane[k - 1]) for k in z])
    near: NDArray[np.float32] = (
        (down.astype(np.complex64) @ products) @ along.astype(np.complex64)
    ).real
    return near


def _peak(near: NDArray[np.floating], sides: tuple[int, ...]) -> tuple[float, float]:
    """Return (y, x) in blocks of the highest correlation from the middle; 0 where it is too low."""
    reach = len(near) // 2
    y, x = np.unravel_index(int(near.argmax()), near.shape)
    at_edge = y in (0, 2 * reach) or x in (0, 2 * reach)
    if near[y, x] < _LEAST_CORRELATION or at_edge:
        return 0.0, 0.0
    down = near[y - 1 : y + 2, x] / _common(sides[0], reach)[y - 1 : y + 2]
    along = near[y, x - 1 : x + 2] / _common(sides[1], reach)[x - 1 : x + 2]
    return float(y - reach) + _vertex(*down), float(x - reach) + _vertex(*along)


def _vertex(before: float, here: float, after: float) -> float:
    """Return where the parabola through three neighbouring values has its vertex, −0.5 to 0.5."""
    bend = before - 2 * here + after
    # Without a bend, as along stripes, there is no telling.
    return 0.0 if bend > _LEAST_BEND else float(np.clip((before - after) / (2 * bend), -0.5, 0.5))
