"""A focal stack: slices read when they are asked for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration
from deepfocus_live.stacks._calibration import Geometry
from deepfocus_live.stacks._plane import checked_plane

__all__ = ["Stack"]


class Stack:
    """One position, time and channel of a STACK: (Z, Y, X), lazily read.

    Made by `open_stack` and `open_stacks`. Slices are read from disk each time they are
    asked for; nothing is kept. Safe to read from several threads. Readers keep a TIFF open
    between slices: `close` it, use the stack in a ``with`` block, or let it go out of scope.
    A closed stack opens its file again when it is read.

    Attributes
    ----------
    name : str
        Unique among the stacks of one path: the file's name without its suffix,
        with ``-p1-t0-c2`` where there are several positions, times or channels.
    path : Path
        What the user named.
    shape : (int, int, int)
        (Z, Y, X).
    dtype : uint8, uint16 or float32
        Of every slice, native byte order.
    position, time, channel : int
        Which of those in the file, from 0.
    channel_name : str or None
        Where the file gives one.
    pixel_size_um, z_step_um : Calibration or None
        None where the file says nothing: missing calibration is never guessed.
    z_um : (Z,) float64 or None
        z of every slice in µm: as the file places them, else multiples of the step; None
        where not even a step is known.
    notes : tuple of str
        What was assumed or contradicted in the file, a line each.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        read_slice: Callable[[int], NDArray[Any]],
        position: int = 0,
        time: int = 0,
        channel: int = 0,
        channel_name: str | None = None,
        geometry: Geometry | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        geometry = geometry or Geometry()
        self.name = name
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.position = position
        self.time = time
        self.channel = channel
        self.channel_name = channel_name
        self.pixel_size_um: Calibration | None = geometry.pixel_size_um
        self.z_step_um: Calibration | None = geometry.z_step_um
        self.z_um: NDArray[np.float64] | None = geometry.z_um
        self.notes: tuple[str, ...] = geometry.notes
        self._read_slice = read_slice
        self._close = close

    def __repr__(self) -> str:
        return f"<Stack {self.name!r} {self.shape} {self.dtype.name}>"

    def __len__(self) -> int:
        """Return the number of slices."""
        return self.shape[0]

    def __getitem__(self, z_index: int) -> NDArray[Any]:
        """Read one slice.

        Parameters
        ----------
        z_index : int
            Negative counts from the end.

        Returns
        -------
        (Y, X) of `dtype`
            The caller's own copy.

        Raises
        ------
        IndexError
            If there is no such slice.
        InputError
            If its pixels were not stored or cannot be decoded, it is in colour, or it is
            not of the stack's size and type.
        """
        z = operator.index(z_index)
        if not -len(self) <= z < len(self):
            raise IndexError(f"{self.name} has slices 0 to {len(self) - 1}, not {z}")
        z %= len(self)
        where = f"{self.path}: slice {z}"
        try:
            raw = self._read_slice(z)
        except InputError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged data
            raise InputError(
                f"{where} cannot be read ({error}): the file is damaged or still being written, "
                "copy it again or leave it out"
            ) from error
        plane = checked_plane(raw, where)
        if plane.shape != self.shape[1:] or plane.dtype != self.dtype:
            raise InputError(
                f"{where} is {plane.shape} {plane.dtype.name}, the stack began with "
                f"{self.shape[1:]} {self.dtype.name}. Slices of one stack must have one size "
                "and type: crop, convert or remove it."
            )
        return plane

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Read slice after slice, one in memory at a time."""
        return (self[z] for z in range(len(self)))

    def read(self) -> NDArray[Any]:
        """Read the whole stack into memory.

        Returns
        -------
        (Z, Y, X) of `dtype`

        Raises
        ------
        InputError
            As reading one slice does.
        """
        z_stack = np.empty(self.shape, self.dtype)
        for z, z_slice in enumerate(self):
            z_stack[z] = z_slice
        return z_stack

    def close(self) -> None:
        """Close the file, which Windows needs before it can be moved or deleted."""
        if self._close is not None:
            self._close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
