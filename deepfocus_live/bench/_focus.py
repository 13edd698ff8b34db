"""Focus scores against reading the pixels, and against the scans that others write.

All are of the same 20 slices, in ms a slice, on one thread; the copy is of the whole
stack, too large for the caches, as slices from a camera are. Scores stay at block
resolution. Only the paper's scan has plain rivals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.bench._table import Row, medians
from deepfocus_live.focus import (
    DEFAULT_PRESET,
    MEASURES,
    PRESETS,
    StackLabeler,
    focus_score_blocks,
    label_stack,
)
from deepfocus_live.simulation import simulate_focal_stack

__all__ = ["measure"]

_SLICES, _SHAPE = 20, (1024, 1344)
_WINDOW, _STRIDES = 128, (16, 32, 64, 128)
_PUBLISHED: dict[str, Any] = {
    "windows_px": (128,),
    "strides_px": tuple(range(8, 37, 2)),
    "overlap": "sum",
}
_PAPER_NETWORK_MS = 62.0  # for as many slices of 256 × 256, on a V100
_COPY = "memcpy of the stack, a slice"
_OF = f"of a {_SHAPE[0]} × {_SHAPE[1]} slice"


def measure() -> list[Row]:
    """Return the rows of the group `focus`."""
    noise = np.random.default_rng(0).integers(0, 4096, (_SLICES, *_SHAPE), np.uint16)
    return [*_scans(noise), *_rivals(noise[0]), *_whole_stacks(_specimen())]


def _specimen() -> NDArray[np.uint16]:
    """Return a stack of the bench's size with things to find in it."""
    piece = simulate_focal_stack("organoid_layer", shape=(_SLICES, 256, 336), seed=1).slices
    return np.tile(piece, (1, 4, 4))


def _whole_stacks(stack: NDArray[np.uint16]) -> list[Row]:
    """Return labels of a whole stack, every slice in memory, labels out."""
    name = f"labels of {_SLICES} slices of {_SHAPE[0]} × {_SHAPE[1]}"
    presets = [DEFAULT_PRESET, *(preset for preset in PRESETS if preset != DEFAULT_PRESET)]

    def label(preset: str) -> Callable[[], object]:
        return lambda: label_stack(stack, preset)

    times = medians(*(label(preset) for preset in presets), repeat=7, seconds=20)
    return [
        Row(
            "focus",
            f"{name}, preset {preset}" + (" (the paper's network: 62)" if number == 0 else ""),
            1e3 * time,
            "ms",
            goal=_PAPER_NETWORK_MS if number == 0 else None,
        )
        for number, (preset, time) in enumerate(zip(presets, times, strict=True))
    ]


def _scans(stack: NDArray[np.uint16]) -> list[Row]:
    """Return the scans beside a copy of the stack."""
    target = np.zeros_like(stack)  # zeros, so that its pages are there

    def scan(**options: Any) -> Callable[[], None]:
        def run() -> None:
            for z_slice in stack:
                focus_score_blocks(z_slice, **options)

        return run

    def default_scan() -> None:
        labeler = StackLabeler(DEFAULT_PRESET, shape_yx=_SHAPE)
        for z, z_slice in enumerate(stack):
            labeler.add(z, z_slice)

    # (name, goal in copies, what runs)
    scans: list[tuple[str, float, Callable[[], None]]] = [
        (f"{DEFAULT_PRESET} preset's scan {_OF}", 3.0, default_scan),
        (f"std scan {_OF}, window 128, strides 16-128", 3.0, scan(measure="std")),
        (f"std scan {_OF}, the published 15 strides", 20.0, scan(measure="std", **_PUBLISHED)),
        *(
            (
                f"{name} scan {_OF}, window 128, strides 16-128",
                30.0 if name == "entropy" else 10.0,
                scan(measure=name),
            )
            for name in MEASURES
            if name != "std"
        ),
    ]
    copy, *times = medians(
        lambda: np.copyto(target, stack), *(run for _, _, run in scans), repeat=15, seconds=25
    )
    return [
        Row("focus", name, *_per_slice(time), _COPY, _per_slice(copy)[0], goal=goal)
        for (name, goal, _), time in zip(scans, times, strict=True)
    ]


def _per_slice(seconds: float) -> tuple[float, str]:
    """Return the time of one slice of the stack, and its unit."""
    return 1e3 * seconds / _SLICES, "ms"


def _rivals(image: NDArray[np.uint16]) -> list[Row]:
    """Return the paper's scan of one slice beside other ways to write it."""
    scan, box, plain = medians(
        lambda: focus_score_blocks(image, windows_px=(_WINDOW,), strides_px=_STRIDES),
        lambda: _box_filter_scan(image),
        lambda: _plain_scan(image),
        repeat=5,
        seconds=5,
    )
    name = f"std scan {_OF}, window 128, strides 16-128, one slice again and again"
    return [
        Row("focus", name, 1e3 * scan, "ms", "scipy box filters of I and I²", 1e3 * box),
        Row("focus", name, 1e3 * scan, "ms", "plain numpy loop", 1e3 * plain),
    ]


def _box_filter_scan(image: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the std of the window around every pixel, E[I²] − E[I]²: one stride of 1.

    The nearest that filters come to the scan, without its strides and its overlap.
    """
    from scipy.ndimage import uniform_filter

    pixels = image.astype(np.float64)
    mean = uniform_filter(pixels, _WINDOW)
    variance = uniform_filter(pixels * pixels, _WINDOW) - mean * mean
    return np.asarray(np.sqrt(np.maximum(variance, 0)))


def _plain_scan(image: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the same scan as numpy users write it: every window's std, mean where they overlap."""
    best = np.zeros(image.shape, np.float32)
    for stride in _STRIDES:
        total, cover = np.zeros(image.shape), np.zeros(image.shape)
        for y in range(0, image.shape[0], stride):
            for x in range(0, image.shape[1], stride):
                window = (slice(y, y + _WINDOW), slice(x, x + _WINDOW))
                total[window] += image[window].std()
                cover[window] += 1
        np.maximum(best, total / cover, out=best)
    return best
