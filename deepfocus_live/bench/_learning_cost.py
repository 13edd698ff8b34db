"""What a fine-tune costs whoever acquires meanwhile, and how much memory it takes.

The same acquisition takes turns with and without a trainer beside it, in one daemon. What is
compared are the daemon's own figures over its last 1000 slices: an acquisition has as many.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import useq
from numpy.typing import NDArray

from deepfocus_live.bench._session import Session, open_session
from deepfocus_live.bench._table import Row
from deepfocus_live.simulation import FocalStack, demo_stack

__all__ = ["Cost", "CostEffort", "Turn", "cost_rows", "measure_cost", "trainer_peak_mb"]

_T = TypeVar("_T", bound=np.generic)

_WINDOW = 1000
"""Slices that the daemon's latencies are of."""
_TRAINER = "_trainer_main"
_LOOK_S = 0.05
_PATIENCE_S = 600.0
_MASK_GOAL, _ACK_GOAL, _MEMORY_GOAL = 1.3, 2.0, 2000.0


@dataclass(frozen=True)
class CostEffort:
    """How much is measured.

    Attributes
    ----------
    side, slices : int
        Of the stacks that are acquired beside a trainer.
    rate : float
        Frames per second; low enough that masks and labels keep up.
    frames : int
        Of one acquisition.
    pairs : int
        Acquisitions with and without a trainer.
    minutes : float
        Of a fine-tune: longer than an acquisition.
    memory_side, memory_slices, memory_stacks : int
        Of the stacks that the trainer learns from while its memory is watched.
    memory_minutes : float
        Of that fine-tune.
    """

    side: int = 512
    slices: int = 10
    rate: float = 15.0
    frames: int = _WINDOW
    pairs: int = 2
    minutes: float = 1.2
    memory_side: int = 2048
    memory_slices: int = 12
    memory_stacks: int = 16
    memory_minutes: float = 0.5


@dataclass(frozen=True)
class Turn:
    """One acquisition.

    Attributes
    ----------
    trained : float
        Part of the time that a trainer ran beside it, 0..1.
    mask_ms : float
        Median time from camera to mask.
    ack_p99_ms : float
        99th percentile of the time from camera to acknowledgement.
    """

    trained: float
    mask_ms: float
    ack_p99_ms: float


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes
    ----------
    effort : CostEffort
    without, beside : tuple of Turn
        Without a trainer, and beside one.
    peak_mb : float or None
        Resident memory of the trainer at its peak, MB; None: it ended before anyone could look.
    """

    effort: CostEffort
    without: tuple[Turn, ...]
    beside: tuple[Turn, ...]
    peak_mb: float | None


def measure_cost(effort: CostEffort) -> Cost:
    """Measure it all; about ten minutes."""
    with _scratch() as folder:
        without, beside = _turns(effort, Path(folder))
    with _scratch() as folder:
        peak = _peak_mb(effort, Path(folder))
    return Cost(effort, tuple(without), tuple(beside), peak)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder here; what cannot be removed of it must not hide what went wrong in it."""
    return tempfile.TemporaryDirectory(
        prefix="deepfocus-bench-", dir=Path.cwd(), ignore_cleanup_errors=True
    )


def cost_rows(found: Cost) -> list[Row]:
    """Return the rows."""
    effort, share = found.effort, statistics.fmean(turn.trained for turn in found.beside)
    what = (
        f"{effort.frames} slices of {effort.side} × {effort.side} at {effort.rate:g}/s, "
        f"a trainer beside them for {share:.0%} of the time"
    )
    mask, mask_alone = _medians(found, "mask_ms")
    ack, ack_alone = _medians(found, "ack_p99_ms")
    alone = "without a trainer"
    side, slices = effort.memory_side, effort.memory_slices
    stacks = f"{effort.memory_stacks} stacks of {side} × {side} × {slices}"
    return [
        Row(
            "learning",
            f"camera to mask, median, {what}",
            mask,
            "ms",
            alone,
            mask_alone,
            _MASK_GOAL,
        ),
        Row(
            "learning",
            f"camera to acknowledgement, p99, {what}",
            ack,
            "ms",
            alone,
            ack_alone,
            _ACK_GOAL,
        ),
        Row(
            "learning",
            f"the trainer's memory at its peak, {stacks}",
            found.peak_mb,
            "MB",
            goal=_MEMORY_GOAL,
        ),
    ]


def _medians(found: Cost, figure: str) -> tuple[float, float]:
    beside, without = (
        statistics.median(getattr(turn, figure) for turn in turns)
        for turns in (found.beside, found.without)
    )
    return beside, without


def _learning(minutes: float) -> dict[str, Any]:
    # Only when asked, and what comes of it is used by nobody.
    return {"after_stacks": 0, "every_minutes": 0.0, "minutes": minutes, "swap": "manual"}


