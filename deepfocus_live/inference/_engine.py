"""What runs a network: one interface for every runtime and device."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Engine", "EngineError", "ModelEngine", "OutOfMemoryError"]

Answer = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Mask (Y, X), 0 or 1, and probability (ceil(Y / r), ceil(X / r)), 0..255, owned by the caller."""


class EngineError(RuntimeError):
    """The device failed; the slice has no answer, and the same engine may never give one again."""


class OutOfMemoryError(EngineError):
    """The device's memory does not hold the network's maps of so large a slice."""


class Engine(Protocol):
    """One model on one device. For one caller at a time.

    Attributes
    ----------
    provider : str
        What really runs, in the runtime's own words.
    """

    provider: str

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        """Return mask and probability of one slice.

        Parameters
        ----------
        counts : (Y, X) uint16
            C-contiguous; Y and X at least `MIN_SIDE`. Any shape, another one at every call.

        Returns
        -------
        mask : (Y, X) uint8
            1 in focus, 0 not.
        probability : (ceil(Y / r), ceil(X / r)) uint8
            0..255; r is the model's reduction. Both are the caller's own.

        Raises
        ------
        OutOfMemoryError
            If the device's memory does not hold the maps of so large a slice.
        EngineError
            If the device failed.
        """
        ...


class ModelEngine(Engine, Protocol):
    """An engine that was opened from a file of ours.

    Attributes
    ----------
    metadata : dict
        What the file says of itself: name, architecture, reduction, threshold.
    """

    metadata: dict[str, str]
