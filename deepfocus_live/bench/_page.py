"""The live page: how soon a slice is drawn, and what its viewers cost the daemon and the masks.

Real daemons, a simulated microscope that plays a stack at a fixed rate as a hardware sequence, real
Chromium. Who watches takes turns, so that other load and warm caches hit all alike. Where the
page's own cost is measured no masks are made.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from deepfocus_live.bench._page_browser import BrowserMissingError, drawn_at, open_browser, watching
from deepfocus_live.bench._page_viewers import Seen, viewers
from deepfocus_live.bench._table import Row
from deepfocus_live.microscope import Attachment, attach
from deepfocus_live.microscope.simulated import SimulatedMicroscope, load_simulated_microscope
from deepfocus_live.ring import DaemonAddress, private_daemon
from deepfocus_live.simulation import demo_stack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from playwright.sync_api import Browser

    from deepfocus_live.microscope import MaskResult

__all__ = ["Acquired", "Costs", "Effort", "measure", "page_rows"]

_CORE_PERCENT_GOAL, _MASK_GOAL, _RATE_GOAL = 15.0, 1.1, 0.98
_NOBODY, _ONE, _CHROMIUM = "no viewer", "one viewer", "one Chromium"
_SLICES = 8
_LOOK_S = 0.001
_PATIENCE_S = 180.0
_OFF = {"labels": {"enabled": False}, "learning": {"after_stacks": 0}}


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    side : int
        Height and width of the slices, pixels; even.
    rate : float
        Slices per second.
    mask_rate : float
        The same where a mask must be made before the next slice is taken.
    seconds, mask_seconds : float
        Length of an acquisition, without and with masks.
    turns : int
        Acquisitions with each number of viewers.
    many : int
        Viewers, where there are many.
    rest_s : float
        Before each acquisition, so that what the one before left to do is done.
    """

    side: int = 1024
    rate: float = 20.0
    mask_rate: float = 2.0
    seconds: float = 8.0
    mask_seconds: float = 10.0
    turns: int = 5
    many: int = 10
    rest_s: float = 1.0


@dataclass
class Acquired:
    """One acquisition, as the microscope and whoever watched saw it; times in s since 1970."""

    taken: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    """When the microscope's side knew that a slice is on the disk."""
    masked: dict[int, float] = field(default_factory=dict)
    drawn: dict[int, float] = field(default_factory=dict)
    core_percent: float = math.nan
    """Of one core, what the daemon used."""

    @property
    def mask_ms(self) -> float:
        """Median time from the camera to the mask, ms."""
        return 1e3 * statistics.median(at - self.taken[n] for n, at in self.masked.items())


@dataclass
class Costs:
    """What was measured; lists have one value a turn."""

    percent: dict[str, list[float]] = field(default_factory=dict)
    """Of one core, what the daemon used, by who watched."""
    pictures_per_s: dict[str, list[float]] = field(default_factory=dict)
    """That each of them got."""
    in_browser: list[Acquired] = field(default_factory=list)
    mask_ms: dict[int, list[float]] = field(default_factory=dict)
    """Median from the camera to the mask, by the number of viewers."""
    seen: Seen = field(default_factory=Seen)
    """What viewers were sent with masks."""

    def add(self, who: str, acquired: Acquired, pictures: float) -> None:
        """Note what an acquisition without masks cost, and how many pictures each viewer got."""
        seconds = acquired.taken[-1] - acquired.taken[0]
        self.percent.setdefault(who, []).append(acquired.core_percent)
        self.pictures_per_s.setdefault(who, []).append(pictures / seconds)


def measure(effort: Effort | None = None) -> list[Row]:
    """Return the rows of the group `page`; one "not measured" where there is no Chromium."""
    effort = effort or Effort()
    try:
        with open_browser() as browser:
            return page_rows(_costs(browser, effort), effort)
    except BrowserMissingError:
        missing = "all rows: `pip install playwright` and a Chromium are needed"
        return [Row("page", missing, None, "")]


def _costs(browser: Browser, effort: Effort) -> Costs:
    costs = Costs()
    # Beside the user's other runs: the usual folder for what is temporary may be memory.
    with tempfile.TemporaryDirectory(prefix="deepfocus-bench-", dir=Path.cwd()) as folder:
        with _bench(Path(folder) / "plain", effort, masks=False) as bench:
            _measure_page(bench, browser, effort, costs)
        with _bench(Path(folder) / "masks", effort, masks=True) as bench:
            _measure_masks(bench, effort, costs)
    return costs


