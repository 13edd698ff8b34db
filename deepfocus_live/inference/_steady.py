"""An engine that answers every slice, whatever becomes of the device.

Design Notes
------------
There are several *ways* to an answer, the best first: the device asked for, the same in tiles, the
CPU, the CPU in tiles. A way that runs out of memory is passed over for slices as large as that one;
a way that fails is passed over for all. Both are tried again after a minute: a GPU that another
program had filled, or a driver that was reset, comes back without anybody's doing. The last way is
never passed over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._engine import Answer, Engine, EngineError, OutOfMemoryError

__all__ = ["SteadyEngine", "Way"]

log = logging.getLogger(__name__)

_REST_S = 60.0
_LARGE_PX = 4096 * 4096  # from here the memory is looked at before it is asked for
_MOST_OF_MEMORY = 0.5  # of what is free


@dataclass
class Way:
    """One way to an answer.

    Attributes
    ----------
    open : callable
        Returns the engine; called when it is first needed, and again after it failed.
    bytes_per_px : float
        Of the computer's memory, roughly, for a slice; 0 where it takes no more than a tile.
    engine : Engine, optional
        The one that is open.
    """

    open: Callable[[], Engine]
    bytes_per_px: float = 0.0
    engine: Engine | None = None
    rests_until: float = field(default=0.0, init=False)
    fits_px: float = field(default=float("inf"), init=False)

    def takes(self, pixels: int, now: float) -> bool:
        """Return whether a slice of so many pixels may be given to it."""
        if now < self.rests_until and pixels >= self.fits_px:
            return False
        if not self.bytes_per_px or pixels < _LARGE_PX:
            return True
        return pixels * self.bytes_per_px < _MOST_OF_MEMORY * psutil.virtual_memory().available

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        """Return mask and probability of one slice."""
        if self.engine is None:
            self.engine = self.open()
        return self.engine.run(counts)

    def rest(self, error: Exception, pixels: int, now: float) -> None:
        """Pass it over for a while: for such large slices only, if memory ran out."""
        self.rests_until = now + _REST_S
        self.fits_px = pixels if isinstance(error, OutOfMemoryError) else 0
        if not isinstance(error, OutOfMemoryError):
            self.engine = None


class SteadyEngine:
    """Several ways to an answer, one interface.

    Parameters
    ----------
    ways : sequence of Way
        The best first.
    on_change : callable
        Told in one line when another way is taken than before, and why.
    on_back : callable
        Told instead when that is the best way again.

    Attributes
    ----------
    provider : str
        What made the last answer, in the runtime's own words.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        on_change: Callable[[str], None],
        on_back: Callable[[str], None] = log.info,
    ) -> None:
        self._ways = list(ways)
        self._on_change = on_change
        self._on_back = on_back
        self._last = first = self._ways[0]
        first.engine = first.engine or first.open()
        self.provider = first.engine.provider

    @property
    def at_best(self) -> bool:
        """Whether the last answer came the best way."""
        return self._last is self._ways[0]

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        """Return mask and probability of one slice.

        Raises
        ------
        EngineError
            If not even the last way gives one; in one line, what was the matter with each.
        """
        failures: list[Exception] = []
        for way in self._ways:
            now = time.monotonic()
            if way is not self._ways[-1] and not way.takes(counts.size, now):
                continue
            try:
                answer = way.run(counts)
            except (EngineError, InputError) as error:
                log.debug("a way of inference failed", exc_info=True)
                way.rest(error, counts.size, now)
                failures.append(error)
            else:
                self._note(way, _in_words(failures))
                return answer
        full = all(isinstance(error, OutOfMemoryError) for error in failures)
        kind = OutOfMemoryError if full else EngineError
        raise kind(_in_words(failures)) from failures[-1]

    def _note(self, way: Way, why: str) -> None:
        if way is self._last or way.engine is None:
            return
        before, self.provider = self.provider, way.engine.provider
        self._last = way
        if self.at_best:
            self._on_back(f"masks are made on {self.provider} again")
            return
        reason = f": {why}; it is tried again in a minute" if why else ""
        self._on_change(f"masks are made on {self.provider}, no longer on {before}{reason}")


def _in_words(failures: Sequence[Exception]) -> str:
    """Return the failures in one line, each once."""
    first_lines = (str(error).partition("\n")[0] or type(error).__name__ for error in failures)
    return "; ".join(dict.fromkeys(first_lines))
