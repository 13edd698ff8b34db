"""Contrast that is held steady over a stack, so that brightness can be compared."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import StackKey

__all__ = ["Contrast", "SteadyContrast", "measure_contrast"]

_PERCENTILES = (0.1, 99.9)
_SAMPLES = 20_000
_MOST_CHANNELS = 64


class Contrast(NamedTuple):
    """Counts that become black and white."""

    low: float
    high: float


def measure_contrast(z_slice: NDArray[Any]) -> Contrast:
    """Return the 0.1th and 99.9th percentile of about 20,000 evenly spaced pixels."""
    step = max(1, int(np.sqrt(z_slice.size / _SAMPLES)))
    low, high = np.percentile(z_slice[..., ::step, ::step], _PERCENTILES)
    return Contrast(float(low), float(max(high, low + 1)))


def _widest(one: Contrast, other: Contrast) -> Contrast:
    return Contrast(min(one.low, other.low), max(one.high, other.high))


@dataclass(frozen=True)
class _Seen:
    stack: StackKey
    own: Contrast
    """What this stack's slices alone called for."""
    shown: Contrast


class SteadyContrast:
    """One contrast per run and channel; within a stack it only ever widens.

    A stack begins with what the stack before it called for, so that the first
    slices, which are blurred and dull, do not flare up. Not thread-safe.
    """

    def __init__(self) -> None:
        self._channels: OrderedDict[tuple[str, int], _Seen] = OrderedDict()

    def follow(self, key: StackKey, z_slice: NDArray[Any]) -> Contrast:
        """Return the contrast for the next live slice of the stack `key`."""
        measured = measure_contrast(z_slice)
        before = self._channels.get((key.run_id, key.c))
        if before is None:
            own = shown = measured
        elif before.stack != key:
            own, shown = measured, _widest(before.own, measured)
        else:
            own, shown = _widest(before.own, measured), _widest(before.shown, measured)
        self._channels[key.run_id, key.c] = _Seen(key, own, shown)
        self._channels.move_to_end((key.run_id, key.c))
        while len(self._channels) > _MOST_CHANNELS:
            self._channels.popitem(last=False)
        return shown

    def of(self, key: StackKey) -> Contrast | None:
        """Return what the slices of a run's channel are shown with; None: none was shown yet."""
        seen = self._channels.get((key.run_id, key.c))
        return None if seen is None else seen.shown
