"""Space on the disks: what the open runs still need, and whether there is room for it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from deepfocus_live.config import Config
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.daemon._warnings import StandingWarning
from deepfocus_live.frames import Placement, RunSpec
from deepfocus_live.volume import Forecast, SpaceGauge, disk_of

__all__ = ["SpaceWatch"]

_LOOK_S = 2.0
_MARGIN = 0.03
"""A warning goes away only with so much to spare, or it would come and go with every slice."""
_REFUSAL_STANDS_S = 10.0


class SpaceWatch:
    """Forecasts the space of every open run; a warning stands against each that has too little.

    Parameters
    ----------
    config : Config
        How slices are stored, and what is made of them.
    on_turn : callable
        Called with (run id, warning) when a forecast turns bad, and with (run id, None) when there
        is room again.
    say : callable
        Called with (level, text, name of the run) then, for log and page.
    clock : callable
        Seconds, never going back.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_turn: Callable[[str, str | None], None],
        say: Callable[[str, str, str | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._on_turn = on_turn
        self._say = say
        self._clock = clock
        self._gauges: dict[str, SpaceGauge] = {}
        self._forecasts: dict[str, Forecast] = {}
        self._standing: dict[str, StandingWarning] = {}
        self._turns: dict[str, int] = defaultdict(int)
        self._refused: dict[str, tuple[StandingWarning, float]] = {}
        self._looked_at = -_LOOK_S
        self._guard = threading.RLock()

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings."""
        self._config = config

    def stored(self, run: ActiveRun, placement: Placement) -> None:
        """Note that a slice is stored; quick."""
        gauge = self._gauges.get(run.spec.run_id)
        if gauge is not None:
            gauge.stored(placement)

    def opened(self, run: ActiveRun, runs: Iterable[ActiveRun]) -> str | None:
        """Look at all runs, of which one is new; return its warning."""
        with self._guard:
            self._refused.pop(run.spec.run_id, None)
            self.look(runs, now=True)
            standing = self._standing.get(run.spec.run_id)
            return None if standing is None else standing.text

    def refused(self, spec: RunSpec, reason: str) -> None:
        """Note that there is no room to begin a run; it is asked for again and again."""
        with self._guard:
            text = f"run {spec.name} waits: {reason}"
            if spec.run_id in self._refused:
                found = self._refused[spec.run_id][0]
                found.text, found.last_at, found.count = text, time.time(), found.count + 1
            else:
                found = StandingWarning(text, spec.name, time.time(), time.time())
                self._say("warning", text, spec.name)
            self._refused[spec.run_id] = (found, self._clock())

    def plan(self, spec: RunSpec, runs: Iterable[ActiveRun]) -> Forecast:
        """Return the forecast of a run that is not begun."""
        folder = Path(spec.output) if spec.output else self._config.output_dir
        with self._guard:
            self.look(runs, now=True)
            disk = disk_of(folder)
            needed = sum(
                forecast.bytes_needed or 0
                for forecast in self._forecasts.values()
                if disk_of(forecast.folder) == disk
            )
        return self._gauge_of(spec).forecast(folder, bytes_kept=self._reserve + needed)

    def look(self, runs: Iterable[ActiveRun], *, now: bool = False) -> None:
        """Forecast every open run anew, every two seconds however often this is called."""
        with self._guard:
            if not now and self._clock() - self._looked_at < _LOOK_S:
                return
            self._looked_at = self._clock()
            runs = list(runs)
            self._forget_all_but({run.spec.run_id for run in runs})
            kept: dict[int, int] = defaultdict(lambda: self._reserve)
            for run in runs:
                folder = run.writer.path
                disk = disk_of(folder)
                forecast = self._forecast(run, kept[disk])
                kept[disk] += forecast.bytes_needed or 0
                self._judge(run, forecast)

    def of(self, run: ActiveRun) -> dict[str, object] | None:
        """Return the forecast of an open run, for `status`."""
        forecast = self._forecasts.get(run.spec.run_id)
        return None if forecast is None else forecast.as_json()

    def warnings(self) -> list[StandingWarning]:
        """Return what stands against the runs now."""
        with self._guard:
            late = self._clock() - _REFUSAL_STANDS_S
            self._refused = {key: kept for key, kept in self._refused.items() if kept[1] > late}
            return [*self._standing.values(), *(found for found, _ in self._refused.values())]

    # -------------------------------------------------------------- inside

    @property
    def _reserve(self) -> int:
        return self._config.storage.reserve_mb << 20

    def _gauge_of(self, spec: RunSpec) -> SpaceGauge:
        return SpaceGauge(
            spec,
            codec=self._config.storage.codec,
            pixels=self._config.storage.mode == "all",
            masks=self._config.inference.enabled,
            labels=self._config.labels.enabled,
            clock=self._clock,
        )

    def _forecast(self, run: ActiveRun, bytes_kept: int) -> Forecast:
        run_id = run.spec.run_id
        gauge = self._gauges.get(run_id)
        if gauge is None:
            gauge = self._gauge_of(run.spec)
            for placement in run.writer.durable_placements().values():
                gauge.stored(placement, before=True)
            self._gauges[run_id] = gauge
        self._forecasts[run_id] = forecast = gauge.forecast(
            run.writer.path,
            frames_stored=run.writer.frames_durable,
            frames_behind=run.slices_owed,
            ended=run.ended,
            bytes_kept=bytes_kept,
        )
        return forecast

    def _forget_all_but(self, open_ids: set[str]) -> None:
        for run_id in self._gauges.keys() - open_ids:
            for of_runs in (self._gauges, self._forecasts, self._standing, self._turns):
                cast("dict[str, object]", of_runs).pop(run_id, None)

    def _judge(self, run: ActiveRun, forecast: Forecast) -> None:
        run_id, name = run.spec.run_id, run.spec.name
        standing = self._standing.get(run_id)
        stood = standing is not None
        if not run.ended and not forecast.fits(margin=_MARGIN if stood else 0.0):
            text = forecast.warning(name)
            if standing is not None:
                standing.text, standing.last_at = text, time.time()
                return
            self._turns[run_id] += 1
            self._standing[run_id] = StandingWarning(
                text, name, time.time(), time.time(), count=self._turns[run_id]
            )
            self._say("warning", text, name)
            self._on_turn(run_id, text)
        elif stood:
            del self._standing[run_id]
            if not run.ended:
                self._say("info", f"run {name}: there is room for the rest of it now", name)
            self._on_turn(run_id, None)
