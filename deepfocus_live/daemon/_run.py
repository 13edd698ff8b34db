"""A run that the daemon is working on: what has arrived, what is still owed to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.daemon._missed import MissedFrames
from deepfocus_live.focus import Conditions, StackLabeler
from deepfocus_live.frames import FrameHeader, Placement, RunSpec, StackKey
from deepfocus_live.volume import RunWriter

__all__ = ["ActiveRun", "Look", "PixelBudget", "SliceJob", "StackProgress"]

Pixels = NDArray[Any]


class PixelBudget:
    """How many bytes of slices may wait in memory for their masks and labels."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether slices that exist nowhere else must not become more."""
        return self._left <= 0

    def take(self, size: int, *, at_any_rate: bool = False) -> bool:
        """Reserve `size` bytes, `at_any_rate` also where there is no room; return whether."""
        with self._lock:
            if size > self._left and not at_any_rate:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._left += size


class SliceJob:
    """A durable slice on its way to its mask and its label.

    Its pixels are in memory while there is room, and are read back otherwise:
    a backlog costs time, never memory. Those of a run that keeps no pixels are
    in memory always; `Intake` takes no more of them while there is no room.
    """

    def __init__(
        self,
        run: ActiveRun,
        placement: Placement,
        sequence_number: int,
        *,
        budget: PixelBudget,
        pixels: Pixels | None = None,
        header: FrameHeader | None = None,
        users: int = 2,
    ) -> None:
        self.run = run
        self.placement = placement
        self.sequence_number = sequence_number
        self.header = header
        self._budget = budget
        self._users = users
        self._lock = threading.Lock()
        only_here = not run.writer.pixels_stored
        held = pixels is not None and budget.take(pixels.nbytes, at_any_rate=only_here)
        self._pixels = pixels if held else None

    @property
    def key(self) -> StackKey:
        """The stack it belongs to."""
        return self.placement.stack(self.run.spec.run_id)

    def pixels(self) -> Pixels:
        """Return the camera's counts, (Y, X) or (3, Y, X)."""
        pixels = self._pixels
        return self.run.writer.read_slice(self.placement) if pixels is None else pixels

    def done(self) -> None:
        """Say that one of its users needs it no more."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._pixels is not None:
                self._budget.give_back(self._pixels.nbytes)
                self._pixels = None


@dataclass(frozen=True)
class Look:
    """How a channel is looked at."""

    preset: str
    """Rule that labels its stacks."""
    conditions: Conditions | None = None
    profile: str = "default"
    segmented: bool = True
    """Whether its slices get masks."""


@dataclass
class StackProgress:
    """What is known so far of one focal stack."""

    key: StackKey
    size_z: int
    labeler: StackLabeler
    planned: bool = True
    """Whether `size_z` was known before the run; a run from an iterator has no plan."""
    last_number: int = -1
    """The highest sequence number of its slices."""
    z_um: dict[int, float | None] = field(default_factory=dict)
    in_focus_fraction: dict[int, float] = field(default_factory=dict)
    focus_score: dict[int, float] = field(default_factory=dict)
    """The network's mean probability of being in focus, per z."""
    complete: bool = False
    """Whether no more slices come: a later stack has begun, or the run has ended."""
    announced: bool = False
    labelled: bool = False
    scored: set[int] = field(default_factory=set)
    """Slices that have arrived at the labels."""
    in_memory: bool = True
    """Whether the labeller holds them; if not, they are read again when the stack is whole."""
    trainable: bool = True
    """Whether a network may learn from its labels."""
    contrast: float | None = None
    """How far its focus scores rise over z, once it is labelled."""

    @property
    def masked(self) -> bool:
        """Whether its last mask is there."""
        masks = len(self.in_focus_fraction)
        if self.planned and masks >= self.size_z:
            return True
        return self.complete and 0 < masks >= len(self.z_um)

    @property
    def fractions(self) -> list[float | None]:
        """In-focus fraction per z; None where there is no mask."""
        size = max(self.size_z, 1 + max(self.in_focus_fraction, default=-1))
        return [self.in_focus_fraction.get(z) for z in range(size)]

    @property
    def heights(self) -> list[float | None]:
        """Height per z in µm; None where it is not known."""
        return [self.z_um.get(z) for z in range(len(self.fractions))]

    @property
    def scores(self) -> list[float | None]:
        """Focus score per z; None where there is no mask."""
        return [self.focus_score.get(z) for z in range(len(self.fractions))]

    @property
    def best_z(self) -> int | None:
        """The slice with most in focus; None where nothing is."""
        best = max(self.in_focus_fraction, key=self.in_focus_fraction.__getitem__, default=None)
        return None if best is None or not self.in_focus_fraction[best] else best


