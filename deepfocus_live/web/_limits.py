"""Limits on what is asked for at once, and how often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["Allowance", "TooManyError", "Turnstile"]


class TooManyError(Exception):
    """More was asked for than is done."""


class Allowance:
    """A store of `most` permissions that fills up again at `per_second`."""

    def __init__(
        self, most: int, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = float(most)
        self._per_second = per_second
        self._clock = clock
        self._left = self._most
        self._at = clock()

    def take(self) -> bool:
        """Return whether there is one left, and take it."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Turnstile:
    """Lets `at_once` in, and `waiting` wait; whoever comes then is turned away."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._there = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a turn.

        Raises
        ------
        TooManyError
            If too many wait already.
        """
        if self._there >= self._most:
            raise TooManyError
        self._there += 1
        try:
            async with self._turns:
                yield
        finally:
            self._there -= 1
