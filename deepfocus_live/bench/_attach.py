"""What the acquisition's thread pays for a frame."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import useq
from numpy.typing import NDArray
from pymmcore_plus import CMMCorePlus

from deepfocus_live.bench._table import Row
from deepfocus_live.microscope import attach
from deepfocus_live.ring import private_daemon

__all__ = ["measure"]

_SIDE, _FRAMES = 2048, 200


def measure() -> list[Row]:
    """Return the rows of the group `attach`.

    Frames are emitted through a real core's runner signal at 100 frames/s, so
    that the time in the slot is all that is measured.
    """
    frame = np.random.default_rng(0).poisson(900, (_SIDE, _SIDE)).astype(np.uint16)
    with tempfile.TemporaryDirectory(prefix="deepfocus-bench-", dir=Path.cwd()) as folder:
        with private_daemon(Path(folder)):
            spent, copies, empty = _hand_over(frame, Path(folder))
    name = f"handing over a {_SIDE} × {_SIDE} uint16 frame, in the microscope's thread"
    reference = "memcpy of the frame"
    median, copy = 1e6 * statistics.median(spent), 1e6 * statistics.median(copies)
    bare = 1e6 * statistics.median(empty)
    p99, bare_p99 = (1e6 * float(np.percentile(times, 99)) for times in (spent, empty))
    return [
        Row("attach", f"{name}, median", median, "µs", reference, copy),
        Row("attach", f"{name}, median", median, "µs", "the same signal, an empty slot", bare),
        Row("attach", f"{name}, p99", p99, "µs", "the same signal, an empty slot, p99", bare_p99),
        Row("attach", f"{name}, p99", p99, "µs", goal=50.0),
    ]


def _hand_over(frame: NDArray[Any], folder: Path) -> tuple[list[float], list[float], list[float]]:
    core = CMMCorePlus()
    signals = core.mda.events
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": _FRAMES})  # type: ignore[arg-type]
    info = {"height": _SIDE, "width": _SIDE, "dtype": "uint16", "camera_label": "bench"}
    spent, copies, empty = [], [], []
    bare = CMMCorePlus()
    bare.mda.events.frameReady.connect(_empty_slot)
    target = np.empty_like(frame)
    with attach(core, output=folder):
        signals.sequenceStarted.emit(sequence, {"image_infos": (info,)})
        for event in sequence:
            owned = frame.copy()
            begin = time.perf_counter()
            signals.frameReady.emit(owned, event, {})
            spent.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            np.copyto(target, frame)
            copies.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            bare.mda.events.frameReady.emit(owned, event, {})
            empty.append(time.perf_counter() - begin)
            time.sleep(0.01)
        signals.sequenceFinished.emit(sequence)
    return spent, copies, empty


def _empty_slot(_image: object, _event: object, _meta: object) -> None:
    """Take nothing and do nothing."""
