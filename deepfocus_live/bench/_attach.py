"""What an acquisition pays for being followed: the same one attached and bare, in turns.

The C++ DemoCamera takes one z-stack at a time on two cores of the same configuration, one of them
attached. While the bare one acquires the daemon stands still, so that it is truly bare; while the
attached one does, the daemon is busy with masks all the time, as it is beside a fast camera.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import useq
from pymmcore_plus import CMMCorePlus

from deepfocus_live.bench._table import Row
from deepfocus_live.microscope import Attachment, attach
from deepfocus_live.microscope._quiet import untold
from deepfocus_live.ring import private_daemon

__all__ = ["Condition", "Effort", "Taken", "attach_rows", "measure"]

_UNTAUGHT = "learning: {after_stacks: 0}"
"""A fine-tune would begin in some of the acquisitions, and not in others."""
_HEARTBEAT_S = 1.5
"""A daemon that runs is heard of within that time."""
_SLOT_GOAL_US, _WALL_GOAL, _RATE_GOAL = 50.0, 1.02, 0.85


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    sides : tuple of int
        Height and width of the frames, pixels.
    rates : tuple of float
        Frames per second, set by the exposure, beside as fast as it goes.
    pairs : int
        Attached and bare acquisitions under each condition.
    seconds : float
        Length of an acquisition at a rate.
    unthrottled : int
        Frames of an acquisition as fast as it goes.
    most_mb : int
        Limit of the frames of one acquisition, MiB: those of large frames are shorter.
    """

    sides: tuple[int, ...] = (512, 2048)
    rates: tuple[float, ...] = (30.0, 100.0)
    pairs: int = 5
    seconds: float = 4.0
    unthrottled: int = 150
    most_mb: int = 1024

    def frames(self, condition: Condition) -> int:
        """Return how many frames an acquisition takes."""
        rate, side = condition.rate, condition.side
        wanted = self.unthrottled if rate is None else round(rate * self.seconds)
        return max(min(wanted, (self.most_mb << 20) // (2 * side * side)), 2)


@dataclass(frozen=True)
class Condition:
    """One way of acquiring."""

    side: int
    rate: float | None
    """Frames per second; None: as fast as it goes."""
    sequenced: bool
    """Whether z is stepped by hardware."""

    def __str__(self) -> str:
        z = "hardware-sequenced z" if self.sequenced else "software-timed z"
        return f"{self.side} × {self.side} uint16, {z}, {_said(self.rate)}"


def _said(rate: float | None) -> str:
    return "unthrottled" if rate is None else f"{rate:g} frames/s"


@dataclass(frozen=True)
class Taken:
    """One acquisition, as it was seen from the acquisition's own thread."""

    seconds: float
    """Wall time."""
    frames_per_s: float
    """From the first frame to the last."""
    slot_s: tuple[float, ...]
    """Time in the slot, of every frame."""
    slot_cpu_s: tuple[float, ...]
    """Of it, what the thread spent on the processor."""
    overflowed: bool = False
    """Whether MMCore's buffer overflowed, which ends an acquisition."""


Pairs = dict[Condition, list[tuple[Taken, Taken]]]
"""Attached and bare acquisitions."""
Percentiles = tuple[float, float]
"""The 50th and the 99th."""


def measure(effort: Effort | None = None) -> list[Row]:
    """Return the rows of the group `attach`; one "not measured" where there is no DemoCamera."""
    effort = effort or Effort()
    try:
        import mm_test_adapters  # type: ignore[import-untyped]
    except ImportError:
        return [Row("attach", "all rows: `pip install mm-test-adapters` is needed", None, "")]
    adapters = Path(str(mm_test_adapters.device_adapter_path()))
    pairs: Pairs = {}
    durable: dict[tuple[int, float | None], Percentiles] = {}
    kept = {side: _kept(adapters, side, effort) for side in effort.sides}
    for side, rate in itertools.product(effort.sides, (None, *effort.rates)):
        # A daemon for each: its latencies are of one rate, and the disk is free again after it.
        with tempfile.TemporaryDirectory(prefix="deepfocus-bench-", dir=Path.cwd()) as folder:
            config = Path(folder) / "config.yaml"
            config.write_text(_UNTAUGHT, encoding="utf-8")
            with private_daemon(Path(folder), "--config", str(config)) as daemon:
                conditions = [Condition(side, rate, sequenced) for sequenced in (False, True)]
                pairs |= _pairs_of(conditions, adapters, effort)
                with daemon.connect() as client:
                    latency = client.ask({"type": "status"})["status"]["camera_to_durable_ms"]
                durable[side, rate] = latency["p50"], latency["p99"]
    return attach_rows(pairs, durable, kept)


def _kept(adapters: Path, side: int, effort: Effort) -> list[Taken]:
    """Acquire as fast as it goes with a slot that keeps the frames and does nothing else."""
    bench, kept, condition = _Bench(adapters, side), list[object](), Condition(side, None, True)
    bench.time_with(lambda image, _event, _meta: kept.append(image))
    taken = []
    for _ in range(effort.pairs):
        kept.clear()
        taken.append(bench.acquire(condition, effort.frames(condition)))
    return taken


def _pairs_of(conditions: Sequence[Condition], adapters: Path, effort: Effort) -> Pairs:
    """Acquire under conditions of one size, attached and bare in turns."""
    bare, followed = (_Bench(adapters, conditions[0].side) for _ in range(2))
    pairs: Pairs = {condition: [] for condition in conditions}
    bare.time_with(_empty_slot)
    followed.events.connect(followed.before)
    with attach(followed.core) as attached:
        followed.events.connect(followed.after)
        for condition in conditions:  # once before: drivers and the daemon settle
            _bare(attached, bare, condition, 2)
            _followed(attached, followed, condition, 2)
        for turn, condition in itertools.product(range(effort.pairs), conditions):
            frames = effort.frames(condition)
            if turn % 2:
                # A bare one was the last: two silences in a row must not count as one.
                time.sleep(_HEARTBEAT_S)
                alone = _bare(attached, bare, condition, frames)
                together = _followed(attached, followed, condition, frames)
            else:
                together = _followed(attached, followed, condition, frames)
                alone = _bare(attached, bare, condition, frames)
            pairs[condition].append((together, alone))
    return pairs


def _bare(attached: Attachment, bench: _Bench, condition: Condition, frames: int) -> Taken:
    with _standing_still(attached):
        return bench.acquire(condition, frames)


def _followed(attached: Attachment, bench: _Bench, condition: Condition, frames: int) -> Taken:
    """Acquire attached; the next acquisition begins when all is on the disk."""
    taken = bench.acquire(condition, frames)
    attached.wait()
    return taken


@contextmanager
def _standing_still(attached: Attachment) -> Iterator[None]:
    """Stop the daemon within this context, for less than makes it count as hung."""
    daemon = psutil.Process(attached.status()["pid"])
    daemon.suspend()
    try:
        yield
    finally:
        daemon.resume()


class _Bench:
    """A core with the DemoCamera, and two slots around the one whose time is taken."""

    def __init__(self, adapters: Path, side: int) -> None:
        with untold():
            self.core = core = CMMCorePlus(str(adapters))
        core.loadSystemConfiguration(str(adapters / "MMConfig_demo.cfg"))
        core.setProperty("Camera", "PixelType", "16bit")
        # One image again and again: making a new one takes longer than 100 frames/s allow.
        core.setProperty("Camera", "FastImage", "1")
        for axis in "XY":
            core.setProperty("Camera", f"OnCameraCCD{axis}Size", str(side))
        self.events = core.mda.events.frameReady
        self._at = self._cpu = 0.0
        self._times: list[tuple[float, float, float]] = []

    def time_with(self, slot: Any) -> None:
        """Connect `slot`, and take its time."""
        for one in (self.before, slot, self.after):
            self.events.connect(one)

    def before(self, _image: object, _event: object, _meta: object) -> None:
        """Stand before the slot."""
        self._cpu = time.thread_time()
        self._at = time.perf_counter()

    def after(self, _image: object, _event: object, _meta: object) -> None:
        """Stand behind it."""
        now = time.perf_counter()
        self._times.append((self._at, now - self._at, time.thread_time() - self._cpu))

    def acquire(self, condition: Condition, frames: int) -> Taken:
        """Take one stack."""
        self._times.clear()
        core = self.core
        if core.mda.engine is not None:
            core.mda.engine.use_hardware_sequencing = condition.sequenced
        core.setProperty("Z", "UseSequences", "Yes" if condition.sequenced else "No")
        core.setExposure(0.01 if condition.rate is None else 1000 / condition.rate)
        sequence = useq.MDASequence.model_validate(
            {"z_plan": {"range": 0.1 * (frames - 1), "step": 0.1}}
        )
        begin, overflowed = time.perf_counter(), False
        try:
            core.mda.run(sequence)
        except MemoryError:
            overflowed = True
        seconds = time.perf_counter() - begin
        starts, slots, cpu = zip(*self._times, strict=True) if self._times else ((), (), ())
        span = starts[-1] - starts[0] if len(starts) > 1 else 0.0
        rate = (len(starts) - 1) / span if span else 0.0
        return Taken(seconds, rate, slots, cpu, overflowed=overflowed)


def _empty_slot(_image: object, _event: object, _meta: object) -> None:
    """Take nothing and do nothing."""


def attach_rows(
    pairs: Pairs,
    durable: Mapping[tuple[int, float | None], Percentiles],
    kept: Mapping[int, Sequence[Taken]],
) -> list[Row]:
    """Return the rows of the group.

    Parameters
    ----------
    pairs : dict
        What was taken, attached and bare, under each condition.
    durable : mapping
        By side and rate, how long slices took from the camera to the disk, ms.
    kept : mapping
        By side, acquisitions as fast as it goes whose frames were kept in memory, no more.
    """
    rows = [row for side in _sides(pairs) for row in _slot_rows(side, pairs)]
    rows += [_pace_row(condition, taken) for condition, taken in pairs.items()]
    rows += [_kept_row(side, taken, pairs) for side, taken in kept.items()]
    for (side, rate), latency in durable.items():
        name = f"camera to durable, {side} × {side} uint16, {_said(rate)}"
        for percentile, value in zip(("p50", "p99"), latency, strict=True):
            rows.append(Row("attach", f"{name}, {percentile}", value, "ms"))
    return [*rows, _overflow_row(pairs)]


def _sides(pairs: Pairs) -> Iterable[int]:
    return dict.fromkeys(condition.side for condition in pairs)


def _slot_rows(side: int, pairs: Pairs) -> list[Row]:
    """Return what handing over a frame takes, under all conditions together."""
    of_side = [pair for key, found in pairs.items() if key.side == side for pair in found]
    wall, empty = (_us([s for pair in of_side for s in pair[which].slot_s]) for which in (0, 1))
    cpu, empty_cpu = (
        _us([s for pair in of_side for s in pair[which].slot_cpu_s]) for which in (0, 1)
    )
    name = f"handing over a {side} × {side} uint16 frame, in the microscope's thread"
    reference = "the same signal, an empty slot"
    on_cpu = "on the processor: neither preempted nor waiting"
    return [
        Row("attach", f"{name}, median", wall[0], "µs", reference, empty[0]),
        Row("attach", f"{name}, p99", wall[1], "µs", f"{reference}, p99", empty[1]),
        Row("attach", f"{name}, p99", wall[1], "µs", goal=_SLOT_GOAL_US),
        Row("attach", f"{name}, {on_cpu}, p99", cpu[1], "µs", f"{reference}, p99", empty_cpu[1]),
    ]


def _pace_row(condition: Condition, taken: Sequence[tuple[Taken, Taken]]) -> Row:
    """Return how an acquisition goes beside a bare one: its time, or its frames per second."""
    if condition.rate is None:
        rates = [statistics.median(pair[which].frames_per_s for pair in taken) for which in (0, 1)]
        name = f"pace, {condition}"
        return Row("attach", name, rates[0], "frames/s", "bare", rates[1], _RATE_GOAL, True)
    times = [1e3 * statistics.median(pair[which].seconds for pair in taken) for which in (0, 1)]
    frames = len(taken[0][1].slot_s)
    return Row(
        "attach", f"{frames} frames, {condition}", times[0], "ms", "bare", times[1], _WALL_GOAL
    )


def _kept_row(side: int, kept: Sequence[Taken], pairs: Pairs) -> Row:
    """Return the pace of whoever keeps frames at all, beside one that lets them go."""
    condition = Condition(side, None, True)
    overflows = sum(one.overflowed for one in kept)
    name = f"pace, {condition}, of a slot that keeps the frames and does nothing else"
    name += f" ({overflows} of {len(kept)} overflowed)" if overflows else ""
    pace = statistics.median(one.frames_per_s for one in kept)
    bare = statistics.median(alone.frames_per_s for _, alone in pairs[condition])
    return Row("attach", name, pace, "frames/s", "bare", bare)


def _overflow_row(pairs: Pairs) -> Row:
    every = [pair for found in pairs.values() for pair in found]
    attached, bare = (sum(pair[which].overflowed for pair in every) for which in (0, 1))
    name = f"overflows of MMCore's buffer in {len(every)} acquisitions, beyond {bare} of bare ones"
    return Row("attach", name, float(attached - bare), "", goal=0.0)


def _us(seconds: Sequence[float]) -> Percentiles:
    """Return median and 99th percentile in µs."""
    p50, p99 = np.percentile(seconds, (50, 99)) if seconds else (np.nan, np.nan)
    return 1e6 * float(p50), 1e6 * float(p99)
