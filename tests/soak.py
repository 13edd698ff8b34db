"""Many small stacks through one daemon, and what the processes hold meanwhile."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path

import psutil

from deepfocus_live.microscope import attach
from deepfocus_live.microscope.simulated import load_simulated_microscope
from deepfocus_live.ring import DaemonAddress, leftover_rings
from deepfocus_live.simulation import demo_stack

__all__ = ["MOST_GROWTH", "Held", "growth", "soak"]

MOST_GROWTH = 0.02
_SHAPE = (5, 96, 96)
_CATCH_UP_S = 120.0
_AT_BOTH_ENDS = 3


@dataclass(frozen=True)
class Held:
    """What two processes hold after so many stacks.

    `files` counts open files and sockets, on Windows handles; memory is what a process has for
    itself, without files and libraries.
    """

    stacks: int
    daemon_mb: float
    daemon_threads: int
    daemon_files: int
    microscope_mb: float
    microscope_threads: int
    microscope_files: int
    rings: int


def soak(
    daemon: DaemonAddress, output: Path, *, stacks: int, every: int, per_run: int = 10
) -> Iterator[Held]:
    """Take `stacks` small stacks, `per_run` to a run; yield what is held after every `every`.

    Each run is waited for, with its masks and labels, and then removed.

    Raises
    ------
    RuntimeError
        If a frame is not on the disk.
    """
    specimen = demo_stack(shape=_SHAPE)
    microscope = load_simulated_microscope(
        [specimen.slices],
        z_um=[specimen.z_um],
        pixel_size_um=specimen.pixel_size_um,
        exposure_ms=0,
    )
    # One of each length: useq's caches keep every sequence that was ever run.
    sequence = cache(microscope.sequence)
    taken = 0
    with attach(microscope.core, output=output) as attached:
        while taken < stacks:
            count = min(per_run, stacks - taken, every - taken % every)
            microscope.core.mda.run(sequence(count))
            taken += count
            # The run may not even have been announced when the last frame is taken.
            attached.wait(_CATCH_UP_S)
            _until_done(daemon)
            status = attached.status()
            if status["frames_durable"] != taken * _SHAPE[0] or status["restarts"]:
                raise RuntimeError(f"after {taken} stacks frames are missing: {status}")
            shutil.rmtree(status["runs"][-1])
            if taken % every == 0:
                yield _held(taken, psutil.Process(daemon.pid))
    microscope.close()


def growth(samples: Sequence[Held]) -> dict[str, float]:
    """Return by how much each thing has grown from the first samples to the last, as a part.

    Medians of three at both ends: one sample more or less in use says nothing.
    """
    first, last = samples[:_AT_BOTH_ENDS], samples[-_AT_BOTH_ENDS:]
    names = [field.name for field in fields(Held)][1:]
    found = {}
    for column, name in enumerate(names, 1):
        before, after = (
            statistics.median(astuple(one)[column] for one in end) for end in (first, last)
        )
        found[name] = (after - before) / max(before, 1)
    return found


def _until_done(daemon: DaemonAddress) -> None:
    deadline = time.monotonic() + _CATCH_UP_S
    with daemon.connect() as client:
        while client.ask({"type": "status"})["status"]["run"] is not None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the daemon has not caught up in {_CATCH_UP_S:.0f} s.")
            time.sleep(0.05)


def _held(stacks: int, daemon: psutil.Process) -> Held:
    def of(process: psutil.Process) -> tuple[float, int, int]:
        memory = _own_bytes(process) / 2**20
        files = process.num_handles() if sys.platform == "win32" else process.num_fds()
        return round(memory, 2), process.num_threads(), files

    return Held(stacks, *of(daemon), *of(psutil.Process()), len(leftover_rings()))


def _own_bytes(process: psutil.Process) -> int:
    """Return the memory that a process has for itself, whatever else runs on the machine.

    Its unique set size would grow on Linux as soon as another process ends that had the same
    libraries loaded.
    """
    memory = process.memory_full_info()
    if sys.platform == "linux":
        return int(memory.rss - memory.shared + memory.swap)
    return int(memory.private if sys.platform == "win32" else memory.uss)
