"""What the page asks of the daemon for what is no longer live: runs, slices, stacks, models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import Placement, RunSpec, StackKey

__all__ = [
    "InFocusVolume",
    "NotPossibleError",
    "Progress",
    "Projection",
    "RunSource",
    "SliceSource",
    "StackViews",
    "StoredSlice",
    "ViewKind",
]

ViewKind = Literal["projection", "volume"]


@dataclass(frozen=True)
class StoredSlice:
    """A slice that was read back, and what is known of it.

    Attributes
    ----------
    pixels : (Y, X) or (3, Y, X) uint8 or uint16
        Camera counts.
    mask : (Y, X) uint8 or None
        1 where in focus; None: not made yet.
    probability : (Y / r, X / r) uint8 or None
        The network's, 0 to 255; r is its reduction.
    threshold : float or None
        Probability, 0 to 1, from which its mask is 1; None: not known.
    undecided : (Y, X) uint8 or None
        1 where the rule will not say; None: its stack is not labelled.
    labelled : bool
        Whether its stack is.
    z_um : float or None
        Height by the stage.
    spec : RunSpec or None
        Of its run; None: what the hub knows of it.
    """

    pixels: NDArray[Any]
    mask: NDArray[Any] | None = None
    probability: NDArray[np.uint8] | None = None
    threshold: float | None = None
    undecided: NDArray[Any] | None = None
    labelled: bool = False
    z_um: float | None = None
    sequence_number: int | None = None
    spec: RunSpec | None = None


class SliceSource(Protocol):
    """Reads stored slices back; called in a thread, at most two at a time."""

    def read_slice(self, run_id: str, placement: Placement) -> StoredSlice:
        """Return one stored slice.

        Parameters
        ----------
        run_id : str
            As a browser sent it: to be looked up among known runs, never to be made a path of.
        placement : Placement
            Image, t, c and z in that run.

        Raises
        ------
        KeyError
            If there is no such slice.
        """
        ...


class RunSource(SliceSource, Protocol):
    """Knows the runs as well; called in a thread. Answers are plain values, as `docs/api.md`."""

    def list_runs(self) -> list[dict[str, Any]]:
        """Return the runs there are, newest first."""
        ...

    def describe_run(self, run_id: str) -> dict[str, Any]:
        """Return one run with its curves; KeyError if there is none."""
        ...

    def store_of(self, run_id: str) -> Path:
        """Return the folder of a run's volume; KeyError if there is none."""
        ...


class NotPossibleError(Exception):
    """What was asked for cannot be had now; the message says why, for people."""


@dataclass(frozen=True)
class Progress:
    """How far something is that is being made; `part` is None while it waits for its turn."""

    part: float | None


@dataclass(frozen=True)
class Projection:
    """One stack from above.

    Attributes
    ----------
    image : (Y, X) or (3, Y, X) uint8 or uint16
        All in focus, in camera counts, binned by `factor`.
    depth : (By, Bx) float32
        Height of the best focus in `unit`; NaN where nothing is in focus or it is undecided.
    block_px : int
        Pixels of `image` per value of `depth`, each way.
    full_shape : (int, int)
        Height and width of a slice.
    low, high : float
        Lowest and highest slice, in `unit`.
    measured : bool
        Whether heights are the stage's.
    """

    image: NDArray[Any]
    depth: NDArray[np.float32]
    block_px: int
    factor: int
    full_shape: tuple[int, int]
    low: float
    high: float
    unit: Literal["µm", "slices"]
    measured: bool
    pixel_um: float | None


@dataclass(frozen=True)
class InFocusVolume:
    """What is in focus in one stack.

    Attributes
    ----------
    voxels : (Z, Y, X) uint8
        0 where nothing is in focus, else brightness.
    z_um : tuple of float, or None
        Height of each of its slices; None: not known.
    voxel_um : float or None
        Width of a voxel, along x and y.
    low, high : float
        Counts that 1 and 255 stand for.
    mask : str
        Name of the label that it was cut by.
    """

    voxels: NDArray[np.uint8]
    z_um: tuple[float, ...] | None
    voxel_um: float | None
    low: float
    high: float
    mask: str


class StackViews(Protocol):
    """Makes views of whole stacks in the background, and keeps the last few."""

    def get(self, kind: ViewKind, key: StackKey) -> Projection | InFocusVolume | Progress:
        """Return a view, or how far it is; the first call begins it. Never waits for it.

        Raises
        ------
        KeyError
            If there is no such stack.
        NotPossibleError
            If it cannot be made, or not yet.
        """
        ...
