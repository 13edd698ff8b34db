"""The daemon itself: how soon it is ready, what it costs while nothing happens, how soon it ends.

Real daemons, each with a runtime folder, a port, models and a cache of compiled kernels of its own.
What the operating system keeps of files in memory is left as it is.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from deepfocus_live.bench._table import Row
from deepfocus_live.microscope import attach
from deepfocus_live.microscope.simulated import load_simulated_microscope
from deepfocus_live.ring import DaemonAddress, private_daemon
from deepfocus_live.simulation import demo_stack

__all__ = ["Effort", "Figures", "daemon_rows", "first_mask_s", "idle_percent", "measure"]

_KERNEL_CACHE = "NUMBA_CACHE_DIR"
_BUSY_PERCENT = 5.0
_QUIET_S = 1.0
_PATIENCE_S = 180.0


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    warm_starts : int
        Starts with compiled kernels at hand, after the one without.
    idle_s : float
        How long the idle daemon is watched.
    """

    warm_starts: int = 5
    idle_s: float = 20.0


@dataclass(frozen=True)
class Figures:
    """What was measured, in seconds, percent of one core, and MiB."""

    cold_s: float
    kernels_s: float
    """From ready to quiet, after the cold start: kernels are compiled meanwhile."""
    warm_s: float
    serving_s: float
    """From start, with kernels at hand, to the model being warm: from here on runs begin."""
    first_mask_s: float
    idle_percent: float
    idle_mb: float
    stop_s: float


def measure(effort: Effort | None = None) -> list[Row]:
    """Return the rows of the group `daemon`; one to two minutes."""
    effort = effort or Effort()
    with tempfile.TemporaryDirectory(prefix="deepfocus-bench-") as own:
        folder = Path(own)
        with _kernel_cache(folder / "kernels"):
            return daemon_rows(_figures(folder, effort))


def _figures(folder: Path, effort: Effort) -> Figures:
    begin = time.monotonic()
    with private_daemon(folder / "cold") as daemon:
        cold_s = time.monotonic() - begin
        _until_served(daemon)
        _until_quiet(daemon.pid)
        kernels_s = max(time.monotonic() - begin - cold_s - _QUIET_S, 0.0)
    warm, serving, stops = [], [], []
    for _ in range(effort.warm_starts):
        begin = time.monotonic()
        with private_daemon(folder / "warm") as daemon:
            warm.append(time.monotonic() - begin)
            _until_served(daemon)
            serving.append(time.monotonic() - begin)
            _until_quiet(daemon.pid)
            stops.append(_stop_s(daemon))
    with private_daemon(folder / "warm") as daemon:
        _until_quiet(daemon.pid)
        idle = idle_percent(daemon.pid, effort.idle_s)
        memory = psutil.Process(daemon.pid).memory_full_info().uss / 2**20
        mask_s = first_mask_s(folder / "runs")
    return Figures(
        cold_s=cold_s,
        kernels_s=kernels_s,
        warm_s=statistics.median(warm),
        serving_s=statistics.median(serving),
        first_mask_s=mask_s,
        idle_percent=idle,
        idle_mb=memory,
        stop_s=statistics.median(stops),
    )


def daemon_rows(found: Figures) -> list[Row]:
    """Return the table's rows."""

    def row(name: str, value: float, unit: str, goal: float | None = None) -> Row:
        return Row("daemon", name, value, unit, goal=goal)

    return [
        row("start to ready, no compiled kernels at hand", found.cold_s, "s", 3.0),
        row("ready to the last kernel compiled, beside the work", found.kernels_s, "s"),
        row("start to ready, compiled kernels at hand", found.warm_s, "s", 1.5),
        row("start to the first run, compiled kernels at hand", found.serving_s, "s"),
        row("first frame to first mask, 512 × 512", found.first_mask_s, "s"),
        row("idle, part of a core", found.idle_percent, "%", 1.0),
        row("idle, memory of its own (USS)", found.idle_mb, "MB"),
        row("stop when idle", found.stop_s, "s", 2.0),
    ]


def idle_percent(pid: int, seconds: float) -> float:
    """Return how much of one core a process, with all its threads, uses for so long."""
    process = psutil.Process(pid)
    before, begin = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return 100 * spent / (time.monotonic() - begin)


def first_mask_s(output: Path) -> float:
    """Return the time from the first frame that this user's daemon is given to its mask.

    The ring and the attachment are there by then; the run's folder and the network's first slice
    of its size are part of it.

    Raises
    ------
    RuntimeError
        If no mask comes back.
    """
    specimen = demo_stack(shape=(3, 512, 512))
    microscope = load_simulated_microscope([specimen.slices], z_um=[specimen.z_um], exposure_ms=10)
    taken: list[float] = []
    masked: list[float] = []
    came = threading.Event()

    def on_mask(_mask: object) -> None:
        masked.append(time.monotonic())
        came.set()

    with attach(microscope.core, output=output) as attached:
        attached.on_mask(on_mask)
        microscope.core.mda.events.frameReady.connect(lambda *_: taken.append(time.monotonic()))
        microscope.core.mda.run(microscope.sequence(1))
        if not came.wait(_PATIENCE_S):
            raise RuntimeError("no mask has come back from the daemon.")
    microscope.close()
    return masked[0] - taken[0]


def _stop_s(daemon: DaemonAddress) -> float:
    begin = time.monotonic()
    with daemon.connect() as client:
        client.ask({"type": "stop", "now": False})
    daemon.stamp.wait(_PATIENCE_S)
    return time.monotonic() - begin


def _until_served(daemon: DaemonAddress) -> None:
    """Wait until whoever came as soon as the daemon could be found is served."""
    with daemon.connect() as client:
        client.ask({"type": "status"}, timeout_s=_PATIENCE_S)


def _until_quiet(pid: int) -> None:
    """Wait until the daemon has done what it does after it is ready."""
    deadline = time.monotonic() + _PATIENCE_S
    while idle_percent(pid, _QUIET_S) > _BUSY_PERCENT and time.monotonic() < deadline:
        pass


@contextmanager
def _kernel_cache(folder: Path) -> Iterator[None]:
    """Let the processes started in this context keep compiled kernels in a folder of their own."""
    before = os.environ.get(_KERNEL_CACHE)
    os.environ[_KERNEL_CACHE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KERNEL_CACHE]
        else:
            os.environ[_KERNEL_CACHE] = before
