"""Compiling before the first frame instead of on it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepfocus_live.focus._door import accepted_dtypes
from deepfocus_live.focus._labels import label_stack
from deepfocus_live.focus._presets import PRESETS, Preset

__all__ = ["warm_up"]


def warm_up(
    presets: Iterable[Preset] | None = None, dtypes: Iterable[DTypeLike] = accepted_dtypes
) -> None:
    """Compile the kernels that labelling needs, and import what rules need.

    Seconds the first time on a machine, a fraction of a second once numba's cache
    on disk is filled (see `_jit` for where that is), and little when called again.

    Parameters
    ----------
    presets : iterable of Preset, optional
        Those that will be used; all by default.
    dtypes : iterable of dtypes, optional
        Of the slices that will come; all that are accepted by default.
    """
    dtypes = tuple(dtypes)
    stack = _restless_stack()
    for preset in PRESETS.values() if presets is None else presets:
        for dtype in dtypes:
            label_stack(stack.astype(dtype), preset)


def _restless_stack() -> NDArray[np.float64]:
    """Return a small stack that inverts, drifts and flickers: all ways through the rules."""
    rng = np.random.default_rng(0)
    pattern = np.kron(rng.normal(0, 20, (32, 32)), np.ones((4, 4)))
    contrast = np.array([0.5, 1, 1, 1, 0, -1, -1, -1, -0.5])
    stack: NDArray[np.float64] = np.clip(
        120 + contrast[:, None, None] * pattern, 1, 250
    ) + rng.random((9, 128, 128))
    stack[1] = np.roll(stack[1], 16, axis=1)
    return stack
