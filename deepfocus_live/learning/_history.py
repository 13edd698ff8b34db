"""What one profile's learning must know after the daemon has ended.

Design Notes
------------
One small JSON file per profile, in the registry's folder: whoever takes the models to another
computer takes what was tried with them. It is replaced as a whole, so a reader finds the old or the
new. All that grows is bounded. A file that cannot be read is begun anew: what is lost with it is
memory of earlier decisions, never a model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfocus_live import _platform
from deepfocus_live.learning._policy import Decision
from deepfocus_live.learning._pool import StackPool, StackRecord
from deepfocus_live.learning._watch import Watch

__all__ = ["History", "Lesson", "RolledBack"]

_FORMAT = 1
_MOST_NEW = 32
_MOST_EARLIER = 64
_MOST_POINTS = 200
_MOST_ROLLED_BACK = 50
_UNREADABLE = (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Lesson:
    """What one fine-tune learns, or learnt, from.

    Attributes
    ----------
    new, replay : tuple of StackRecord
        Stacks since the fine-tune before, and earlier ones.
    parent : str
        The version that it starts from.
    """

    new: tuple[StackRecord, ...]
    replay: tuple[StackRecord, ...]
    parent: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "new": [record.as_json() for record in self.new],
            "replay": [record.as_json() for record in self.replay],
            "parent": self.parent,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Lesson:
        """Return what `as_json` wrote; KeyError, TypeError or ValueError if it did not."""
        return cls(
            tuple(StackRecord.from_json(one) for one in found["new"]),
            tuple(StackRecord.from_json(one) for one in found["replay"]),
            str(found["parent"]),
        )


@dataclass(frozen=True)
class RolledBack:
    """A version that was taken back.

    Attributes
    ----------
    version : str
    reason : str
        With the numbers.
    at : float
        Seconds since the epoch.
    learnt_from : tuple of (str, int, int, int)
        Run, image, t and c of the stacks that were new to it.
    """

    version: str
    reason: str
    at: float
    learnt_from: tuple[tuple[str, int, int, int], ...] = ()


@dataclass
class History:
    """The memory of one profile. Make one with `load`, keep it with `save`.

    Attributes
    ----------
    stacks : int
        Stacks that can be learnt from since the last fine-tune began.
    new : StackPool
        These, or the most different of them.
    earlier : StackPool
        Those before, for replay.
    points : list of dict
        The last agreements: `at`, `run`, `image`, `t`, `c`, `iou`, `decided`, `model`.
    last_started : float or None
        When the last fine-tune began, seconds since the epoch.
    last_decision : dict or None
        As `Decision.as_json`: the last that began a fine-tune, or took up or back a model.
    asked : bool
        Whether a fine-tune was asked for by hand and has not begun.
    lesson : Lesson or None
        What the fine-tune under way learns from; after it, what the version that waits or is
        watched learnt from.
    running : bool
        Whether a fine-tune was under way.
    waiting : str or None
        A version that passed the gate and waits for its swap.
    watch : Watch or None
        The watch under way.
    rolled_back : list of RolledBack
    """

    stacks: int = 0
    new: StackPool = field(default_factory=lambda: StackPool(_MOST_NEW))
    earlier: StackPool = field(default_factory=lambda: StackPool(_MOST_EARLIER))
    points: list[dict[str, Any]] = field(default_factory=list)
    last_started: float | None = None
    last_decision: dict[str, Any] | None = None
    asked: bool = False
    lesson: Lesson | None = None
    running: bool = False
    waiting: str | None = None
    watch: Watch | None = None
    rolled_back: list[RolledBack] = field(default_factory=list)

    # ------------------------------------------------------------ what happens

    def count(self, record: StackRecord) -> None:
        """Count a stack that can be learnt from; one that comes again counts once."""
        if record.address in self._blamed:
            return
        if record.address in self.earlier:
            self.earlier.add(record)
            return
        self.stacks += record.address not in self.new
        self.new.add(record)

    def point(self, point: Mapping[str, Any]) -> None:
        """Keep an agreement."""
        self.points = [*self.points, dict(point)][-_MOST_POINTS:]

    def agreements_of(self, model: str) -> list[float]:
        """Return what masks of `model` alone reached since the last fine-tune began."""
        since = self.last_started or 0.0
        return [
            point["iou"]
            for point in self.points
            if point["iou"] is not None and point["model"] == model and point["at"] >= since
        ]

    def decided(self, decision: Decision) -> None:
        """Keep the last decision."""
        self.last_decision = decision.as_json()

    def begin_lesson(self, parent: str, now: float, *, replay: int) -> Lesson:
        """Return what a fine-tune that begins now learns from, and count from zero.

        Parameters
        ----------
        parent : str
            The version that it starts from.
        now : float
            Seconds since the epoch.
        replay : int
            How many earlier stacks at least; as many as there are new ones where these are more.
        """
        fresh = tuple(self.new.clear())
        again = tuple(self.earlier.choose(max(replay, len(fresh))))
        if not fresh:
            fresh, again = again, ()
        self.lesson = Lesson(fresh, again, parent)
        self.running, self.asked = True, False
        self.stacks, self.last_started = 0, now
        for record in fresh:
            self.earlier.add(record)
        return self.lesson

    def end_lesson(self, *, learnt: bool) -> None:
        """Note that the fine-tune has ended; what it could not learn from stays new."""
        self.running = False
        if self.lesson is not None and not learnt:
            self.earlier.drop([record.address for record in self.lesson.new])
            for record in self.lesson.new:
                self.new.add(record)
            self.lesson = None

    def take_back(self, version: str, reason: str, now: float) -> None:
        """Remember a version that was taken back; nothing more is learnt from its new stacks."""
        lesson = self.lesson
        blamed = tuple(record.address for record in lesson.new) if lesson else ()
        self.rolled_back = [*self.rolled_back, RolledBack(version, reason, now, blamed)]
        self.rolled_back = self.rolled_back[-_MOST_ROLLED_BACK:]
        for pool in (self.new, self.earlier):
            pool.drop(blamed)
        self.lesson = self.watch = None

    def was_taken_back(self, version: str) -> bool:
        """Return whether a version is never to be made current again by itself."""
        return any(one.version == version for one in self.rolled_back)

    @property
    def _blamed(self) -> Collection[tuple[str, int, int, int]]:
        return {address for one in self.rolled_back for address in one.learnt_from}

    # ------------------------------------------------------------ the file

    @classmethod
    def load(cls, path: Path) -> tuple[History, str | None]:
        """Return what was kept, and one line where a file was there and could not be read."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls._from_json(found), None
        except FileNotFoundError:
            return cls(), None
        except (
            OSError,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as why:
            return cls(), f"{path}: cannot be read ({why}): what was learnt when is forgotten"

    def save(self, path: Path) -> None:
        """Replace the file.

        Raises
        ------
        OSError
            If it cannot be written; the file is as it was then.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        _platform.replace_file(path, json.dumps(self._as_json(), indent=1).encode())

    def _as_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "stacks": self.stacks,
            "new": [record.as_json() for record in self.new],
            "earlier": [record.as_json() for record in self.earlier],
            "points": self.points,
            "last_started": self.last_started,
            "last_decision": self.last_decision,
            "asked": self.asked,
            "lesson": None if self.lesson is None else self.lesson.as_json(),
            "running": self.running,
            "waiting": self.waiting,
            "watch": None if self.watch is None else self.watch.as_json(),
            "rolled_back": [vars(one) for one in self.rolled_back],
        }

    @classmethod
    def _from_json(cls, found: Mapping[str, Any]) -> History:
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}, this version reads {_FORMAT}")
        started, lesson, watch = found["last_started"], found["lesson"], found["watch"]
        decision, waiting = found["last_decision"], found["waiting"]
        return cls(
            stacks=max(0, int(found["stacks"])),
            new=StackPool(_MOST_NEW, map(StackRecord.from_json, found["new"])),
            earlier=StackPool(_MOST_EARLIER, map(StackRecord.from_json, found["earlier"])),
            points=[_point(one) for one in found["points"]][-_MOST_POINTS:],
            last_started=None if started is None else float(started),
            last_decision=None if decision is None else _decision(decision),
            asked=bool(found["asked"]),
            lesson=None if lesson is None else Lesson.from_json(lesson),
            running=bool(found["running"]),
            waiting=None if waiting is None else str(waiting),
            watch=None if watch is None else Watch.from_json(watch),
            rolled_back=[_rolled_back(one) for one in found["rolled_back"]][-_MOST_ROLLED_BACK:],
        )


def _point(found: Mapping[str, Any]) -> dict[str, Any]:
    iou, model = found["iou"], found["model"]
    return {
        "at": float(found["at"]),
        "run": str(found["run"]),
        **{axis: int(found[axis]) for axis in ("image", "t", "c")},
        "iou": None if iou is None else float(iou),
        "decided": float(found["decided"]),
        "model": None if model is None else str(model),
    }


def _decision(found: Mapping[str, Any]) -> dict[str, Any]:
    return Decision(bool(found["start"]), str(found["text"]), float(found["at"])).as_json()


def _rolled_back(found: Mapping[str, Any]) -> RolledBack:
    learnt_from = tuple(
        (str(run), int(image), int(t), int(c)) for run, image, t, c in found["learnt_from"]
    )
    return RolledBack(str(found["version"]), str(found["reason"]), float(found["at"]), learnt_from)
