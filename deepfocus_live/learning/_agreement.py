"""Agreement with the rule: how far masks and weak labels say the same of one stack.

It is never called accuracy: the rule may be wrong where the network is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement", "AgreementCounter"]

Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class Agreement:
    """How far masks agree with the rule, over the pixels where the rule decides.

    Attributes
    ----------
    iou : float or None
        Intersection over union of mask and weak label, 0..1; None where neither says that
        anything is in focus.
    decided : float
        Share of the pixels where the rule decides, 0..1.
    in_focus : float
        Share of these that is in focus by the rule, 0..1.
    slices : int
        How many slices were counted.
    models : tuple of str
        Versions that made the masks, in the order in which they came first.
    """

    iou: float | None
    decided: float
    in_focus: float
    slices: int
    models: tuple[str, ...] = ()


class AgreementCounter:
    """Counts one stack slice by slice, in any order; keeps numbers only."""

    def __init__(self) -> None:
        self._both = self._either = self._weak = self._decided = self._pixels = 0
        self._slices = 0
        self._models: dict[str, None] = {}

    def add(self, mask: Plane, weak: Plane, undecided: Plane, model: str | None = None) -> None:
        """Count one slice.

        Parameters
        ----------
        mask, weak, undecided : (Y, X) uint8 or bool
            The network's mask, the rule's label, and where the rule will not say: 0 is no, all
            else yes.
        model : str, optional
            The version that made the mask.

        Raises
        ------
        ValueError
            If the three are not of one shape.
        """
        if not mask.shape == weak.shape == undecided.shape:
            raise ValueError(
                f"mask {mask.shape}, weak label {weak.shape} and undecided {undecided.shape} are "
                "not of one slice"
            )
        known = undecided == 0
        called, wanted = (mask != 0) & known, (weak != 0) & known
        self._both += int(np.count_nonzero(called & wanted))
        self._either += int(np.count_nonzero(called | wanted))
        self._weak += int(np.count_nonzero(wanted))
        self._decided += int(np.count_nonzero(known))
        self._pixels += mask.size
        self._slices += 1
        if model is not None:
            self._models[model] = None

    def result(self) -> Agreement:
        """Return what was counted so far."""
        return Agreement(
            iou=self._both / self._either if self._either else None,
            decided=self._decided / self._pixels if self._pixels else 0.0,
            in_focus=self._weak / self._decided if self._decided else 0.0,
            slices=self._slices,
            models=tuple(self._models),
        )
