"""Fields with nothing in focus: what a network must stay silent on.

Made here and not by `simulation`, because thousands are needed while training: a field of
256 x 256 pixels takes about a millisecond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["empty_field", "hot_pixels"]

_BIT_DEPTHS = (8, 10, 12, 14, 16)


def empty_field(
    random: np.random.Generator, shape: tuple[int, int], *, shading: bool = True
) -> NDArray[np.float32]:
    """Return counts of a camera that sees nothing sharp.

    Parameters
    ----------
    random : numpy.random.Generator
    shape : (Y, X)
    shading : bool
        Whether some fields carry vignetting, a gradient and broad blurred shadows; else all are
        flat.

    Returns
    -------
    (Y, X) float32
        Whole numbers in the range of an 8, 10, 12, 14 or 16 bit camera: level, gain, offset and
        read noise are drawn at random, shot noise follows the level. Some fields have hot pixels,
        stripes, or noise that neighbouring pixels share, as interpolating cameras make it.
    """
    full_scale = 2.0 ** random.choice(_BIT_DEPTHS) - 1.0
    # From a dark frame to close below saturation.
    level = full_scale * 10.0 ** random.uniform(-2.5, -0.1)
    light = np.full(shape, level, np.float32)
    if shading and random.random() < 0.7:
        light *= _shading(random, shape)
    read_noise = full_scale * 10.0 ** random.uniform(-4.5, -1.7)
    shot_noise = 10.0 ** random.uniform(-3.5, -1.0)  # relative, at full scale
    sigma = np.sqrt(read_noise**2 + shot_noise**2 * light * full_scale, dtype=np.float32)
    offset = full_scale * random.choice((0.0, random.uniform(0.0, 0.2)))
    counts = light + offset + sigma * _noise(random, shape)
    if random.random() < 0.2:
        counts += hot_pixels(random, shape, float(sigma.mean()))
    result: NDArray[np.float32] = np.clip(np.rint(counts), 0.0, full_scale).astype(np.float32)
    return result


def hot_pixels(
    random: np.random.Generator, shape: tuple[int, ...], noise_counts: float
) -> NDArray[np.float32]:
    """Return counts to add: a few lone pixels far above the noise, 0 elsewhere."""
    density = 10.0 ** random.uniform(-5.0, -2.7)
    height = noise_counts * 10.0 ** random.uniform(0.7, 2.5)
    hot = random.random(shape, np.float32) < density
    result: NDArray[np.float32] = (hot * random.random(shape, np.float32) * height).astype(
        np.float32
    )
    return result


def _noise(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return noise of unit deviation, nearly: white, shared by neighbours, or with stripes."""
    from scipy import ndimage

    noise = random.standard_normal(shape, np.float32)
    if random.random() < 0.3:
        # Wider than this it could be a specimen's grain as well.
        sigma_px = random.uniform(0.3, 0.8)
        noise = ndimage.gaussian_filter(noise, sigma_px, mode="wrap")
        noise /= max(float(noise.std()), 1e-6)
    if random.random() < 0.2:
        lines = (shape[0], 1) if random.random() < 0.5 else (1, shape[1])
        noise = noise + random.uniform(0.1, 1.0) * random.standard_normal(lines, np.float32)
    result: NDArray[np.float32] = noise
    return result


def _shading(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a smooth field round 1: tilt, vignetting and broad Gaussian shadows."""
    y = np.linspace(-1.0, 1.0, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1.0, 1.0, shape[1], dtype=np.float32)[None, :]
    field = 1.0 + random.uniform(-0.3, 0.3) * y + random.uniform(-0.3, 0.3) * x
    field = field - random.uniform(0.0, 0.3) * (x * x + y * y)
    for _ in range(random.integers(0, 6)):
        centre_y, centre_x = random.uniform(-1.2, 1.2, 2)
        # At least a twentieth of the side: well beyond what a focused edge is blurred by.
        width = random.uniform(0.1, 0.7)
        distance = (y - centre_y) ** 2 + (x - centre_x) ** 2
        field = field + random.uniform(-0.5, 0.5) * np.exp(-distance / (2.0 * width**2))
    result: NDArray[np.float32] = np.clip(field, 0.05, 2.0).astype(np.float32)
    return result
