"""Compiling before the first frame instead of on it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deepfocus_live.focus._door import accepted_dtypes
from deepfocus_live.focus._labels import label_stack
from deepfocus_live.focus._presets import PRESETS, Preset

__all__ = ["warm_up"]


def warm_up(presets: Iterable[Preset] | None = None) -> None:
    """Compile the kernels that labelling needs, for every dtype, and import what rules need.

    Seconds the first time on a machine, a fraction of a second once numba's cache
    on disk is filled (see `_jit` for where that is), and nothing when called again.

    Parameters
    ----------
    presets : iterable of Preset, optional
        Those that will be used; all by default.
    """
    for preset in PRESETS.values() if presets is None else presets:
        for dtype in accepted_dtypes:
            ramp = np.arange(3 * 8 * 8).reshape(3, 8, 8).astype(dtype)
            label_stack(ramp, preset)
