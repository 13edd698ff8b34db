"""What the sender's thread is told, in the order in which it does it, and what it counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import useq
from numpy.typing import NDArray

__all__ = ["Begin", "End", "Errand", "Flush", "FrameCounts", "Prepare", "Stop", "Taken"]


@dataclass
class Prepare:
    frame_bytes: int


@dataclass
class Begin:
    sequence: useq.MDASequence
    summary: Mapping[str, Any]
    output: str | None
    profile: str | None


@dataclass
class Taken:
    image: NDArray[Any]
    event: useq.MDAEvent
    meta: Mapping[str, Any]
    taken_at: float


@dataclass
class End:
    reason: str


@dataclass
class Stop:
    pass


@dataclass
class Flush:
    done: threading.Event


Errand = Prepare | Begin | Taken | End | Flush | Stop


@dataclass
class FrameCounts:
    """Frames since the attachment was made."""

    taken: int = 0
    durable: int = 0
    """Of runs that are closed; see `FrameSender.frames_durable` for all."""
    refused: int = 0
    """Frames of runs that could not be opened; each such run was warned about."""
    waits: int = 0
    """How often the acquisition was slowed because memory for waiting frames ran out."""
    waited_s: float = 0.0
    spilled: int = 0
    """Frames that went by way of a disk because the ring was full."""
    missed: int = 0
    """Frames of the sequences that the camera did not deliver, as far as that is known."""
    paths: list[str] = field(default_factory=list)
    """Folders of the last runs, in order."""
    space: str | None = None
    """Why the present run does not fit on its disk; None: it does, as far as is known."""
