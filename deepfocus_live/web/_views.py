"""Views of whole stacks as binary messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import StackKey
from deepfocus_live.web._contrast import measure_contrast
from deepfocus_live.web._curves import finite
from deepfocus_live.web._draw import draw_slice
from deepfocus_live.web._message import BYTES, Part, pack_message
from deepfocus_live.web._source import InFocusVolume, Projection

__all__ = ["pack_view", "scale_depth"]

_DEEPEST = 65534
"""Steps of the depth map; 0 is kept for what is not known."""


def pack_view(key: StackKey, view: Projection | InFocusVolume) -> bytes:
    """Return the message of a projection or a volume."""
    place = {"run": key.run_id, "image": key.image, "t": key.t, "c": key.c}
    if isinstance(view, Projection):
        return _pack_projection(place, view)
    return _pack_volume(place, view)


def scale_depth(depth: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint16]:
    """Return heights as 1 … 65535 from `low` to `high`; 0 where they are NaN."""
    known = np.isfinite(depth)
    part = (np.where(known, depth, low) - low) / max(high - low, 1e-9)
    steps = 1 + np.rint(part.clip(0, 1) * _DEEPEST)
    return np.where(known, steps, 0).astype("<u2")


def _pack_projection(place: dict[str, Any], view: Projection) -> bytes:
    most = int(np.iinfo(view.image.dtype).max)
    drawn, parts = draw_slice(view.image, measure_contrast(view.image), most)
    drawn["display"].pop("max_counts")
    rows, columns = view.depth.shape
    header = {
        "kind": "projection",
        **place,
        "width": drawn["width"],
        "height": drawn["height"],
        "factor": view.factor,
        "full_width": view.full_shape[1],
        "full_height": view.full_shape[0],
        "colour": drawn["colour"],
        "display": drawn["display"],
        "depth": {
            "width": columns,
            "height": rows,
            "factor": view.block_px,
            "low": finite(view.low, 4),
            "high": finite(view.high, 4),
            "unit": view.unit,
        },
        "z_um_known": view.measured,
        "pixel_um": finite(view.pixel_um, 6),
        "in_focus_part": finite(float(np.isfinite(view.depth).mean())),
    }
    depth = Part("depth", BYTES, scale_depth(view.depth, view.low, view.high).tobytes())
    return pack_message(header, (parts[0], depth))


def _pack_volume(place: dict[str, Any], view: InFocusVolume) -> bytes:
    depth, height, width = view.voxels.shape
    voxel = finite(view.voxel_um, 6)
    header = {
        "kind": "volume",
        **place,
        "width": width,
        "height": height,
        "depth": depth,
        "voxel_um": None if voxel is None else {"x": voxel, "y": voxel},
        "z_um": None if view.z_um is None else [finite(z, 4) for z in view.z_um],
        "display": {"low": finite(view.low, 2), "high": finite(view.high, 2)},
        "mask": view.mask,
    }
    return pack_message(header, [Part("volume", BYTES, view.voxels.tobytes())])
