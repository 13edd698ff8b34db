"""Compiling before the first frame instead of on it."""

from __future__ import annotations

import numpy as np

from deepfocus_live.focus._door import accepted_dtypes
from deepfocus_live.focus._labels import label_stack
from deepfocus_live.focus._presets import PRESETS

__all__ = ["warm_up"]


def warm_up() -> None:
    """Compile every kernel for every dtype, and import what the rules need.

    Seconds the first time on a machine, a fraction of a second once numba's cache
    on disk is filled (see `_jit` for where that is), and nothing when called again.
    """
    for preset in PRESETS.values():
        for dtype in accepted_dtypes:
            ramp = np.arange(3 * 8 * 8).reshape(3, 8, 8).astype(dtype)
            label_stack(ramp, preset)
