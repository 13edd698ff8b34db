"""Plain numpy twins of the fast code: slow, short, and obviously right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["axial_rule", "focus_score_map", "stack_otsu_rule"]

Pixels = NDArray[np.float64]


def focus_score_map(
    z_slice: NDArray[np.generic],
    *,
    windows_px: Sequence[int],
    strides_px: Sequence[int],
    overlap: str,
    measure: str = "std",
) -> NDArray[np.float64]:
    """Write the score of every window over its pixels; keep the best of all scans."""
    of_pixels = MEASURES[measure][0](z_slice)
    of_window = MEASURES[measure][1]
    best = np.full(z_slice.shape, -np.inf)
    for window in windows_px:
        for stride in strides_px:
            total, covered = np.zeros(z_slice.shape), np.zeros(z_slice.shape, int)
            for top in range(0, z_slice.shape[0], stride):
                for left in range(0, z_slice.shape[1], stride):
                    inside = np.s_[top : top + window, left : left + window]
                    total[inside] += of_window(of_pixels[inside])
                    covered[inside] += 1
            value = total / np.maximum(covered, 1) if overlap == "mean" else total
            best = np.where(covered > 0, np.maximum(best, value), best)
    return np.where(np.isneginf(best), 0.0, best)


def pixels(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the pixels as float64."""
    return z_slice.astype(np.float64)


def with_neighbours(
    z_slice: NDArray[np.generic],
    reach: tuple[int, int, int, int],
    term: Callable[[Callable[[int, int], Pixels]], Pixels],
) -> Pixels:
    """Compute a term where its neighbours above, below, left and right exist; repeat its border."""
    above, below, left, right = reach
    image = pixels(z_slice)
    missing = (max(0, 1 + above + below - len(image)), max(0, 1 + left + right - image.shape[1]))
    image = np.pad(image, [(n // 2, n - n // 2) for n in missing], mode="edge")
    height, width = image.shape

    def at(dy: int, dx: int) -> Pixels:
        return image[above + dy : height - below + dy, left + dx : width - right + dx]

    terms = np.pad(term(at), [(above, below), (left, right)], mode="edge")
    return terms[: z_slice.shape[0], : z_slice.shape[1]]


def laplacian(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the sum of the four neighbours less four times the pixel."""
    return with_neighbours(
        z_slice,
        (1, 1, 1, 1),
        lambda at: at(-1, 0) + at(1, 0) + at(0, -1) + at(0, 1) - 4 * at(0, 0),
    )


def tenengrad(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the squared length of the Sobel gradient."""

    def term(at: Callable[[int, int], Pixels]) -> Pixels:
        gx = sum(w * (at(k, 1) - at(k, -1)) for k, w in ((-1, 1), (0, 2), (1, 1)))
        gy = sum(w * (at(1, k) - at(-1, k)) for k, w in ((-1, 1), (0, 2), (1, 1)))
        return np.asarray(gx**2 + gy**2)

    return with_neighbours(z_slice, (1, 1, 1, 1), term)


def smd(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the absolute differences from the left and from the upper pixel, added."""
    return with_neighbours(
        z_slice,
        (1, 0, 1, 0),
        lambda at: abs(at(0, 0) - at(0, -1)) + abs(at(0, 0) - at(-1, 0)),
    )


def smd2(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the absolute differences from the left and from the upper pixel, multiplied."""
    return with_neighbours(
        z_slice,
        (1, 0, 1, 0),
        lambda at: abs(at(0, 0) - at(0, -1)) * abs(at(0, 0) - at(-1, 0)),
    )


def brenner(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the squared difference from the second pixel to the right."""
    return with_neighbours(z_slice, (0, 0, 0, 2), lambda at: (at(0, 2) - at(0, 0)) ** 2)


def vollath(z_slice: NDArray[np.generic]) -> Pixels:
    """Return half of the squared difference over two pixels less that over one."""
    return with_neighbours(
        z_slice,
        (0, 0, 0, 2),
        lambda at: ((at(0, 2) - at(0, 0)) ** 2 - (at(0, 1) - at(0, 0)) ** 2) / 2,
    )


def laplacian_of_gaussian(z_slice: NDArray[np.generic]) -> Pixels:
    """Return the squared answer to the Laplacian of a Gaussian of sigma 1, 7 × 7 pixels."""
    steps = range(-3, 4)
    gauss = np.array([math.exp(-(k**2) / 2) for k in steps])
    gauss /= gauss.sum()
    second = np.array([k**2 - 1 for k in steps]) * gauss
    second[3] -= second.sum()
    taps = np.outer(second, gauss) + np.outer(gauss, second)
    return with_neighbours(
        z_slice,
        (3, 3, 3, 3),
        lambda at: np.asarray(
            sum(taps[dy + 3, dx + 3] * (at(dy, dx) - at(0, 0)) for dy in steps for dx in steps) ** 2
        ),
    )


def grey_levels(z_slice: NDArray[np.generic]) -> Pixels:
    """Return each pixel's grey level."""
    image = pixels(z_slice)
    if z_slice.dtype == np.uint8:
        return image
    if z_slice.dtype == np.uint16:
        return np.array([math.isqrt(16 * int(value)) for value in image.flat]).reshape(image.shape)
    step = (image.max() - image.min()) / 256
    levels: Pixels = np.minimum(np.floor((image - image.min()) / (step or 1)), 255)
    return levels


def entropy(levels: Pixels) -> float:
    """Return the entropy in bits of the levels' shares."""
    shares = np.unique(levels, return_counts=True)[1] / levels.size
    return float(-(shares * np.log2(shares)).sum())


MEASURES: dict[
    str, tuple[Callable[[NDArray[np.generic]], Pixels], Callable[[Pixels], np.floating | float]]
] = {
    "std": (pixels, np.std),
    "variance": (pixels, np.var),
    "laplacian": (laplacian, np.var),
    "tenengrad": (tenengrad, np.mean),
    "smd": (smd, np.mean),
    "smd2": (smd2, np.mean),
    "brenner": (brenner, np.mean),
    "vollath": (vollath, np.mean),
    "laplacian_of_gaussian": (laplacian_of_gaussian, np.mean),
    "entropy": (grey_levels, entropy),
}


def axial_rule(
    scores: NDArray[np.float32], *, threshold: float, rise: float = 0.8
) -> NDArray[np.bool_]:
    """Label where a place has risen `rise` of the way to a best above `threshold`."""
    label = np.zeros(scores.shape, bool)
    for y, x in np.ndindex(scores.shape[1:]):
        curve = scores[:, y, x]
        low, high = curve.min(), curve.max()
        if high > threshold and high > low:
            label[:, y, x] = curve >= low + np.float32(rise) * (high - low)
    return label


def stack_otsu_rule(scores: NDArray[np.float32], *, threshold: float) -> NDArray[np.bool_]:
    """Label where the score is above `threshold`, whatever the slice."""
    return np.array([[row > threshold for row in z_slice] for z_slice in scores])
