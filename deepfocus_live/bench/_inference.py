"""Masks: raw slice in host memory to mask in host memory."""

from __future__ import annotations

import numpy as np

from deepfocus_live.bench._table import Row, medians
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import Registry

__all__ = ["measure"]


def measure() -> list[Row]:
    """Return the rows of the group `inference`: the shipped model on this machine."""
    model = InFocusModel.load(Registry().shipped_version())
    image = np.random.default_rng(0).integers(100, 4096, (1024, 1344), np.uint16)
    target = np.empty_like(image)
    mask, copy = medians(lambda: model.infer(image), lambda: np.copyto(target, image), repeat=100)
    name = f"mask of a 1024 × 1344 slice, {model.version} on {model.provider}"
    return [Row("inference", name, 1e3 * mask, "ms", "memcpy of the slice", 1e3 * copy)]
