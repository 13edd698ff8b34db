"""The warnings that stand: each said once, then with a count, until it is over.

Design Notes
------------
A warning is told from others by its key. What repeats under one key is one warning, with the newest
words. It is said when it comes and, while it repeats, once a minute with its count. What has an end
(a disk that refuses) is cleared by whoever raised it; it stands a little longer, so that a disk
that takes one slice in ten is one warning that stays and not a hundred that come and go. What has
none (frames that a camera did not deliver) stands for a week: whoever comes on Monday reads of
Friday's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["ClearWarning", "SayWarning", "StandingWarning", "StandingWarnings"]

_SAY_AGAIN_S = 60.0
_OVER_AFTER_S = 3.0
_STANDS_S = 7 * 86400.0
_MOST = 20


class SayWarning(Protocol):
    """Takes a warning: its words, what tells it from others, and the run that it is about."""

    def __call__(self, text: str, *, key: Hashable = None, run: str | None = None) -> None:
        """Warn. Without a key the words are the key."""
        ...


class ClearWarning(Protocol):
    """Ends a warning that was raised under a key; says `over` once it is gone."""

    def __call__(self, key: Hashable, *, over: str | None = None) -> None:
        """End it, if it stands."""
        ...


@dataclass
class StandingWarning:
    """One warning, however often it came."""

    text: str
    run: str | None
    """Name of the run that it is about."""
    first_at: float
    """Seconds since the epoch."""
    last_at: float
    count: int = 1
    said: int = 1
    # From here on by a clock that nobody sets.
    seen: float = 0.0
    said_when: float = 0.0
    over_since: float | None = None
    over: str | None = None

    @property
    def in_words(self) -> str:
        """The text, with the count where there is one to tell."""
        return self.text if self.count < 2 else f"{self.text} (×{self.count})"

    def as_json(self) -> dict[str, object]:
        """Return what `status` says of it."""
        return {
            "text": self.text,
            "run": self.run,
            "count": self.count,
            "first_at": round(self.first_at, 3),
            "last_at": round(self.last_at, 3),
        }


class StandingWarnings:
    """What stands, the oldest first; of more than 20 the one that was longest quiet is dropped.

    Parameters
    ----------
    say : callable
        Called with (level, text, run) when there is something to say.
    clock : callable
        Seconds, never going back.
    """

    def __init__(
        self,
        say: Callable[[str, str, str | None], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._clock = clock
        self._standing: dict[Hashable, StandingWarning] = {}
        self._guard = threading.RLock()

    def warn(self, text: str, *, key: Hashable = None, run: str | None = None) -> None:
        """Take a warning; what stands under the same key (else: the same words) is counted on."""
        now, at = self._clock(), time.time()
        key = text if key is None else key
        with self._guard:
            found = self._standing.get(key)
            if found is not None:
                found.text, found.last_at, found.seen = text, at, now
                found.count, found.over_since = found.count + 1, None
                self._say_count(found, now)
                return
            self._standing[key] = StandingWarning(text, run, at, at, seen=now, said_when=now)
            while len(self._standing) > _MOST:
                del self._standing[min(self._standing, key=lambda k: self._standing[k].seen)]
            self._say("warning", text, run)

    def clear(self, key: Hashable, *, over: str | None = None) -> None:
        """Note that a warning's cause is gone; a little later it goes away, and `over` is said."""
        with self._guard:
            found = self._standing.get(key)
            if found is not None and found.over_since is None:
                found.over_since, found.over = self._clock(), over

    def look(self) -> None:
        """Say the counts that are due; let go what is over. To be called every second or so."""
        with self._guard:
            now = self._clock()
            for key, found in list(self._standing.items()):
                self._say_count(found, now)
                since = found.over_since
                if (since is not None and now - since >= _OVER_AFTER_S) or (
                    now - found.seen > _STANDS_S
                ):
                    del self._standing[key]
                    if found.over is not None:
                        counted = f" (the warning came {found.count} times)"
                        self._say("info", found.over + counted * (found.count > 1), found.run)

    def standing(self) -> list[StandingWarning]:
        """Return what stands now."""
        with self._guard:
            return list(self._standing.values())

    def _say_count(self, found: StandingWarning, now: float) -> None:
        if found.count > found.said and now - found.said_when >= _SAY_AGAIN_S:
            found.said, found.said_when = found.count, now
            self._say("warning", found.in_words, found.run)