def _measure_page(bench: _Bench, browser: Browser, effort: Effort, costs: Costs) -> None:
    bench.acquire(effort.rate, effort.rest_s)  # once before: the daemon settles
    for _ in range(effort.turns):
        for count in (0, 1, effort.many):
            with viewers(bench.page, count) as seen:
                acquired = bench.acquire(effort.rate, effort.seconds)
            costs.add(_who(count), acquired, seen.pictures / max(count, 1))
        with watching(browser, bench.page) as page:
            acquired = bench.acquire(effort.rate, effort.seconds)
            acquired.drawn = drawn_at(page)
        costs.add(_CHROMIUM, acquired, len(acquired.drawn))
        costs.in_browser.append(acquired)


def _who(count: int) -> str:
    return {0: _NOBODY, 1: _ONE}.get(count, f"{count} viewers")


def _measure_masks(bench: _Bench, effort: Effort, costs: Costs) -> None:
    bench.acquire(effort.mask_rate, effort.rest_s)
    for _ in range(effort.turns):
        for count in (0, effort.many):
            with viewers(bench.page, count) as seen:
                acquired = bench.acquire(effort.mask_rate, effort.mask_seconds)
            costs.mask_ms.setdefault(count, []).append(acquired.mask_ms)
            costs.seen.pictures += seen.pictures
            costs.seen.bytes += seen.bytes


