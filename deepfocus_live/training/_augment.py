"""Random changes of a crop that leave what is in focus as it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.training._empty import hot_pixels

__all__ = ["change_counts", "defocus", "turn"]

_MAX_COUNT = 65535.0


def turn(
    random: np.random.Generator, counts: NDArray[np.float32], target: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return crop and target turned by a multiple of 90 degrees and perhaps mirrored."""
    quarter_turns = int(random.integers(4))
    counts, target = np.rot90(counts, quarter_turns), np.rot90(target, quarter_turns)
    if random.random() < 0.5:
        counts, target = counts[:, ::-1], target[:, ::-1]
    return counts, target


def change_counts(
    random: np.random.Generator, counts: NDArray[np.float32], noise_counts: float
) -> NDArray[np.float32]:
    """Return the crop as another camera under another light would have taken it.

    Inverted, unevenly lit, noisier, with hot pixels, brighter or darker, on an offset, and rounded
    to counts.

    Parameters
    ----------
    counts : (Y, X) float32
    noise_counts : float
        Standard deviation of the noise that is in it already.
    """
    if random.random() < 0.25:
        counts = counts.max() + counts.min() - counts
    if random.random() < 0.4:
        counts = counts * _light(random, counts.shape)
    if random.random() < 0.5:
        sigma = noise_counts * random.uniform(0.2, 2.0)
        counts = counts + sigma * random.standard_normal(counts.shape, np.float32)
    if random.random() < 0.1:
        counts = counts + hot_pixels(random, counts.shape, noise_counts)
    lowest, highest = float(counts.min()), float(counts.max())
    # Never so dim that rounding swallows the noise, never beyond what a uint16 holds.
    least = 0.5 / max(noise_counts, 0.5)
    most = max(0.9 * _MAX_COUNT / max(highest - lowest, 1.0), 2.0 * least)
    gain = float(np.exp(random.uniform(np.log(least), np.log(most))))
    if random.random() < 0.3:
        gain = 1.0
    scaled = (counts - lowest) * gain
    offset = random.uniform(0.0, 1.0) * max(_MAX_COUNT - float(scaled.max()), 0.0) * 0.5
    result: NDArray[np.float32] = np.clip(np.rint(scaled + offset), 0.0, _MAX_COUNT)
    return result.astype(np.float32)


def defocus(
    random: np.random.Generator, counts: NDArray[np.float32], noise_counts: float
) -> NDArray[np.float32]:
    """Return the crop blurred until nothing in it is sharp, with the camera's noise on top."""
    from scipy import ndimage

    sigma_px = random.uniform(4.0, 10.0)
    blurred = ndimage.gaussian_filter(counts, sigma_px, mode="reflect", truncate=3.0)
    noise = noise_counts * random.standard_normal(counts.shape, np.float32)
    result: NDArray[np.float32] = (blurred + noise).astype(np.float32)
    return result


def _light(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    y = np.linspace(-1.0, 1.0, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1.0, 1.0, shape[1], dtype=np.float32)[None, :]
    slope_y, slope_x = random.uniform(-0.2, 0.2, 2)
    result: NDArray[np.float32] = (1.0 + slope_y * y + slope_x * x).astype(np.float32)
    return result
