"""Noticing that the computer slept, or that somebody set its clock."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ClockWatch"]

_WORTH_SAYING_S = 30.0


class ClockWatch:
    """Compares what the clocks say between two looks with what should have passed.

    Nothing in the daemon goes by the wall clock, so this only says why frames, logs and
    heartbeats have a gap. Sleep and a clock that was set forwards cannot be told apart on every
    system.

    Parameters
    ----------
    every_s : float
        Time from one look to the next, s.
    wall, steady : callable
        The clock that can be set, and the one that cannot, s. The latter stands still in sleep on
        Linux and macOS, and goes on on Windows.
    """

    def __init__(
        self,
        every_s: float,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._clocks = wall, steady
        self._last = wall(), steady()

    def look(self) -> str | None:
        """Return what happened since the last look, in one line; None if nothing did."""
        wall, steady = (clock() for clock in self._clocks)
        wall_s, steady_s = wall - self._last[0], steady - self._last[1]
        self._last = wall, steady
        if steady_s - wall_s > _WORTH_SAYING_S:
            return f"the computer's clock was set back by {steady_s - wall_s:.0f} s"
        if wall_s - self._every_s > _WORTH_SAYING_S:
            return (
                f"the clock went on by {wall_s:.0f} s without this daemon: the computer slept, "
                "stood still, or its clock was set"
            )
        return None
