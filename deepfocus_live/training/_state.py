"""What a killed training leaves behind, so that the next one goes on from there.

Design Notes
------------
One file per profile, ``<registry root>/training/<profile>/state.pt``, replaced as a whole every
`SAVE_EVERY_S`. It is opened by ``torch.load(weights_only=True)``: a stranger's file can hold
tensors and plain values, and runs no code. It belongs to one training only: a checksum over
inputs, settings and parent says to which. A lock beside it, which the system lets go of when its
holder dies, keeps two trainings of one profile from writing the same file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from deepfocus_live import _platform
from deepfocus_live.training._fit import Checkpoint, FitState

__all__ = ["SAVE_EVERY_S", "SavedTraining", "StateFile"]

SAVE_EVERY_S = 20.0
_FORMAT = 1


@dataclass(frozen=True)
class SavedTraining:
    """A training under way: the state of the fit, and the time the whole call has taken so far."""

    fit: FitState
    elapsed_s: float


class StateFile:
    """The saved training of one profile; a context that holds its lock.

    Parameters
    ----------
    folder : path
        Made when first written to.
    fingerprint : str
        Of the training that is to be saved or gone on with.
    say : callable
        Called with one line about a file that cannot be used, or cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: str, say: Callable[[str], None]) -> None:
        self.path = folder / "state.pt"
        self._fingerprint = fingerprint
        self._say = say
        self._lock = FileLock(folder / ".lock", timeout=0)
        self._usable = True

    def __enter__(self) -> StateFile:
        if not self.path.parent.is_dir():
            return self  # nothing to go on from; no folder before there is something to save
        self._acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        held = self._lock.is_locked
        self._lock.release()
        if held:
            # On Windows a lock file goes once nobody holds it open; the folder goes if empty.
            with contextlib.suppress(OSError):
                Path(self._lock.lock_file).unlink(missing_ok=True)
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()

    def load(self) -> SavedTraining | None:
        """Return what was saved of this very training; None, with a line, of anything else."""
        if not self._usable or not self.path.is_file():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if saved["format"] != _FORMAT or saved["fingerprint"] != self._fingerprint:
                self._say(
                    f"{self.path}: is of a training with other stacks, settings or another "
                    "parent: begun anew"
                )
                return None
            return SavedTraining(_fit_state(saved["fit"]), float(saved["elapsed_s"]))
        except Exception as error:  # torch raises nearly anything on damaged files
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(f"{self.path}: the saved training is damaged ({first}): begun anew")
            return None

    def save(self, training: SavedTraining) -> None:
        """Replace the file; where that fails say so once, and go on without."""
        if not self._usable:
            return
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._lock.is_locked and not self._acquire():
                return
            torch.save(
                {
                    "format": _FORMAT,
                    "fingerprint": self._fingerprint,
                    "elapsed_s": training.elapsed_s,
                    "fit": asdict(training.fit),
                },
                new,
            )
            _platform.replace(new, self.path)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError of a full disk
            self._usable = False
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._say(f"{self.path}: cannot be saved ({first}): a kill would lose this training")
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the saved training: it is done, or not wanted."""
        if self._usable:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _acquire(self) -> bool:
        try:
            self._lock.acquire()
        except Timeout:
            self._usable = False
            self._say(
                "another training of this profile is under way: this one could not be gone on "
                "with after a kill"
            )
        except OSError as error:
            self._usable = False
            self._say(f"{self.path}: cannot be used ({error.strerror or error})")
        return self._usable


def _fit_state(saved: dict[str, Any]) -> FitState:
    wanted = {field.name for field in fields(FitState)}
    if set(saved) != wanted or not all(isinstance(v, Tensor) for v in saved["weights"].values()):
        raise ValueError("it holds other fields")
    checkpoints = [Checkpoint(**checkpoint) for checkpoint in saved["checkpoints"]]
    return FitState(**{**saved, "checkpoints": checkpoints})