def _turns(effort: CostEffort, folder: Path) -> tuple[list[Turn], list[Turn]]:
    shape = (effort.slices, effort.side, effort.side)
    stacks = [demo_stack(seed, shape=shape) for seed in (3, 4, 5)]
    learning = _learning(effort.minutes)
    with open_session(folder, stacks, learning=learning, exposure_ms=1000 / effort.rate) as session:
        sequence = session.repeated(max(effort.frames // effort.slices, 1))
        # Once before: there must be something to learn from, and all must be warm.
        session.acquire(session.repeated(4))
        without: list[Turn] = []
        beside: list[Turn] = []
        for pair in range(effort.pairs):
            order = (without, beside) if pair % 2 == 0 else (beside, without)
            for turns in order:
                turns.append(_turn(session, sequence, trainer=turns is beside))
    return without, beside


def _turn(session: Session, sequence: useq.MDASequence, *, trainer: bool) -> Turn:
    with _Watching(session.daemon.pid) as watching:
        if trainer:
            session.fine_tune()
            watching.wait_for_trainer()
        watching.begin()
        status = session.acquire(sequence)
        watching.end()
    session.settle()  # the trainer's end, if there is one
    return Turn(
        watching.share, status["camera_to_mask_ms"]["p50"], status["camera_to_durable_ms"]["p99"]
    )


def _peak_mb(effort: CostEffort, folder: Path) -> float | None:
    """Return the peak of a trainer that learns from stacks of large slices."""
    side = effort.memory_side
    tile = demo_stack(3, shape=(effort.memory_slices, min(side, 512), min(side, 512)))
    learning = _learning(effort.memory_minutes)
    # Large fields that are quick to make: what the trainer holds does not depend on what they show.
    large = _tiled(tile, side)
    with open_session(folder, [large], learning=learning) as session:
        session.acquire(session.repeated(effort.memory_stacks))
        return trainer_peak_mb(session)


def trainer_peak_mb(session: Session) -> float | None:
    """Have a fine-tune run, and return its peak resident memory in MB."""
    with _Watching(session.daemon.pid) as watching:
        session.fine_tune()
        watching.wait_for_trainer()
        session.settle()
    return watching.peak_mb


def _tiled(stack: FocalStack, side: int) -> FocalStack:
    """Return a field of `side` × `side` that is made of copies of a smaller one."""
    times = -(-side // stack.slices.shape[1])

    def tiled(planes: NDArray[_T]) -> NDArray[_T]:
        repeated: NDArray[_T] = np.tile(planes, (1,) * (planes.ndim - 2) + (times, times))
        return repeated[..., :side, :side]

    return replace(
        stack,
        slices=tiled(stack.slices),
        in_focus=tiled(stack.in_focus),
        undecided=tiled(stack.undecided),
        depth_um=tiled(stack.depth_um),
    )


class _Watching:
    """A thread that looks at a daemon's trainer: whether it runs, and how much memory it has."""

    def __init__(self, daemon: int) -> None:
        self._daemon = psutil.Process(daemon)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watching", daemon=True)
        self._counting = False
        self._looks = self._seen = 0
        self._there = threading.Event()
        self.peak_mb: float | None = None

    def __enter__(self) -> _Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wait_for_trainer(self) -> None:
        """Wait until there is one."""
        if not self._there.wait(_PATIENCE_S):
            raise RuntimeError("the daemon has started no trainer")

    def begin(self) -> None:
        """Count from here on."""
        self._counting = True

    def end(self) -> None:
        """Count no more."""
        self._counting = False

    @property
    def share(self) -> float:
        """Part of the looks, between `begin` and `end`, that found a trainer."""
        return self._seen / self._looks if self._looks else 0.0

    def _work(self) -> None:
        trainer: psutil.Process | None = None
        while not self._ended.wait(_LOOK_S):
            trainer = trainer if trainer is not None else self._find()
            memory = None if trainer is None else _resident_mb(trainer)
            if memory is None:
                trainer = None
            else:
                self._there.set()
                self.peak_mb = max(self.peak_mb or 0.0, memory)
            if self._counting:
                self._looks += 1
                self._seen += memory is not None

    def _find(self) -> psutil.Process | None:
        for child in self._daemon.children():
            try:
                if any(_TRAINER in part for part in child.cmdline()):
                    return child
            except psutil.Error:  # it has ended meanwhile
                continue
        return None


def _resident_mb(process: psutil.Process) -> float | None:
    """Return a process's peak as Windows knows it, else its present memory; None: it is gone."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        memory = process.memory_info()
    except psutil.Error:
        return None
    return float(getattr(memory, "peak_wset", memory.rss)) / 1e6
