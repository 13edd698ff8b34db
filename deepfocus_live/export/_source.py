"""What is exported, whatever it was read from: images, their labels, and what is known of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus import DEFAULT_PRESET, Conditions
from deepfocus_live.frames import Calibration

__all__ = ["Place", "PlaneFacts", "Source", "SourceImage", "SourceLabel"]


class Place(NamedTuple):
    """Which slice of an image; time point, channel and slice, each from 0."""

    t: int
    c: int
    z: int


class PlaneFacts(NamedTuple):
    """What is known of one slice beside its pixels; None where nothing is."""

    z_um: float | None = None
    x_um: float | None = None
    y_um: float | None = None
    exposure_ms: float | None = None
    taken_at: float | None = None
    """Seconds, from any beginning that the image's slices share."""


@dataclass(frozen=True)
class SourceLabel:
    """One label of an image.

    Attributes
    ----------
    read : callable
        Place to (Y, X) uint8: 0, 1, and 2 for undecided where a person drew it.
    there : frozenset of Place
        Slices of which it says something.
    """

    read: Callable[[Place], NDArray[np.uint8]]
    there: frozenset[Place]


@dataclass(frozen=True)
class SourceImage:
    """One position (× tile): slices by place, one read at a time.

    Attributes
    ----------
    name : str
        For the file's own metadata.
    tag : str
        Part of file names that tells it from the other images: ``p1``, ``p1g3``, of a well
        plate ``B12f0``; "" if it is the only one.
    shape : (int, int, int, int, int)
        (t, c, z, y, x).
    dtype : dtype
        Of every slice.
    channels : tuple of str or None
        Their names, None where one has none.
    read : callable
        Place to (Y, X) of `dtype`; only for what is in `there`.
    there : frozenset of Place
        Slices that exist.
    pixel_size_um, z_step_um : Calibration or None
        None where they are not known.
    planes : mapping of Place
        What is known of single slices.
    labels : mapping of str to SourceLabel
        By name.
    conditions, preset
        How it was imaged, and what it is labelled with where that is to be computed.
    """

    name: str
    tag: str
    shape: tuple[int, int, int, int, int]
    dtype: np.dtype[Any]
    channels: tuple[str | None, ...]
    read: Callable[[Place], NDArray[Any]]
    there: frozenset[Place]
    pixel_size_um: Calibration | None = None
    z_step_um: Calibration | None = None
    planes: Mapping[Place, PlaneFacts] = field(default_factory=dict)
    labels: Mapping[str, SourceLabel] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=Conditions)
    preset: str = DEFAULT_PRESET
    judged: Callable[[Place], NDArray[Any]] | None = None
    """What sharpness is judged by, where that is not the slice itself: of colours the luminance."""
    pixels_stored: bool = True
    """Whether there are pixels at all, or labels only."""

    @property
    def places(self) -> Iterator[Place]:
        """Every place that the image has room for, in order of t, c and z."""
        return (Place(*index) for index in np.ndindex(*self.shape[:3]))

    @property
    def missing(self) -> list[Place]:
        """The places where nothing is, in order."""
        return [place for place in self.places if place not in self.there]

    @property
    def channel_names(self) -> list[str]:
        """A name for every channel, its number where there is none."""
        return [name or f"channel {c}" for c, name in enumerate(self.channels)]

    @property
    def time_step_s(self) -> float | None:
        """Median time from one time point to the next, as measured; None where it is not known."""
        begun: dict[int, float] = {}
        for place, facts in self.planes.items():
            if facts.taken_at is not None:
                begun[place.t] = min(begun.get(place.t, facts.taken_at), facts.taken_at)
        if len(begun) < 2 or sorted(begun) != list(range(len(begun))):
            return None
        step = float(np.median(np.diff([begun[t] for t in sorted(begun)])))
        return step if step > 0 else None


@dataclass(frozen=True)
class Source:
    """What a path holds.

    Attributes
    ----------
    name : str
        Of the run or file, for the names of what is exported.
    about : tuple of str
        Lines for every file's own description: who made it, of what.
    notes : tuple of str
        Lines for the person who exports.
    """

    name: str
    path: Path
    images: tuple[SourceImage, ...]
    about: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None
