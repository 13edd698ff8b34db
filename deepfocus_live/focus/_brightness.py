"""Lamp, exposure and bleaching: how bright each slice is, beside the others.

Scores grow with brightness, so a lamp that flickers looks like focus. Defocus moves
light around but keeps it: means over cells change with the lamp, and from one slice to
the next hardly with focus. How their spread over the field changes gives the lamp alone,
which no dark offset of the camera can bend; how their mean changes beside it gives the
offset. With the offset known, the mean tells each slice's gain best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Brightness", "measure_brightness"]

_CELL_BLOCKS = 4
# The offset is believed where its standard error is below this share of the light.
_OFFSET_ERROR = 0.15
_SAID_CHANGE = 0.1
_MOST_CHANGE = 20.0
_TOO_MUCH = 1.05  # of the mean: a slice without light shows its offset, and noise


@dataclass(frozen=True)
class Brightness:
    """How bright the slices of one stack are.

    Attributes
    ----------
    gain : (Z,) float64
        Of each slice, 1 in the middle one of them all, above 0. 1 where it would be
        below 1/20 or above 20: a slice without light cannot be corrected.
    dark_offset : float
        Counts of a pixel that saw no light.
    offset_source : str
        "given", "estimated", "assumed" where neither was possible, or "refused" where what
        was given is more than the stack's own counts: then nothing is corrected.
    """

    gain: NDArray[np.float64]
    dark_offset: float
    offset_source: str

    @property
    def note(self) -> str | None:
        """One line where brightness changes enough to matter, else None."""
        if self.offset_source == "refused":
            return (
                f"the dark offset of {self.dark_offset:.0f} counts is above the slices' mean: "
                "brightness is not corrected, check the offset"
            )
        lowest, highest = float(self.gain.min()), float(self.gain.max())
        if highest - lowest < _SAID_CHANGE:
            return None
        return (
            f"brightness changes from {lowest:.2f} to {highest:.2f} of the middle slice's: "
            f"corrected, with a dark offset of {self.dark_offset:.0f} counts "
            f"({self.offset_source})"
        )


def measure_brightness(mean: NDArray[np.float32], dark_offset: float | None = None) -> Brightness:
    """Measure the gain of every slice.

    Parameters
    ----------
    mean : (Z, By, Bx) float32
        Mean counts of every block.
    dark_offset : float, optional
        Counts of a pixel that saw no light; estimated where None, which needs a
        brightness that changes, and assumed 0 where it does not: then it hardly
        matters.

    Returns
    -------
    Brightness
    """
    cells = _cells(mean)
    totals = cells.mean(axis=1)
    if dark_offset is not None and dark_offset > _TOO_MUCH * np.median(totals):
        return Brightness(np.ones_like(totals), dark_offset, "refused")
    if dark_offset is not None:
        return Brightness(_gain(totals, dark_offset), dark_offset, "given")
    offset = _offset(cells, float(mean.min()))
    if offset is None:
        return Brightness(_gain(totals, 0.0), 0.0, "assumed")
    return Brightness(_gain(totals, offset), offset, "estimated")


def _cells(mean: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return means over square cells of blocks, (Z, cells); what the edge cuts is left out."""
    height, width = mean.shape[1:]
    side = min(_CELL_BLOCKS, height, width)
    rows, columns = height // side, width // side
    whole = mean[:, : rows * side, : columns * side]
    cells = np.zeros((len(mean), rows, columns))
    # Added plane by plane, which numpy does many times faster than a mean over short axes.
    for j in range(side):
        for i in range(side):
            cells += whole[:, j::side, i::side]
    flat: NDArray[np.float64] = cells.reshape(len(mean), -1) / side**2
    return flat


def _gain(totals: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    light = float(np.median(totals)) - offset
    if light <= 0:
        return np.ones_like(totals)
    gain: NDArray[np.float64] = (totals - offset) / light
    gain[(gain < 1 / _MOST_CHANGE) | (gain > _MOST_CHANGE)] = 1
    return gain


def _offset(cells: NDArray[np.float64], darkest: float) -> float | None:
    """Return the dark offset, or None where brightness changes too little to tell.

    From a slice to the next, ratio r brighter: mean' = r · mean + offset · (1 − r), with
    r the ratio of the cells' spreads.
    """
    totals, spreads = cells.mean(axis=1), cells.std(axis=1)
    if cells.shape[1] < 3 or spreads.min() <= 0:
        return None
    ratio = spreads[1:] / spreads[:-1]
    missing = totals[1:] - ratio * totals[:-1]
    lever = float(((1 - ratio) ** 2).sum())
    if lever == 0:
        return None
    offset = float(((1 - ratio) * missing).sum() / lever)
    offset = float(np.clip(offset, 0.0, max(darkest, 0.0)))
    scatter = missing - offset * (1 - ratio)
    error = np.sqrt((scatter**2).sum() / max(1, len(ratio) - 1) / lever)
    light = float(np.median(totals)) - offset
    if light <= 0 or error > _OFFSET_ERROR * light:
        return None
    return offset