class _Bench:
    """A daemon and a microscope; made by `_bench`."""

    def __init__(
        self,
        daemon: DaemonAddress,
        microscope: SimulatedMicroscope,
        attached: Attachment,
        *,
        masks: bool,
        rest_s: float,
    ) -> None:
        self._process = psutil.Process(daemon.pid)
        self._microscope = microscope
        self._attached = attached
        self._masks = masks
        self._rest_s = rest_s
        self.page = str(attached.status()["page"])
        self._now = Acquired()
        microscope.core.mda.events.frameReady.connect(self._on_frame)
        if masks:
            attached.on_mask(self._on_mask)

    def acquire(self, rate: float, seconds: float) -> Acquired:
        """Take slices, and wait until all are stored, and masked where masks are made."""
        time.sleep(self._rest_s)
        self._now = acquired = Acquired()
        self._microscope.core.setExposure(1000 / rate)
        stacks = max(round(rate * seconds / _SLICES), 1)
        sequence = self._microscope.sequence(stacks, hardware_triggered=True)
        before, begin = self._spent_s(), time.monotonic()
        with self._noting(acquired):
            self._microscope.core.mda.run(sequence)
            self._attached.wait()
        acquired.core_percent = 100 * (self._spent_s() - before) / (time.monotonic() - begin)
        deadline = time.monotonic() + _PATIENCE_S
        while self._masks and len(acquired.masked) < len(acquired.taken):
            if time.monotonic() > deadline:
                raise RuntimeError("not all masks have come back from the daemon.")
            time.sleep(0.02)
        return acquired

    def _spent_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _on_frame(self, *_: object) -> None:
        self._now.taken.append(time.time())

    def _on_mask(self, mask: MaskResult) -> None:
        self._now.masked[mask.sequence_number] = time.time()

    @contextmanager
    def _noting(self, acquired: Acquired) -> Iterator[None]:
        """Look every millisecond how many slices are acknowledged."""
        before = self._attached.status()["frames_durable"]
        ended = threading.Event()

        def note() -> None:
            durable = self._attached.status()["frames_durable"] - before
            new = durable - len(acquired.acknowledged)
            acquired.acknowledged.extend([time.time()] * new)

        def look() -> None:
            while not ended.wait(_LOOK_S):
                note()
            # The last may have come since the look before.
            note()

        looking = threading.Thread(target=look, name="bench-acknowledged", daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()


@contextmanager
def _bench(folder: Path, effort: Effort, *, masks: bool) -> Iterator[_Bench]:
    folder.mkdir(parents=True)
    config = folder / "bench.yaml"
    # JSON is YAML, too.
    config.write_text(json.dumps({**_OFF, "inference": {"enabled": masks}}), encoding="utf-8")
    with private_daemon(folder, "--config", str(config)) as daemon:
        microscope = load_simulated_microscope(
            [_stack(effort.side)], z_step_um=5.0, pixel_size_um=0.65
        )
        try:
            with attach(microscope.core, output=folder / "runs") as attached:
                yield _Bench(daemon, microscope, attached, masks=masks, rest_s=effort.rest_s)
        finally:
            microscope.close()


@cache
def _stack(side: int) -> NDArray[np.uint16]:
    """Return the demo's specimen, mirrored: to simulate all of it would take four times as long."""
    half = side // 2
    quarter = demo_stack(shape=(_SLICES, half, half)).slices
    return np.pad(quarter, ((0, 0), (0, side - half), (0, side - half)), mode="symmetric")


def page_rows(costs: Costs, effort: Effort) -> list[Row]:
    """Return the rows of the group."""
    return [*_drawn_rows(costs, effort), *_cost_rows(costs, effort), *_mask_rows(costs, effort)]


def _drawn_rows(costs: Costs, effort: Effort) -> list[Row]:
    acknowledged = [
        1e3 * (at - one.acknowledged[n]) for one in costs.in_browser for n, at in one.drawn.items()
    ]
    camera = [1e3 * (at - one.taken[n]) for one in costs.in_browser for n, at in one.drawn.items()]
    name = f"to drawn in Chromium, {_said(effort)}"
    p50, p99 = np.percentile(acknowledged, (50, 99)) if acknowledged else (math.nan, math.nan)
    rates = [
        _median([_per_s(times) for times in found])
        for found in (
            [sorted(one.drawn.values()) for one in costs.in_browser],
            [one.taken for one in costs.in_browser],
        )
    ]
    sent = costs.seen.bytes / max(costs.seen.pictures, 1) / 1e3
    raw = 2 * effort.side**2 / 1e3
    all_parts = "bytes of a slice over the WebSocket, all parts"
    return [
        Row("page", f"slice acknowledged {name}, p50", float(p50), "ms"),
        Row("page", f"slice acknowledged {name}, p99", float(p99), "ms"),
        Row("page", f"camera {name}, p50", _median(camera), "ms"),
        Row("page", f"drawn in Chromium, {_said(effort)}", rates[0], "frames/s",
            "the camera's", rates[1], _RATE_GOAL, True),
        Row("page", all_parts, sent, "kB", "the raw slice", raw),
    ]  # fmt: skip


def _cost_rows(costs: Costs, effort: Effort) -> list[Row]:
    """Return what the daemon uses, and what of it is for the page."""
    bare = costs.percent[_NOBODY]
    name = f"daemon, {_said(effort)}, no masks"
    rows = [Row("page", f"{name}, {_NOBODY}, part of a core", _median(bare), "%")]
    for who in (_ONE, _who(effort.many), _CHROMIUM):
        used = _median(costs.percent[who])
        rows.append(
            Row("page", f"{name}, {who}, part of a core", used, "%", _NOBODY, _median(bare))
        )
    for who in (_ONE, _who(effort.many), _CHROMIUM):
        # A viewer that got fewer, because the machine is busy, must not seem to cost less.
        turns = zip(costs.percent[who], bare, costs.pictures_per_s[who], strict=True)
        more = [effort.rate * (used - none) / got for used, none, got in turns if got]
        goal = _CORE_PERCENT_GOAL if who == _ONE else None
        said = f"{who}, what {effort.rate:g} pictures/s cost of a core"
        rows.append(Row("page", said, _median(more), "%", goal=goal))
    return rows


def _mask_rows(costs: Costs, effort: Effort) -> list[Row]:
    none, many = _median(costs.mask_ms[0]), _median(costs.mask_ms[effort.many])
    place = f"{effort.side} × {effort.side} at {effort.mask_rate:g} frames/s"
    name = f"camera to mask, {place}, {effort.many} viewers, p50"
    return [Row("page", name, many, "ms", "no viewer", none, _MASK_GOAL)]


def _said(effort: Effort) -> str:
    return f"{effort.side} × {effort.side} at {effort.rate:g} frames/s"


def _per_s(times: Sequence[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
