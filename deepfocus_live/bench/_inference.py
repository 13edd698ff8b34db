"""Masks: raw slice in host memory to mask in host memory.

The shipped model beside what it cannot be faster than (`_floor`), the published network in the same
engine, and other runtimes and devices where they are at hand. What is compared takes turns. Slices
are random counts, too many for the caches: how long a mask takes does not depend on what is seen.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepfocus_live.bench import _floor
from deepfocus_live.bench._cuda import SLICES_OF_A_STACK, cuda_rows, time_on_cuda
from deepfocus_live.bench._swaps import memory_of_swaps, swap_under_load
from deepfocus_live.bench._table import Row
from deepfocus_live.errors import InputError
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import MIN_SIDE, ModelVersion, Registry
from deepfocus_live.model.export import export_onnx
from deepfocus_live.model.network import PUBLISHED, FocusNetwork

__all__ = ["Effort", "in_turns", "mask_rows", "measure"]

_OURS, _OPENVINO, _PUBLISHED, _COPY = "ours", "openvino", "published", "copy"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    shapes : tuple of (Y, X)
        Of the slices, pixels; the first one's under swaps, too.
    slices : int
        Masks made of each shape.
    seldom : int
        Times that the slow references are run among them.
    seconds : float
        Time limit of each shape, and of the many swaps.
    pause_s : float
        Before everything that is timed: a library's threads that wait for more work keep a core
        busy for so long (OpenBLAS), and would be timed as the next one's.
    gemm_side : int
        Rows and columns of the matrices whose product sets the floor.
    swaps_under_load, swaps, first_swaps : int
        Swaps while slices are timed; swaps over which the memory is watched, and before.
    """

    shapes: tuple[tuple[int, int], ...] = ((1024, 1344), (2048, 2048))
    slices: int = 200
    seldom: int = 8
    seconds: float = 180.0
    pause_s: float = 0.1
    gemm_side: int = 1024
    swaps_under_load: int = 20
    swaps: int = 1000
    first_swaps: int = 50


def measure(effort: Effort | None = None) -> list[Row]:
    """Return the rows of the group `inference`: the shipped model on this machine.

    Exporting the published network, with random weights, takes 5 to 30 s that are not measured.
    """
    effort = effort or Effort()
    version = Registry().shipped_version()
    threads = torch.get_num_threads()
    # First, for memory that larger work gave back may stay with the process and hide a growth.
    swap_rows = _swap_rows(version, threads, effort)
    # Kept to the end: an engine may open its file again for another shape.
    with tempfile.TemporaryDirectory(prefix="deepfocus-bench-") as folder:
        models = {
            _OURS: InFocusModel.load(version, provider="cpu", threads=threads),
            _PUBLISHED: _published(Path(folder), threads),
        }
        if (openvino := _load_if_any(version, "openvino", threads)) is not None:
            models[_OPENVINO] = openvino
        card = _load_if_any(version, "cuda", threads)
        rows = [
            row for shape in effort.shapes for row in _rows_of(shape, version, models, card, effort)
        ]
    return [*rows, *swap_rows]


def _rows_of(
    shape: tuple[int, int],
    version: ModelVersion,
    models: Mapping[str, InFocusModel],
    card: InFocusModel | None,
    effort: Effort,
) -> list[Row]:
    """Return the rows of one size of slice, on the processor and on the card."""
    stack = np.random.default_rng(0).integers(100, 4096, (SLICES_OF_A_STACK, *shape), np.uint16)
    times = _time_masks(models, stack, effort)
    on_card = time_on_cuda(version, stack, card, repeat=effort.slices) if card else {}
    # Named after they ran, by what really ran.
    names = {key: f"{model.version} on {model.provider}" for key, model in models.items()}
    return [
        *mask_rows(
            shape,
            times,
            names=names,
            multiply_adds=_floor.multiply_adds(version.onnx, shape),
            gemm_flops=_floor.gemm_flops(effort.gemm_side),
            threads=torch.get_num_threads(),
            slices=effort.slices,
        ),
        *cuda_rows(f"{version.name} on {card.provider if card else 'CUDA'}", shape, on_card),
    ]


def _published(folder: Path, threads: int) -> InFocusModel:
    """Return the published network with random weights."""
    file = folder / "published.onnx"
    export_onnx(FocusNetwork(PUBLISHED), file, name="published")
    return InFocusModel.load(file, provider="cpu", threads=threads)


def _load_if_any(version: ModelVersion, provider: str, threads: int) -> InFocusModel | None:
    """Return the model on a provider, or None where it cannot be had or makes no mask."""
    try:
        model = InFocusModel.load(version, provider=provider, threads=threads)
        model.warm_up((MIN_SIDE, MIN_SIDE))
    except (InputError, RuntimeError):
        return None
    return model


def _time_masks(
    models: Mapping[str, InFocusModel], stack: NDArray[np.uint16], effort: Effort
) -> dict[str, list[float]]:
    target = np.zeros_like(stack[0])  # zeros, so that its pages are there

    def endless(use: Callable[[NDArray[np.uint16]], object]) -> Callable[[], object]:
        frames = itertools.cycle(stack)
        return lambda: use(next(frames))

    often: dict[str, Callable[[], object]] = {
        key: endless(model.infer) for key, model in models.items() if key != _PUBLISHED
    }
    often[_COPY] = endless(lambda z_slice: np.copyto(target, z_slice))
    # At every turn: a processor whose speed changes within the run changes for both.
    often |= _floor.gemms(effort.gemm_side)
    seldom = {_PUBLISHED: endless(models[_PUBLISHED].infer)}
    return in_turns(
        often,
        seldom,
        repeat=effort.slices,
        few=effort.seldom,
        seconds=effort.seconds,
        pause_s=effort.pause_s,
    )


