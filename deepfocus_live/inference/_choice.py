"""Which of the two CPU runtimes is faster on this machine: measured once, and remembered."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs

from deepfocus_live import _platform
from deepfocus_live.errors import InputError
from deepfocus_live.inference._engine import Engine, EngineError, ModelEngine
from deepfocus_live.inference._onnxruntime import OnnxRuntimeEngine, read_metadata
from deepfocus_live.inference._openvino import OpenVinoEngine
from deepfocus_live.inference._sample import MOST_DIFFERING, SAMPLE_PX, differing, made_slice

__all__ = ["CpuRuntime", "Trial", "compare", "decide", "open_faster_on_cpu", "remembered_choices"]

log = logging.getLogger(__name__)

CpuRuntime = Literal["cpu", "openvino"]

_MOST_ENTRIES = 32
_MOST_TURNS, _LEAST_TURNS, _BUDGET_S = 9, 3, 0.3
_MUST_SAVE = 0.05  # of the time: less is within what two measurements differ by


@dataclass(frozen=True)
class Trial:
    """What was measured of the two runtimes, side by side.

    Attributes
    ----------
    cpu_ms, openvino_ms : float
        Median time of one slice in ONNX Runtime and in OpenVINO.
    differing : float
        Part of the pixels in which their masks differ, 0..1.
    """

    cpu_ms: float
    openvino_ms: float
    differing: float


def decide(trial: Trial) -> CpuRuntime:
    """Return "openvino" if it is at least 5 % faster and gives the same mask, else "cpu"."""
    faster = trial.openvino_ms <= (1.0 - _MUST_SAVE) * trial.cpu_ms
    return "openvino" if faster and trial.differing <= MOST_DIFFERING else "cpu"


def remembered_choices() -> Path:
    """Return the file that holds what was chosen before."""
    return Path(platformdirs.user_cache_dir("deepfocus-live", appauthor=False)) / "inference.json"


def open_faster_on_cpu(
    path: Path, *, threads: int | None = None, shape: Sequence[int] | None = None
) -> ModelEngine:
    """Open a model in the runtime that is faster on this machine's CPU.

    Measured once for each processor, number of threads, version of the runtimes and architecture
    of the network; then read from a file in the user's cache folder. A file that cannot be read or
    written only means that it is measured again.

    Parameters
    ----------
    path : path
        An ONNX file of ours.
    threads : int, optional
    shape : (Y, X), optional
        Both as for the engines.

    Raises
    ------
    InputError
        If the file is missing, damaged or no model of ours, or if the runtime that was chosen
        before cannot be had any more.
    """
    versions = _versions()
    if "openvino" not in versions:
        return OnnxRuntimeEngine(path, device="cpu", threads=threads, shape=shape)
    key = _key(versions, threads, read_metadata(path).get("architecture", ""))
    file = remembered_choices()
    known = _read(file).get(key)
    if known == "openvino":
        return OpenVinoEngine(path, threads=threads)
    plain = OnnxRuntimeEngine(path, device="cpu", threads=threads, shape=shape)
    if known == "cpu":
        return plain
    try:
        other = OpenVinoEngine(path, threads=threads)
        trial = compare(plain, other)
    except (InputError, EngineError) as error:
        # Not remembered: memory may have been short.
        log.info("OpenVINO is not used: %s", error)
        return plain
    chosen = decide(trial)
    log.info(
        "a slice of %d x %d pixels takes ONNX Runtime %.1f ms and OpenVINO %.1f ms; masks differ "
        "in %.2f %% of the pixels: %s is used from now on",
        *(SAMPLE_PX, SAMPLE_PX, trial.cpu_ms, trial.openvino_ms, 100 * trial.differing),
        "OpenVINO" if chosen == "openvino" else "ONNX Runtime",
    )
    _remember(file, key, chosen)
    return other if chosen == "openvino" else plain


def compare(cpu: Engine, openvino: Engine) -> Trial:
    """Time two engines on a made slice, in turns, and compare their masks."""
    engines, counts = (cpu, openvino), made_slice(SAMPLE_PX)
    masks = [engine.run(counts)[0] for engine in engines]  # and they are warm
    times: list[list[float]] = [[], []]
    deadline = time.perf_counter() + _BUDGET_S
    for turn in range(_MOST_TURNS):
        if turn >= _LEAST_TURNS and time.perf_counter() > deadline:
            break
        # In turns: what else the machine does is shared alike.
        for engine, spent in zip(engines, times, strict=True):
            began = time.perf_counter()
            engine.run(counts)
            spent.append((time.perf_counter() - began) * 1e3)
    cpu_ms, openvino_ms = (statistics.median(spent) for spent in times)
    return Trial(cpu_ms, openvino_ms, differing(*masks))


def _versions() -> dict[str, str]:
    """Return the versions of the runtimes that are installed, without importing them."""
    found = {}
    for name in ("onnxruntime-gpu", "onnxruntime", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _key(versions: dict[str, str], threads: int | None, architecture: str) -> str:
    machine = {
        "processor": _platform.processor_name(),
        "cores": _platform.usable_cores(),
        "threads": threads,
        **versions,
        "architecture": architecture,
    }
    return json.dumps(machine, sort_keys=True)


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _remember(file: Path, key: str, chosen: CpuRuntime) -> None:
    entries = {**_read(file), key: chosen}
    kept = dict(list(entries.items())[-_MOST_ENTRIES:])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _platform.replace_file(file, json.dumps(kept, indent=1).encode())
    except OSError as error:
        log.debug("%s: cannot be written (%s)", file, error)
