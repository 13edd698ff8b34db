"""Pictures for the report: slices with outlines, and curves, all within the page itself."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.training._evaluate import JudgedSlice
from deepfocus_live.training._examples import UNKNOWN

__all__ = ["LABEL_COLOUR", "MASK_COLOUR", "curve", "slice_picture"]

LABEL_COLOUR = "#56b4e9"
MASK_COLOUR = "#f0a020"
_SIDE_PX = 640  # of a slice's longer side
_LINE_PX = 2
_CURVE_PX = (460, 210)
_MARGIN = (14, 14, 34, 52)  # top, right, bottom, left


def slice_picture(score: JudgedSlice) -> str:
    """Return a slice with the outlines of label and mask, as a `data:` address of a JPEG."""
    from PIL import Image

    grey = Image.fromarray(_stretched(score.z_slice))
    scale = _SIDE_PX / max(grey.size)
    size = (max(round(grey.width * scale), 1), max(round(grey.height * scale), 1))
    pixels = np.repeat(np.asarray(grey.resize(size))[:, :, None], 3, axis=2).copy()
    reduction = score.z_slice.shape[0] // score.target.shape[0]
    at = _block_of_pixel(size, scale * reduction, score.target.shape)
    target, mask = score.target[at], score.mask[at]
    pixels[target == UNKNOWN] //= 2
    # One outside and one inside the edge: where both agree, both are seen.
    pixels[_grown(target == 1) & (target != 1)] = _rgb(LABEL_COLOUR)
    pixels[mask & _grown(~mask)] = _rgb(MASK_COLOUR)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=86, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def curve(
    title: str, points: Sequence[tuple[float, float]], *, marked: float | None, name: str
) -> str:
    """Return an SVG line of (step, value), the point at step `marked` emphasised."""
    if not points:
        return ""
    width, height = _CURVE_PX
    top, right, bottom, left = _MARGIN
    ticks_y = _ticks(min(v for _, v in points), max(v for _, v in points))
    last = max(points[-1][0], 1.0)

    def x(step: float) -> float:
        return left + (width - left - right) * step / last

    def y(value: float) -> float:
        low, high = ticks_y[0], ticks_y[-1]
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{left - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks_y
    ]
    parts += [
        f'<text x="{x(t):.1f}" y="{height - bottom + 18}" text-anchor="middle">{t:g}</text>'
        for t in _ticks(0.0, last)
        if t <= last
    ]
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    parts.append(f'<polyline class="line {name}" points="{path}"/>')
    for step, value in points:
        kind = "best" if step == marked else "dot"
        radius = 5 if step == marked else 2.5
        parts.append(
            f'<circle class="{kind} {name}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="{radius}">'
            f"<title>step {step:g}: {value:.4f}</title></circle>"
        )
    axis = f'<text x="{(left + width - right) / 2:.0f}" y="{height - 2}" text-anchor="middle">'
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(parts)}{axis}training step</text></svg></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers that enclose `low` and `high`, about five."""
    span = max(high - low, 1e-3)
    raw = span / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    return [round(i * step, 10) for i in range(first, last + 1)]


def _stretched(z_slice: NDArray[Any]) -> NDArray[np.uint8]:
    """Return 8 bit grey values, from the darkest to nearly the brightest of the slice."""
    sparse = z_slice[::3, ::3]
    low, high = (float(v) for v in np.percentile(sparse, (0.2, 99.8)))
    grey = (z_slice.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))
    result: NDArray[np.uint8] = np.clip(grey, 0.0, 255.0).astype(np.uint8)
    return result


def _block_of_pixel(
    size: tuple[int, int], block_px: float, blocks: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return row and column of the block under every pixel of the picture, broadcastable."""
    width, height = size
    rows = np.minimum(np.arange(height) / block_px, blocks[0] - 1).astype(np.intp)
    columns = np.minimum(np.arange(width) / block_px, blocks[1] - 1).astype(np.intp)
    return rows[:, None], columns[None, :]


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    for _ in range(_LINE_PX):
        grown = inside.copy()
        grown[1:] |= inside[:-1]
        grown[:-1] |= inside[1:]
        grown[:, 1:] |= inside[:, :-1]
        grown[:, :-1] |= inside[:, 1:]
        inside = grown
    return inside


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
