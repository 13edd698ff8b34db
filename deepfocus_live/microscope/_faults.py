"""What goes wrong with cameras, for the simulated one: to find out what becomes of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pymmcore_plus.experimental.unicore import SimpleCameraDevice

__all__ = ["CameraFaults", "expose_with_faults"]


@dataclass(frozen=True)
class CameraFaults:
    """Which exposures of a simulated camera go wrong, counted from 0 since it was loaded.

    Attributes
    ----------
    dropped : set of int
        Their frames never arrive: a single snap fails, a sequence is one frame shorter.
    failing : set of int
        The camera raises: a single snap fails, a sequence ends there.
    stalled_s : mapping of int to float
        They take so many seconds longer.
    roi : mapping of int to (x, y, width, height)
        From this exposure on the image is cut to these pixels.
    """

    dropped: frozenset[int] = frozenset()
    failing: frozenset[int] = frozenset()
    stalled_s: Mapping[int, float] = field(default_factory=dict)
    roi: Mapping[int, tuple[int, int, int, int]] = field(default_factory=dict)


def expose_with_faults(
    camera: SimpleCameraDevice,
    faults: CameraFaults,
    exposures: Iterator[int],
    n: int | None,
    get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[Any]],
) -> Iterator[Mapping[str, Any]]:
    """Yield the metadata of each frame that arrives, as `CameraDevice.start_sequence` does.

    Raises
    ------
    RuntimeError
        Where an exposure fails, or the only one is dropped.
    """
    whole = np.empty(camera.sensor_shape(), camera.dtype())
    for taken, number in enumerate(exposures, 1):
        if number in faults.roi:
            camera.set_roi(*faults.roi[number])
        time.sleep(faults.stalled_s.get(number, 0.0))
        # The shutter opens and the stage moves on, whatever becomes of the frame.
        meta = camera.snap(whole)
        if number in faults.failing or (number in faults.dropped and n == 1):
            raise RuntimeError(f"simulated fault of exposure {number}.")
        if number not in faults.dropped:
            x, y, width, height = camera.get_roi()
            get_buffer((height, width), whole.dtype)[:] = whole[y : y + height, x : x + width]
            yield meta
        if taken == n:
            return
