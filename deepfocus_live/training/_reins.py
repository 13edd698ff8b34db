"""What holds a training back from outside: it is paused, asked to stop, or its owner is gone."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Self

from deepfocus_live import _platform
from deepfocus_live.training._orders import TrainerFolder

__all__ = ["EXIT_STOPPED", "Reins", "TrainingStoppedError"]

EXIT_STOPPED = 3
_LOOK_EVERY_S = 0.1
_OWNER_EVERY_S = 1.0
_GRACE_S = 3.0


class TrainingStoppedError(Exception):
    """The training was asked to end; what was learnt so far is saved."""


class Reins:
    """Watches a trainer's folder and owner from a thread of its own, as a context.

    Work that does not come to `hold` within 3 s of being asked to stop is ended with its process:
    what it had saved is there, and nothing else of it is of use.

    Parameters
    ----------
    folder : TrainerFolder
    owner : ProcessStamp
        Whose end is asking to stop, too.
    """

    def __init__(self, folder: TrainerFolder, owner: _platform.ProcessStamp) -> None:
        self._folder = folder
        self._owner = owner
        self._stop = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reins", daemon=True)
        self.owner_gone = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def hold(self) -> float:
        """Return at once, or when the pause is over; return the seconds that took.

        Raises
        ------
        TrainingStoppedError
            If the training is to end.
        """
        paused = self._folder.paused
        began = time.monotonic()
        while paused and not self._stop.wait(_LOOK_EVERY_S):
            paused = self._folder.paused
        held = time.monotonic() - began
        if self._stop.is_set():
            raise TrainingStoppedError
        return held

    def _watch(self) -> None:
        next_look = 0.0
        while not self._done.wait(_LOOK_EVERY_S):
            if time.monotonic() >= next_look:
                self.owner_gone = not self._owner.alive()
                next_look = time.monotonic() + _OWNER_EVERY_S
            if self.owner_gone or self._folder.stop_asked:
                break
        else:
            return
        self._stop.set()
        if not self._done.wait(_GRACE_S):
            if self.owner_gone:
                self._folder.remove()
            os._exit(EXIT_STOPPED)
