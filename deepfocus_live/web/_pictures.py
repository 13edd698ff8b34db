"""Slices and masks made into pictures, once for all viewers, on one thread.

Design Notes
------------
Whoever offers a slice or a mask only leaves a reference and goes on. One thread
takes the *newest* slice whenever it is free and due, so slices that came in
between are never drawn, and nothing can queue up. It runs only while somebody
watches. Kept at any time: one slice, the masks of at most 4 slices (a mask may
be offered before its slice: the network can be faster than the disk), and the
last 8 pictures encoded, so that a mask that comes late finds its picture.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import StackKey
from deepfocus_live.web._contrast import Contrast, SteadyContrast
from deepfocus_live.web._draw import (
    NO_MASK,
    draw_mask,
    draw_probability,
    draw_slice,
    probability_factor,
)
from deepfocus_live.web._message import Part, pack_message

__all__ = ["FrameId", "MadeMask", "Picture", "PictureMaker", "TakenSlice"]

_LOG = logging.getLogger(__name__)
_RAW_MASKS = 4
_PICTURES = 8


class FrameId(NamedTuple):
    """What a frame is known by, everywhere."""

    run_id: str
    sequence_number: int


@dataclass(frozen=True)
class TakenSlice:
    """A slice as it was handed over, with what the page is told of it."""

    frame: FrameId
    stack: StackKey
    z_slice: NDArray[Any] = field(repr=False)
    header: Mapping[str, Any]
    max_counts: int = 65535
    """What the camera gives at most."""


@dataclass(frozen=True)
class MadeMask:
    """A mask as it was handed over, with what the page is told of it."""

    frame: FrameId
    mask: NDArray[Any] = field(repr=False)
    header: Mapping[str, Any]
    probability: NDArray[np.uint8] | None = field(default=None, repr=False)
    threshold: float | None = None


@dataclass(frozen=True)
class Picture:
    """An encoded slice, and its mask as soon as that is encoded too."""

    number: int
    """Counts up over all pictures of this process: a viewer confirms by it."""
    frame: FrameId
    header: Mapping[str, Any]
    parts: tuple[Part, ...] = field(repr=False)
    mask_parts: tuple[Part, ...] = field(default=(), repr=False)
    mask_header: Mapping[str, Any] | None = None
    """What the header says once there is a mask."""

    def message(self) -> bytes:
        """Return slice and mask, as far as it is made, as one message."""
        return pack_message(self._head("picture"), (*self.parts, *self.mask_parts))

    def mask_message(self) -> bytes:
        """Return the mask alone, for viewers that have the picture."""
        return pack_message(self._head("mask"), self.mask_parts)

    def _head(self, kind: str) -> dict[str, Any]:
        head = {**self.header, "kind": kind, "number": self.number}
        return {**head, **(NO_MASK if self.mask_header is None else self.mask_header)}


class PictureMaker:
    """Makes pictures of the newest slice and its mask while somebody watches.

    Parameters
    ----------
    on_ready : callable
        Called on the maker's thread whenever there is something new.
    pictures_per_second : float
        The most that are made; more than an eye follows is wasted work.
    """

    def __init__(self, on_ready: Callable[[], None], *, pictures_per_second: float = 25.0) -> None:
        self._on_ready = on_ready
        self._interval_s = 1 / pictures_per_second
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="page-pictures")
        self._contrast = SteadyContrast()
        self._stored_contrast = SteadyContrast()
        self._contrast_lock = threading.Lock()
        self._newest: TakenSlice | None = None
        self._masks: OrderedDict[FrameId, MadeMask] = OrderedDict()
        self._pictures: OrderedDict[FrameId, Picture] = OrderedDict()
        self._watched = False
        self._working = False
        self._closed = False
        self._due = 0.0
        self._count = 0

    def offer_slice(self, taken: TakenSlice) -> None:
        """Leave a slice to be drawn; it takes the place of one that was not drawn yet."""
        with self._changed:
            self._newest = taken
            self._start()

    def offer_mask(self, made: MadeMask) -> None:
        """Leave a mask to be drawn if its slice is, or was not long ago."""
        with self._changed:
            self._masks[made.frame] = made
            self._masks.move_to_end(made.frame)
            while len(self._masks) > _RAW_MASKS:
                self._masks.popitem(last=False)
            self._start()

    def watch(self, watched: bool) -> None:
        """Say whether anybody looks; without one, nothing is encoded."""
        with self._changed:
            self._watched = watched
            self._start()

    def pictures(self) -> tuple[Picture, ...]:
        """Return the last pictures made, oldest first."""
        with self._changed:
            return tuple(self._pictures.values())

    def close(self) -> None:
        """End the thread; nothing is drawn any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True)

    def contrast_of(self, stack: StackKey, pixels: NDArray[Any]) -> Contrast:
        """Return with which contrast a slice that was read back is shown: its channel's."""
        with self._contrast_lock:
            return self._contrast.of(stack) or self._stored_contrast.follow(stack, pixels)

    def _start(self) -> None:
        """Call with the lock held."""
        if not self._watched or self._closed or not self._has_work():
            return
        if self._working:
            self._changed.notify_all()
            return
        self._working = True
        self._pool.submit(self._work)

    def _has_work(self) -> bool:
        return self._undrawn() is not None or self._unmarked() is not None

    def _undrawn(self) -> TakenSlice | None:
        newest = self._newest
        return None if newest is None or newest.frame in self._pictures else newest

    def _unmarked(self) -> MadeMask | None:
        """Return a mask whose picture is drawn without it."""
        for frame, made in reversed(self._masks.items()):
            picture = self._pictures.get(frame)
            if picture is not None and picture.mask_header is None:
                return made
        return None

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                self._do(job)
                self._on_ready()
            except Exception:
                # A picture that cannot be made must not end all that come after it.
                _LOG.exception("The page's picture of %s was not made", job.frame)
                self._forget(job)

    def _next_job(self) -> TakenSlice | MadeMask | None:
        """Return what to do next; wait until a slice is due, but never hold a mask back."""
        with self._changed:
            while self._watched and not self._closed:
                if (made := self._unmarked()) is not None:
                    return made
                if (taken := self._undrawn()) is None:
                    break
                wait_s = self._due - time.monotonic()
                if wait_s <= 0:
                    return taken
                self._changed.wait(wait_s)
            self._working = False
            return None

    def _do(self, job: TakenSlice | MadeMask) -> None:
        if isinstance(job, MadeMask):
            self._mark(job)
        else:
            self._due = time.monotonic() + self._interval_s
            self._draw_live(job)

    def _draw_live(self, taken: TakenSlice) -> None:
        with self._contrast_lock:
            contrast = self._contrast.follow(taken.stack, taken.z_slice)
        drawn, parts = draw_slice(taken.z_slice, contrast, taken.max_counts)
        with self._changed:
            self._count += 1
            self._pictures[taken.frame] = Picture(
                self._count, taken.frame, {**taken.header, **drawn}, tuple(parts)
            )
            while len(self._pictures) > _PICTURES:
                self._pictures.popitem(last=False)

    def _mark(self, made: MadeMask) -> None:
        parts = [draw_mask("mask", made.mask)]
        if made.probability is not None:
            parts.append(draw_probability(made.probability))
        told = {
            "mask": made.header,
            "threshold": made.threshold,
            "probability_factor": probability_factor(made.mask.shape, made.probability),
        }
        with self._changed:
            self._masks.pop(made.frame, None)
            picture = self._pictures.get(made.frame)
            if picture is not None:
                marked = replace(picture, mask_parts=tuple(parts), mask_header=told)
                self._pictures[made.frame] = marked

    def _forget(self, job: TakenSlice | MadeMask) -> None:
        with self._changed:
            self._masks.pop(job.frame, None)
            if isinstance(job, TakenSlice) and self._newest is job:
                self._newest = None
