"""One stack from above, and what is in focus in it, small enough for a browser.

Made by what `export` makes them with, slice by slice, so that a stack of any length fits memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.export import FromAbove, Place, SourceImage, SourceLabel, source_of_run
from deepfocus_live.frames import Calibration, StackKey
from deepfocus_live.volume import halve_mean
from deepfocus_live.web import InFocusVolume, NotPossibleError, Projection

__all__ = ["make_projection", "make_volume"]

_LONG_SIDE_PX = 1024
_DEPTH_PX = 4
_MOST_VOXELS, _MOST_LAYERS = 128, 64
_LEAST_IN_FOCUS = 0.125
"""Share of a voxel's pixels that makes it one: less would fill space with single pixels."""
_MASKS = ("corrected", "in_focus", "weak_label")
_COLOURS = 3

Step = Callable[[float], None]


def make_projection(path: Path, key: StackKey, samples: int, step: Step) -> Projection:
    """Return a stack of the run at `path` from above; `samples` is 3 of a colour camera.

    Parameters
    ----------
    step : callable
        Called with the part that is done, before each slice.
    """
    image = _image_of(path, key)
    channels = [key.c] if samples == 1 else [_COLOURS * key.c + k for k in range(_COLOURS)]
    steps = 2 * len(channels) * sum(place[:2] == (key.t, channels[0]) for place in image.there)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        step(min(1.0, done / max(steps, 1)))

    binned = [_binned(_one_stack(image, key.t, channel)) for channel in channels]
    above = FromAbove(binned[0][0], keep_depth=True, step=count)
    planes = [above.image(0, 0)]
    depth = above.depth(0, 0)
    for colour, _ in binned[1:]:
        planes.append(FromAbove(colour, keep_depth=False, step=count).image(0, 0))
    factor, half = 2 ** binned[0][1], _DEPTH_PX // 2
    low, high = above.depth_range
    pixel = image.pixel_size_um
    return Projection(
        image=planes[0] if samples == 1 else np.stack(planes),
        depth=np.ascontiguousarray(depth[half::_DEPTH_PX, half::_DEPTH_PX]),
        block_px=_DEPTH_PX,
        factor=factor,
        full_shape=(image.shape[3], image.shape[4]),
        low=low,
        high=high,
        unit="µm" if above.depth_unit.startswith("µm") else "slices",
        measured="z positions" in above.depth_unit,
        pixel_um=None if pixel is None else pixel.um * factor,
    )


