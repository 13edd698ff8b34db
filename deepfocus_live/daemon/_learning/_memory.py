"""What the daemon remembers of each profile's learning, and where its decisions are said."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deepfocus_live.config import Config
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.daemon._warnings import SayWarning
from deepfocus_live.errors import InputError
from deepfocus_live.learning import Decision, History
from deepfocus_live.model import Registry

__all__ = ["LearningMemory"]

log = logging.getLogger(__name__)


class LearningMemory:
    """The histories of all profiles.

    Parameters
    ----------
    config : Config
        Which profiles there are.
    registry : Registry
        Beside whose models it is kept.
    runs : callable
        Returns the open runs.
    say : callable
        Called with one line for log and page.
    warn : callable
        Told where something cannot be written.
    clock : callable
        Seconds since the epoch.

    Attributes
    ----------
    guard : RLock
        Held by whoever reads or changes a history. Nobody who holds it waits for a model.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        *,
        runs: Callable[[], list[ActiveRun]],
        say: Callable[[str], None],
        warn: SayWarning,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._runs = runs
        self._say = say
        self._warn = warn
        self.now = clock
        self.guard = threading.RLock()
        self._histories = {profile: self._recall(profile) for profile in config.profiles}

    def __iter__(self) -> Iterator[str]:
        return iter(self._histories)

    def __contains__(self, profile: object) -> bool:
        return profile in self._histories

    def __getitem__(self, profile: str) -> History:
        return self._histories[profile]

    def named(self, profile: str) -> History:
        """Return the history of a profile that a person named.

        Raises
        ------
        InputError
            If there is no such profile.
        """
        if profile not in self._histories:
            names = ", ".join(self._histories)
            raise InputError(f"there is no profile {profile!r}; there are: {names}")
        return self._histories[profile]

    def keep(self, profile: str) -> None:
        """Write down what is known; a disk that refuses costs memory, never work."""
        with self.guard:
            try:
                self._histories[profile].save(self._file(profile))
            except OSError as error:
                self._warn(
                    f"profile {profile}: what is learnt when cannot be written down in "
                    f"{self._registry.root}: {error.strerror or error}",
                    key=("history", profile),
                )

    def decided(
        self, profile: str, kind: str, words: str, *, start: bool = False, model: str | None = None
    ) -> None:
        """Keep a decision and say it everywhere: log, page, journals of the runs it is about."""
        text = f"profile {profile}: {words}"
        with self.guard:
            self._histories[profile].decided(Decision(start, text, self.now()))
            self.keep(profile)
        self._say(text)
        for run in self._runs():
            if profile in run.profiles:
                try:
                    run.writer.note(
                        "learning", profile=profile, decision=kind, text=words, model=model
                    )
                except RuntimeError:  # closed meanwhile
                    log.debug("a decision is not in the journal of %s", run.spec.name)

    def _recall(self, profile: str) -> History:
        history, trouble = History.load(self._file(profile))
        if trouble is not None:
            log.warning("profile %s: %s", profile, trouble)
        return history

    def _file(self, profile: str) -> Path:
        return self._registry.root / "learning" / f"{profile}.json"
