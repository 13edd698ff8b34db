"""What the page asks of the daemon for slices that are no longer live."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from deepfocus_live.frames import Placement

__all__ = ["SliceSource"]


class SliceSource(Protocol):
    """Reads stored slices back; called in a thread, at most two at a time."""

    def read_slice(
        self, run_id: str, placement: Placement
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return one stored slice and its mask.

        Parameters
        ----------
        run_id : str
            As a browser sent it: to be looked up among known runs, never to be
            made a path of.
        placement : Placement
            Image, t, c and z in that run.

        Returns
        -------
        pixels : (Y, X) uint8 or uint16
            Camera counts.
        mask : (Y, X) uint8 or None
            1 where in focus; None when it has not been made yet.

        Raises
        ------
        KeyError
            If there is no such slice.
        """
        ...