class ActiveRun:
    """One run's writer and what is owed to it. Thread-safe.

    Parameters
    ----------
    writer : RunWriter
        Open.
    looks : Look
        One for each stored channel, or one for all.
    """

    def __init__(self, writer: RunWriter, *looks: Look) -> None:
        self.writer = writer
        self.spec: RunSpec = writer.spec
        self._looks = looks if len(looks) > 1 else looks * len(self.spec.channels)
        self.ended = False
        self.ending = False
        """Whether somebody is about to end it."""
        self.orphaned = False
        """Whether its program is dead: its frames come out of what that left."""
        self.missed: MissedFrames | None = None
        self.hardware_triggered = False
        self._then: Callable[[], None] | None = None
        self.received = 0
        self.masked = 0
        self._owed = 0
        self._in_flight: set[int] = set()
        self._stacks: dict[StackKey, StackProgress] = {}
        self._labelled_once: set[StackKey] = set(writer.labelled_before)
        self._cut_short: set[StackKey] = set()
        self._lost: set[int] = set()
        if not writer.pixels_stored:
            # An earlier daemon had their slices in memory, and nobody has them now.
            placed = writer.durable_placements()
            self._cut_short = {place.stack(self.spec.run_id) for place in placed.values()}
            self._lost = placed.keys() - writer.masked_before
        self._lock = threading.Lock()

    def look(self, channel: int) -> Look:
        """Return how a stored channel is looked at."""
        return self._looks[channel]

    def profile_of(self, channel: int) -> str:
        """Return the profile that a stored channel is looked at with."""
        return self._looks[channel].profile

    @property
    def profiles(self) -> list[str]:
        """The profiles of its channels, each once, in their order."""
        return list(dict.fromkeys(look.profile for look in self._looks))

    def claim(self, sequence_number: int) -> bool:
        """Return whether nobody is storing this frame right now, and say that we do."""
        with self._lock:
            if sequence_number in self._in_flight:
                return False
            self._in_flight.add(sequence_number)
            self.received += 1
            return True

    def release(self, sequence_number: int) -> None:
        """Say that the frame is stored and passed on, or that storing it was given up."""
        with self._lock:
            self._in_flight.discard(sequence_number)
        self._go_on_when_all_are_stored()

    def end(self, then: Callable[[], None]) -> None:
        """Note that no more frames come; `then` is called once those that came are passed on.

        A frame is acknowledged before it is passed on, so the end may be heard of in between: who
        labelled the stack then would do so without its last slice.
        """
        with self._lock:
            self.ended, self._then = True, then
        self._go_on_when_all_are_stored()

    def _go_on_when_all_are_stored(self) -> None:
        with self._lock:
            if self._in_flight or self._then is None:
                return
            then, self._then = self._then, None
        then()

    def owe(self, jobs: int) -> None:
        """Count work that must be done before the run can be closed (negative: done)."""
        with self._lock:
            self._owed += jobs

    @property
    def slices_owed(self) -> int:
        """How many stored slices may still want something: not fewer than there are."""
        with self._lock:
            return min(self._owed, self.writer.frames_durable)

    @property
    def finished(self) -> bool:
        """Whether the acquisition has ended and nothing is owed any more."""
        with self._lock:
            return self.ended and not self._owed and not self._in_flight

    def stack(self, key: StackKey) -> StackProgress:
        """Return the progress of a stack, begun here where it is new."""
        with self._lock:
            progress = self._stacks.get(key)
            if progress is None:
                shape = (self.spec.height_px, self.spec.width_px)
                look = self._looks[key.c]
                labeler = StackLabeler(look.preset, shape_yx=shape, conditions=look.conditions)
                progress = StackProgress(
                    key, self.writer.stack_size(key), labeler, planned=self.planned
                )
                self._stacks[key] = progress
                if key in self._labelled_once or key in self._cut_short:
                    # More has come of a stack than was planned, or after its run had ended.
                    progress.scored = self._durable_z(key)
                    progress.in_memory = False
            return progress

    def _durable_z(self, key: StackKey) -> set[int]:
        placements = self.writer.durable_placements().values()
        return {one.z for one in placements if one.stack(self.spec.run_id) == key}

    @property
    def planned(self) -> bool:
        """Whether the sizes of its stacks were known before its first frame."""
        return self.spec.frames_expected is not None or bool(self.spec.sequence)

    def complete_before(self, key: StackKey) -> list[StackProgress]:
        """Note that a stack has begun; return those of its place that are complete by that."""
        if self.planned:
            return []
        earlier = [
            one
            for one in self.stacks()
            if (one.key.image, one.key.c) == (key.image, key.c) and one.key.t < key.t
        ]
        for one in earlier:
            one.complete = True
        return earlier

    @property
    def all_announced(self) -> bool:
        """Whether the run has ended and all that its masks say has been told."""
        with self._lock:
            if not self.ended or self._in_flight:
                return False
            return all(one.announced or not one.z_um for one in self._stacks.values())

    def restore(self, journal: Iterable[Mapping[str, Any]], keys: Collection[StackKey]) -> None:
        """Take over what an earlier daemon knew of these stacks."""
        places = {}
        for line in journal:
            if line["kind"] == "frame":
                place = Placement(*(line[axis] for axis in ("image", "t", "c", "z")))
                key = place.stack(self.spec.run_id)
                if key in keys:
                    places[line["sequence_number"]] = place
                    progress = self.stack(key)
                    progress.z_um[place.z] = line.get("z_um")
                    progress.last_number = max(progress.last_number, line["sequence_number"])
            elif line["kind"] == "mask" and line["sequence_number"] in places:
                place = places[line["sequence_number"]]
                progress = self.stack(place.stack(self.spec.run_id))
                progress.in_focus_fraction[place.z] = line["in_focus_fraction"]
                if "focus_score" in line:
                    progress.focus_score[place.z] = line["focus_score"]

    def found_again(self, sequence_number: int) -> bool:
        """Return, once, whether a slice is at hand whose pixels died with an earlier daemon.

        They were in the journal before they were acknowledged, so the microscope sent them again.
        """
        with self._lock:
            found = sequence_number in self._lost
            self._lost.discard(sequence_number)
            return found

    def labelled(self, key: StackKey) -> bool:
        """Return whether the background is done with a stack, whatever came of it."""
        with self._lock:
            return key in self._labelled_once

    def forget(self, progress: StackProgress) -> None:
        """Let a stack go that is masked and labelled: its scores take memory."""
        with self._lock:
            if progress.labelled:
                self._labelled_once.add(progress.key)
                if progress.announced:
                    self._stacks.pop(progress.key, None)

    def stacks(self) -> list[StackProgress]:
        """Return the stacks that are not done."""
        with self._lock:
            return list(self._stacks.values())