def make_volume(path: Path, key: StackKey, samples: int, step: Step) -> InFocusVolume:
    """Return what is in focus in a stack of the run at `path`; see `make_projection`.

    Raises
    ------
    NotPossibleError
        If nothing says what is in focus.
    """
    channel = key.c if samples == 1 else _COLOURS * key.c
    image = _one_stack(_image_of(path, key), key.t, channel)
    there = sorted(place for place in image.there)
    masks = {place: _mask_of(image, place) for place in there}
    used = [name for name in _MASKS if name in masks.values()]
    if not used:
        raise NotPossibleError("This stack has neither masks nor weak labels yet.")
    group = -(-len(there) // _MOST_LAYERS)
    layers = []
    for start in range(0, len(there), group):
        together = there[start : start + group]
        parts = []
        for number, place in enumerate(together, start=start):
            step(number / len(there))
            name = masks[place]
            if name is not None:
                pixels = (image.judged or image.read)(place)
                parts.append(_in_focus(pixels, image.labels[name].read(place) == 1))
        layers.append(np.fmax.reduce(parts) if parts else None)
    shape = next(layer.shape for layer in layers if layer is not None)
    found = np.stack([np.full(shape, np.nan, np.float32) if x is None else x for x in layers])
    voxels, low, high = _in_8_bits(found)
    factor = _voxel_px(image)
    return InFocusVolume(
        voxels=voxels,
        z_um=_heights(image, there, group),
        voxel_um=None if image.pixel_size_um is None else image.pixel_size_um.um * factor,
        low=low,
        high=high,
        mask=max(used, key=list(masks.values()).count),
    )


def _image_of(path: Path, key: StackKey) -> SourceImage:
    images = source_of_run(path).images
    if key.image >= len(images):
        raise NotPossibleError("This stack is not there any more.")
    return images[key.image]


def _one_stack(image: SourceImage, t: int, c: int) -> SourceImage:
    """Return an image of one of its stacks only."""

    def back(place: Place) -> Place:
        return Place(t, c, place.z)

    def here(place: Place) -> Place:
        return Place(0, 0, place.z)

    judged = image.judged
    there = frozenset(here(place) for place in image.there if place[:2] == (t, c))

    def of_it(label: SourceLabel) -> SourceLabel:
        own = frozenset(here(place) for place in label.there if place[:2] == (t, c))
        return SourceLabel(lambda place: label.read(back(place)), own)

    return replace(
        image,
        shape=(1, 1, *image.shape[2:]),
        channels=image.channels[c : c + 1],
        read=lambda place: image.read(back(place)),
        judged=None if judged is None else lambda place: judged(back(place)),
        there=there,
        planes={here(p): facts for p, facts in image.planes.items() if p[:2] == (t, c)},
        labels={name: of_it(label) for name, label in image.labels.items()},
    )


def _binned(image: SourceImage) -> tuple[SourceImage, int]:
    """Return an image whose slices are at most 1024 px a side, and how often they were halved."""
    height, width = image.shape[3:]
    times = 0
    while max(height, width) > _LONG_SIDE_PX:
        height, width, times = -(-height // 2), -(-width // 2), times + 1
    if not times:
        return image, 0

    def small(pixels: NDArray[Any]) -> NDArray[Any]:
        for _ in range(times):
            pixels = halve_mean(pixels)
        return pixels

    pixel, judged = image.pixel_size_um, image.judged
    if pixel is not None:
        pixel = Calibration(pixel.um * 2**times, pixel.source)
    # A flat field of another size could not be used: labels do without.
    conditions = replace(
        image.conditions, pixel_size_um=None if pixel is None else pixel.um, flat_field=None
    )
    binned = replace(
        image,
        shape=(*image.shape[:3], height, width),
        read=lambda place: small(image.read(place)),
        judged=None if judged is None else lambda place: small(judged(place)),
        pixel_size_um=pixel,
        conditions=conditions,
    )
    return binned, times


def _mask_of(image: SourceImage, place: Place) -> str | None:
    labels = image.labels
    return next((name for name in _MASKS if name in labels and place in labels[name].there), None)


def _voxel_px(image: SourceImage) -> int:
    return -(-max(image.shape[3:]) // _MOST_VOXELS)


def _in_focus(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the mean of each block's pixels that are in focus; NaN where too few are."""
    factor = -(-max(pixels.shape) // _MOST_VOXELS)
    height, width = (max(1, side // factor) for side in pixels.shape)
    factor_y, factor_x = min(factor, pixels.shape[0]), min(factor, pixels.shape[1])
    cut = np.s_[: height * factor_y, : width * factor_x]
    blocks = (height, factor_y, width, factor_x)
    inside = mask[cut].reshape(blocks)
    light = np.where(inside, pixels[cut].reshape(blocks), 0).sum((1, 3), dtype=np.float64)
    count = inside.sum((1, 3))
    enough = count >= max(1, _LEAST_IN_FOCUS * factor_y * factor_x)
    mean = light / np.maximum(count, 1)
    return np.where(enough, mean, np.nan).astype(np.float32)


def _in_8_bits(found: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, float]:
    """Return brightness as 1 to 255 and nothing as 0, with the counts of 1 and of 255."""
    known = np.isfinite(found)
    if not known.any():
        return np.zeros(found.shape, np.uint8), 0.0, 1.0
    low, high = (float(value) for value in np.percentile(found[known], (0.5, 99.5)))
    high = max(high, low + 1)
    part = (np.where(known, found, low) - low) / (high - low)
    steps = 1 + np.rint(254 * part.clip(0, 1))
    return np.where(known, steps, 0).astype(np.uint8), low, high


def _heights(image: SourceImage, there: list[Place], group: int) -> tuple[float, ...] | None:
    """Return the height of each layer: measured, else counted with the z-step; None without."""
    planes = (image.planes[place].z_um if place in image.planes else None for place in there)
    heights = [z for z in planes if z is not None]
    if len(heights) < len(there):
        if image.z_step_um is None:
            return None
        heights = [place.z * image.z_step_um.um for place in there]
    return tuple(
        float(np.mean(heights[start : start + group])) for start in range(0, len(there), group)
    )
