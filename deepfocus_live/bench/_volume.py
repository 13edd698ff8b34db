"""Storing slices, beside what cannot be beaten: the disk, the compression, and both together.

Slices are simulated 12-bit images: structure, shot noise, read noise. What is compared takes turns,
with as many threads and on the same disk; making and removing a run's folder is not counted. A run
is stored as the daemon's store threads do it, until the journal has acknowledged every slice.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live import _platform
from deepfocus_live.bench import _rivals
from deepfocus_live.bench._table import Row
from deepfocus_live.config import StorageConfig
from deepfocus_live.frames import ChannelSpec, FrameHeader, ImageSpec, RunSpec
from deepfocus_live.simulation import Camera
from deepfocus_live.volume import RunWriter

__all__ = ["Effort", "LongRun", "long_rows", "measure", "simulate_slices", "speed_rows"]

Slice = NDArray[np.uint16]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    side : int
        Height and width of the slices whose rate is measured, pixels.
    slices : int
        How many of them are stored at a time.
    turns : int
        Times that each way of storing them has its turn.
    seconds : float
        Time limit of all turns.
    long_side : int
        Height and width of the slices of the long run, pixels.
    long_stack, long_stacks : int
        Slices per z-stack, and time points, of each of its halves.
    window : int
        Slices whose cost is looked at, from the 100th on and at the end.
    """

    side: int = 2048
    slices: int = 24
    turns: int = 7
    seconds: float = 40.0
    long_side: int = 256
    long_stack: int = 100
    long_stacks: int = 100
    window: int = 1000


@dataclass(frozen=True)
class LongRun:
    """What one long run showed.

    Attributes
    ----------
    acknowledged : sequence of float
        Seconds at which each slice of its first half was acknowledged.
    resident_early, resident_half, resident_end : int
        Memory after its first slices, after its first half and at its end, bytes.
    """

    acknowledged: Sequence[float]
    resident_early: int
    resident_half: int
    resident_end: int