def in_turns(
    often: Mapping[str, Callable[[], object]],
    seldom: Mapping[str, Callable[[], object]],
    *,
    repeat: int,
    few: int,
    seconds: float,
    pause_s: float = 0.0,
) -> dict[str, list[float]]:
    """Return what each call took, in seconds, by name.

    All are run once before; then they take turns, so that drift hits all alike.

    Parameters
    ----------
    often, seldom : mapping of callables
        Those of `seldom`, which take long, are run in few of the turns, evenly spread.
    repeat, few : int
        Turns, and how many of them are everybody's.
    seconds : float
        Time limit: no turn begins later, but for the first.
    pause_s : float
        Before each call.
    """
    everybody = {**often, **seldom}
    for call in everybody.values():
        call()
    spent: dict[str, list[float]] = {name: [] for name in everybody}
    between = max(1, repeat // few)
    deadline = time.perf_counter() + seconds
    for turn in range(repeat):
        if turn and time.perf_counter() > deadline:
            break
        for name, call in (often if turn % between else everybody).items():
            time.sleep(pause_s)
            begin = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - begin)
    return spent


def mask_rows(
    shape: Sequence[int],
    times: Mapping[str, Sequence[float]],
    *,
    names: Mapping[str, str],
    multiply_adds: int,
    gemm_flops: int,
    threads: int,
    slices: int,
) -> list[Row]:
    """Return the rows of one size of slice on the processor.

    Parameters
    ----------
    shape : (Y, X)
    times : mapping
        Seconds of every run: "ours", "published", "copy", the products of matrices by name, and
        "openvino" where it is at hand.
    names : mapping
        What runs, for "ours" and "openvino".
    multiply_adds : int
        Of one mask, each two floating-point operations.
    gemm_flops : int
        Floating-point operations of one product of matrices.
    threads : int
        Of every one of them.
    slices : int
        How many were wanted; where fewer were taken, the rows' names say so.
    """
    size, flops = f"{shape[0]} × {shape[1]}", 2 * multiply_adds
    taken = len(times[_OURS])
    few = f", {taken} slices" if taken < slices else ""
    p50 = {name: statistics.median(spent) for name, spent in times.items()}
    rates = {
        name: gemm_flops / p50[name] / 1e9 for name in p50 if name.startswith(("torch", "numpy"))
    }
    single = max(rates[name] for name in _floor.FLOAT32)
    ours, openvino = p50[_OURS], p50.get(_OPENVINO)
    p99 = float(np.percentile(times[_OURS], 99))
    here = f"{names[_OURS]}, {threads} thread" + "s" * (threads != 1)
    there = names.get(_OPENVINO, "OpenVINO")
    mask, rate = f"mask of a {size} slice", f"arithmetic of the mask of a {size} slice"

    def row(name: str, value: float | None, unit: str, *reference: Any, **goal: Any) -> Row:
        return Row("inference", name, value, unit, *reference, **goal)

    return [
        row(f"{mask}, {here}, p50{few}", 1e3 * ours, "ms", "memcpy of the slice", 1e3 * p50[_COPY]),
        row(f"{mask}, {here}, p99{few}", 1e3 * p99, "ms", "its p50", 1e3 * ours),
        row(
            f"{rate}, {here}",
            flops / ours / 1e9,
            "GFLOP/s",
            "float32 GEMM",
            single,
            goal=0.75,
            at_least=True,
        ),
        row(
            f"{mask}, the published full-resolution network, random weights, p50, "
            f"{len(times[_PUBLISHED])} slices",
            1e3 * p50[_PUBLISHED],
            "ms",
            "ours",
            1e3 * ours,
            goal=12.0,
            at_least=True,
        ),
        row(
            f"{mask}, {there}, p50{few}",
            1e3 * openvino if openvino else None,
            "ms",
            "ours on ONNX Runtime",
            1e3 * ours,
        ),
        row(
            f"{rate}, {there}",
            flops / openvino / 1e9 if openvino else None,
            "GFLOP/s",
            "the fastest GEMM, float32 or bfloat16",
            max(rates.values()),
            goal=0.5,
            at_least=True,
        ),
    ]


def _swap_rows(version: ModelVersion, threads: int, effort: Effort) -> list[Row]:
    shape = effort.shapes[0]
    done, grown = memory_of_swaps(
        version, swaps=effort.swaps, first=effort.first_swaps, seconds=effort.seconds
    )
    slowest, median = swap_under_load(
        version, shape, swaps=effort.swaps_under_load, threads=threads
    )
    return [
        Row(
            "inference",
            f"slowest {shape[0]} × {shape[1]} slice during {effort.swaps_under_load} swaps",
            1e3 * slowest,
            "ms",
            "the median before them",
            1e3 * median,
            goal=3.0,
        ),
        Row("inference", f"growth of memory over {done} swaps", grown, "MB", goal=10.0),
    ]
