"""Rows of the table, and the groups that make them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import psutil

from deepfocus_live import __version__, _platform
from deepfocus_live.errors import InputError

__all__ = ["GROUPS", "LONG_GROUPS", "Row", "machine", "medians", "run_groups"]

GROUPS = {
    "attach": "deepfocus_live.bench._attach",
    "daemon": "deepfocus_live.bench._daemon",
    "focus": "deepfocus_live.bench._focus",
    "volume": "deepfocus_live.bench._volume",
    "inference": "deepfocus_live.bench._inference",
    "page": "deepfocus_live.bench._page",
}
LONG_GROUPS = {
    "learning": "deepfocus_live.bench._learning",
}
"""Measured only where they are named: they take more than half an hour."""


@dataclass(frozen=True)
class Row:
    """One figure beside its reference; both are medians of the same run.

    `ratio` is value / reference value. `goal` bounds the ratio (or the value,
    where there is no reference) in the direction that `at_least` says.
    """

    group: str
    name: str
    value: float | None
    unit: str
    reference: str | None = None
    reference_value: float | None = None
    goal: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        """How the value stands to its reference."""
        if self.value is None or not self.reference_value:
            return None
        return self.value / self.reference_value

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or nothing was measured."""
        judged = self.ratio if self.reference is not None else self.value
        if judged is None or self.goal is None:
            return None
        return judged >= self.goal if self.at_least else judged <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON shows it."""
        row = asdict(self)
        row.pop("at_least")
        return {**row, "ratio": self.ratio, "met": self.met}


def medians(*calls: Callable[[], object], repeat: int, seconds: float = 6.0) -> list[float]:
    """Return each call's median time in seconds; they take turns, so drift hits all alike."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    deadline = time.perf_counter() + seconds
    for turn in range(repeat):
        for call, spent in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begin)
        if turn >= 2 and time.perf_counter() > deadline:
            break
    return [statistics.median(spent) for spent in times]


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _platform.processor_name(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(psutil.cpu_percent(interval=0.2) / 100, 2),
        "deepfocus-live": __version__,
    }


def run_groups(names: Iterable[str]) -> list[Row]:
    """Measure the groups named; where none is, all but `LONG_GROUPS`.

    Raises
    ------
    InputError
        If a name is no group.
    """
    chosen = list(names) or list(GROUPS)
    known = {**GROUPS, **LONG_GROUPS}
    for name in chosen:
        if name not in known:
            raise InputError(f"no bench group {name!r}; there are: {', '.join(known)}.")
    rows: list[Row] = []
    for name in chosen:
        rows.extend(import_module(known[name]).measure())
    return rows