def measure(effort: Effort | None = None) -> list[Row]:
    """Return the rows of the group `volume`."""
    effort = effort or Effort()
    storage = StorageConfig()
    with tempfile.TemporaryDirectory(prefix="deepfocus-bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        # First, for memory that larger work gave back may stay with the process and hide a growth.
        long_run = _store_long(folder, effort, storage)
        stack = _stack(effort.slices, effort.side)
        times, ratio = _time_all(folder, stack, effort, storage)
    megabytes = sum(z_slice.nbytes for z_slice in stack) / 1e6
    size = f"{effort.slices} slices of {effort.side} × {effort.side} uint16"
    return [
        *speed_rows(size, megabytes, ratio, times, workers=storage.workers, codec=storage.codec),
        *long_rows(f"a slice of {effort.long_side} × {effort.long_side} uint16", long_run, effort),
    ]


# -------------------------------------------------------------------- rows


def speed_rows(
    size: str,
    megabytes: float,
    ratio: float,
    times: Mapping[str, float],
    *,
    workers: int,
    codec: str,
) -> list[Row]:
    """Return the rows of the rate, from the median seconds of each way to store `megabytes`.

    Parameters
    ----------
    ratio : float
        Bytes of pixels per byte of their chunks.
    times : mapping
        Seconds by way: `durable`, `cached`, `disk`, `compression`, `both`, and of those of
        `RIVALS` that are installed.
    """
    rate = {way: megabytes / seconds for way, seconds in times.items()}
    by_disk = rate["disk"] <= rate["compression"]
    disk = (
        f"disk rate × compression ratio ({ratio:.2f}): the compressed bytes written, synced and "
        f"renamed by {workers} threads" + (" (the lower floor)" if by_disk else "")
    )
    compression = f"{codec} compression alone, {workers} threads"
    lower = compression + ("" if by_disk else " (the lower floor)")
    both = f"compressed, written, synced and renamed by {workers} threads, nothing else"
    durable, cached = f"{size}, durable", f"{size}, page cache"
    ours = rate["durable"]
    return [
        Row("volume", durable, ours, "MB/s", disk, rate["disk"], 0.90, at_least=True),
        Row("volume", durable, ours, "MB/s", lower, rate["compression"]),
        Row("volume", durable, ours, "MB/s", both, rate["both"]),
        Row(
            "volume",
            cached,
            rate["cached"],
            "MB/s",
            compression,
            rate["compression"],
            0.75,
            at_least=True,
        ),
        *(_rival_row(size, rival, rate.get(rival), ours) for rival in _rivals.RIVALS),
    ]


def _rival_row(size: str, rival: str, rate: float | None, ours: float) -> Row:
    name = f"{size}, by {rival}"
    if rate is None:
        return Row("volume", f"{name} (pip install {rival})", None, "MB/s")
    name += f" ({_rivals.RIVALS[rival]})"
    return Row("volume", name, rate, "MB/s", "ours, durable", ours)


def long_rows(size: str, run: LongRun, effort: Effort) -> list[Row]:
    """Return the rows of the long run: whether a slice's cost, and the memory, grow."""
    count = len(run.acknowledged)
    first = _first_of(count, effort.window)
    growth = "growth of memory from slice"
    early = _cost_ms(run.acknowledged, first, effort.window)
    late = _cost_ms(run.acknowledged, count - effort.window, effort.window)
    return [
        Row(
            "volume",
            f"{size}, page cache, the last {effort.window} of {count}",
            late,
            "ms",
            f"{effort.window} from slice {first} on",
            early,
            1.1,
        ),
        Row(
            "volume",
            f"{growth} {first} to slice {count}",
            (run.resident_half - run.resident_early) / 1e6,
            "MB",
        ),
        Row(
            "volume",
            f"{growth} {count} to slice {2 * count}",
            (run.resident_end - run.resident_half) / 1e6,
            "MB",
        ),
    ]


def _first_of(count: int, window: int) -> int:
    return min(100, count - window)


def _cost_ms(acknowledged: Sequence[float], first: int, window: int) -> float:
    """Return the median time of a slice in a window, ms; several are acknowledged together."""
    block = max(window // 20, 1)
    at = list(acknowledged[first : first + window])[::block]
    return 1e3 / block * statistics.median(b - a for a, b in pairwise(at))


# ------------------------------------------------------------------- slices


def simulate_slices(count: int, side: int) -> list[Slice]:
    """Return 12-bit images of blurred structure, with shot and read noise, all different."""
    rng = np.random.default_rng(0)
    grain = 16
    made = []
    for _ in range(count):
        coarse = rng.standard_normal((side // grain + 1,) * 2, dtype=np.float32)
        coarse = ndimage.gaussian_filter(coarse, 2)
        smooth = ndimage.zoom(coarse / coarse.std(), grain, order=1)[:side, :side]
        light = np.clip(0.5 + 0.12 * smooth, 0.02, 1).astype(np.float32)
        made.append(Camera().expose(light, rng))
    return made


def _stack(slices: int, side: int) -> list[Slice]:
    # Too many for the caches, and few enough to be made in a moment.
    made = simulate_slices(min(slices, 4), side)
    return [made[z % len(made)] for z in range(slices)]


# ------------------------------------------------------------------- timing


def _time_all(
    folder: Path, stack: Sequence[Slice], effort: Effort, storage: StorageConfig
) -> tuple[dict[str, float], float]:
    """Return the median seconds of each way to store a stack, and the compression ratio."""
    encode = Blosc(storage.codec, 5, Blosc.BITSHUFFLE, typesize=2).encode
    chunks = {id(z_slice): encode(z_slice) for z_slice in stack}
    cached = storage.model_copy(update={"durability": "process"})
    workers = storage.workers

    def in_threads(work: Callable[[Path, int], object]) -> Callable[[Path], float]:
        return lambda target: _in_threads(lambda z: work(target, z), range(len(stack)), workers)

    ways: dict[str, Callable[[Path], float]] = {
        "disk": in_threads(lambda to, z: _write_synced(to / str(z), chunks[id(stack[z])])),
        "durable": lambda to: _store(to, stack, storage),
        "both": in_threads(lambda to, z: _write_synced(to / str(z), encode(stack[z]))),
        "compression": in_threads(lambda _, z: encode(stack[z])),
        "cached": lambda to: _store(to, stack, cached),
    }
    for rival, write in (
        ("tensorstore", _rivals.tensorstore),
        ("ome-writers", _rivals.ome_writers),
    ):
        if not _rivals.missing(rival):
            ways[rival] = lambda to, write=write: write(to, stack, workers)  # type: ignore[misc]
    ratio = sum(z.nbytes for z in stack) / sum(len(chunks[id(z)]) for z in stack)
    return _in_turns(folder, ways, effort), ratio


def _in_turns(
    folder: Path, ways: Mapping[str, Callable[[Path], float]], effort: Effort
) -> dict[str, float]:
    """Return the median of the seconds that each way says it took; the first turn is not counted.

    They take turns, so that drift, and what a disk grants after a rest, hit all alike.
    """
    spent: dict[str, list[float]] = {name: [] for name in ways}
    deadline = time.perf_counter() + effort.seconds
    for turn in range(effort.turns + 1):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(dir=folder) as target:
                seconds = way(Path(target))
            if turn:
                spent[name].append(seconds)
        if turn and time.perf_counter() > deadline:
            break
    return {name: statistics.median(times) for name, times in spent.items()}


def _in_threads(work: Callable[[int], object], numbers: range, workers: int) -> float:
    """Return the seconds that `workers` threads take for all numbers, each taking the next one."""
    # Not the executor's map, which keeps a kilobyte of every number until the end.
    left = iter(numbers)

    def work_on() -> None:
        for number in left:
            work(number)

    with ThreadPoolExecutor(workers) as threads:
        begin = time.perf_counter()
        for working in [threads.submit(work_on) for _ in range(workers)]:
            working.result()
        return time.perf_counter() - begin


def _write_synced(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb", buffering=0) as file:
        file.write(data)
        _platform.sync_file(file.fileno())
    _platform.replace(partial, path)


# --------------------------------------------------------------------- ours


class _Run:
    """A run being stored, as the daemon's store threads do it."""

    def __init__(
        self, folder: Path, storage: StorageConfig, *, side: int, size_t: int, size_z: int
    ) -> None:
        self._spec = RunSpec(
            run_id=uuid.uuid4().hex,
            name="bench",
            height_px=side,
            width_px=side,
            dtype="uint16",
            images=(ImageSpec(name="0", size_t=size_t, size_z=size_z),),
            channels=(ChannelSpec(name="bench"),),
        )
        self._size_z = size_z
        self._storage = storage
        self._writer = RunWriter.create(folder, self._spec, storage, about={})
        self.acknowledged: list[float] = []
        """When, seconds."""
        self._errors: list[BaseException] = []

    def store(self, slices: Sequence[Slice], first: int, count: int) -> float:
        """Store `count` slices, the first has the number `first`; return s until all are safe."""

        def store_one(number: int) -> None:
            pixels = slices[number % len(slices)]
            t, z = divmod(number, self._size_z)
            header = FrameHeader(
                run_id=self._spec.run_id,
                sequence_number=number,
                index={"t": t, "z": z},
                height_px=pixels.shape[0],
                width_px=pixels.shape[1],
                dtype="uint16",
                taken_at=time.time(),
            )
            stored = self._writer.write_frame(header, pixels)
            self._writer.journal_frame(header, stored, self._note)

        begin = time.perf_counter()
        _in_threads(store_one, range(first, first + count), self._storage.workers)
        while len(self.acknowledged) < first + count and not self._errors:
            time.sleep(0.0002)
        if self._errors:
            raise self._errors[0]
        return self.acknowledged[-1] - begin

    def close(self) -> None:
        self._writer.close()

    def _note(self, error: BaseException | None) -> None:
        if error is None:
            self.acknowledged.append(time.perf_counter())
        else:
            self._errors.append(error)


def _store(folder: Path, stack: Sequence[Slice], storage: StorageConfig) -> float:
    run = _Run(folder, storage, side=stack[0].shape[0], size_t=1, size_z=len(stack))
    try:
        return run.store(stack, 0, len(stack))
    finally:
        run.close()


def _store_long(folder: Path, effort: Effort, storage: StorageConfig) -> LongRun:
    """Store a long time series of small slices, twice; only killed processes are guarded against.

    So it is our own work that is looked at, not what the disk grants after a while.
    """
    slices = simulate_slices(8, effort.long_side)
    cached = storage.model_copy(update={"durability": "process"})
    count = effort.long_stacks * effort.long_stack
    first = _first_of(count, effort.window)
    with tempfile.TemporaryDirectory(dir=folder) as target:
        run = _Run(
            Path(target),
            cached,
            side=effort.long_side,
            size_t=2 * effort.long_stacks,
            size_z=effort.long_stack,
        )
        try:
            run.store(slices, 0, first)
            early = _resident()
            run.store(slices, first, count - first)
            half = _resident()
            run.store(slices, count, count)
            return LongRun(run.acknowledged[:count], early, half, _resident())
        finally:
            run.close()


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
