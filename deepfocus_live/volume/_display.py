"""What range of counts a viewer should show first: that of what was taken, not the camera's.

Design Notes
------------
A 16-bit camera rarely fills its range, so a picture shown over all of it is black. The range is
that of the slices so far, without the outermost thousandths. It is written anew only where it has
grown by a tenth, so that a run of any length writes it a few times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

__all__ = ["DisplayRange"]

_OUTSIDE = 0.1, 99.9  # percentiles
_GROWTH = 0.1
_MOST_PX = 1 << 16


class DisplayRange:
    """Keeps the display range in an image's `omero` metadata up to date; not thread-safe.

    Parameters
    ----------
    store : zarr store
        Holds the image.
    path : str
        Of the image's group.
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._shown: dict[int, tuple[float, float]] = {}
        windows = self._windows(self._ome())
        self._count = len(windows)
        for number, window in enumerate(windows):
            if (window["start"], window["end"]) != (window["min"], window["max"]):
                self._shown[number] = window["start"], window["end"]

    def look(self, channel: int, pixels: NDArray[Any]) -> bool:
        """Widen a channel's range by a slice, (Y, X); return whether the metadata were written.

        A channel that the metadata do not have is left out.
        """
        if channel >= self._count:
            return False
        found = _range_of(pixels)
        shown = self._shown.get(channel)
        if shown is not None:
            slack = _GROWTH * (shown[1] - shown[0])
            if found[0] >= shown[0] - slack and found[1] <= shown[1] + slack:
                return False
            found = min(found[0], shown[0]), max(found[1], shown[1])
        self._shown[channel] = found
        ome = self._ome()
        self._windows(ome)[channel].update(start=found[0], end=found[1])
        self._group().attrs["ome"] = ome
        return True

    def _group(self) -> zarr.Group:
        return zarr.open_group(self._store, path=self._path, mode="r+")

    def _ome(self) -> dict[str, Any]:
        return dict(self._group().attrs.get("ome", {}))  # type: ignore[arg-type]

    @staticmethod
    def _windows(ome: dict[str, Any]) -> list[dict[str, Any]]:
        channels = ome.get("omero", {}).get("channels", [])
        return [channel["window"] for channel in channels]


def _range_of(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return between which whole counts nearly all pixels of a slice lie; never an empty range."""
    step = max(1, int((pixels.size / _MOST_PX) ** 0.5))
    low, high = np.percentile(pixels[::step, ::step], _OUTSIDE)
    return float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))
