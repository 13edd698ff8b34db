"""What comes back from the daemon: masks, and what the masks of a stack say together."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.ring import Message

__all__ = ["MaskResult", "StackResult", "mask_of", "stack_of"]


@dataclass(frozen=True)
class MaskResult:
    """One slice's in-focus mask, as the daemon's network made it."""

    run_id: str | None
    """None where the frame is no run's; see `live`."""
    sequence_number: int
    """Of the frame in its run; of live frames in the order they were looked at."""
    placement: Placement | None
    """Where the frame lies in its run; None of a live frame."""
    z_um: float | None
    """Stage position that the frame was taken at; None where it is not known."""
    mask: NDArray[np.bool_]
    """(Y, X); True is in focus."""
    in_focus_fraction: float
    """Part of the pixels that is in focus, 0 … 1."""
    focus_score: float
    """The network's mean probability of being in focus, 0 … 1; see `StackResult.focus_score`."""
    model: str
    """Name of the model's version."""
    milliseconds: float
    """In the network, from slice to mask."""
    live: bool = False
    """Whether it is of what the camera shows in live mode; such frames are stored nowhere."""


@dataclass(frozen=True)
class StackResult:
    """What the masks say of one focal stack.

    Sequences have one entry per slice, in the order of z in the run, the first slice first;
    None where a slice, its mask or its height is missing, as in a stack that was cut off.
    """

    key: StackKey
    """Which stack of which run."""
    image_name: str
    """Name of the position (and tile) that the stack was taken at."""
    z_um: tuple[float | None, ...]
    """Stage position of each slice, measured where the microscope says so, else as asked for."""
    in_focus_fraction: tuple[float | None, ...]
    """Part of the slice's pixels that is in focus, 0 … 1; the focus curve to choose by."""
    focus_score: tuple[float | None, ...]
    """The network's mean probability of being in focus, 0 … 1; higher is sharper.

    The in-focus fraction without its threshold: it still has a shape where nothing, or all, passes
    the threshold. Comparable between stacks that one model has seen; it does not follow exposure.
    """
    best_z: int | None
    """The slice with the largest in-focus fraction; None where nothing is in focus."""

    @property
    def best_z_um(self) -> float | None:
        """Stage position of the best slice; None where nothing is in focus, or it is not known."""
        return None if self.best_z is None else self.z_um[self.best_z]

    @property
    def focus_reached(self) -> bool:
        """Whether the best slice lies within the scan.

        False where nothing is in focus, and where the best is the first or the last slice: then
        the specimen may be sharper beyond that end.
        """
        masked = [z for z, share in enumerate(self.in_focus_fraction) if share is not None]
        return self.best_z is not None and self.best_z not in (masked[0], masked[-1])

    def __str__(self) -> str:
        return f"the stack at {self.image_name} (t {self.key.t}, c {self.key.c})"


def mask_of(message: Message) -> MaskResult:
    """Return the mask that a message brings."""
    height, width = message["shape"]
    bits = np.frombuffer(zlib.decompress(base64.b64decode(message["mask"])), np.uint8)
    mask = np.unpackbits(bits, count=height * width).reshape(height, width).view(np.bool_)
    live = bool(message.get("live"))
    return MaskResult(
        run_id=None if live else message["run_id"],
        sequence_number=message["sequence_number"],
        placement=None if live else Placement(*message["placement"]),
        z_um=message["z_um"],
        mask=mask,
        in_focus_fraction=message["in_focus_fraction"],
        focus_score=message["focus_score"],
        model=message["model"],
        milliseconds=message["milliseconds"],
        live=live,
    )


def stack_of(message: Message) -> StackResult:
    """Return what a message says of a stack."""
    return StackResult(
        key=StackKey(*message["key"]),
        image_name=message["image_name"],
        z_um=tuple(message["z_um"]),
        in_focus_fraction=tuple(message["in_focus_fraction"]),
        focus_score=tuple(message["focus_score"]),
        best_z=message["best_z"],
    )
