"""Where torch trains on this machine, and why not on a GPU."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import torch

__all__ = ["TrainingDevice", "choose_threads", "limit_gpu_memory", "training_device"]

_TRIAL_STEPS = 6


@dataclass(frozen=True)
class TrainingDevice:
    """What training runs on.

    Attributes
    ----------
    device : torch.device
    words : str
        For people: which, and where it is not a GPU, why.
    """

    device: torch.device
    words: str


def choose_threads() -> int:
    """Return how many CPU threads torch is to use: all it would, or one if that is faster now.

    Threads wait for each other after every layer. Beside other busy processes the slowest of them
    waits for a core, and one thread alone is several times faster.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    took = {threads: _seconds(threads) for threads in (most, 1)}
    chosen = min(took, key=lambda threads: took[threads])
    torch.set_num_threads(chosen)
    return chosen


def _seconds(threads: int) -> float:
    """Return what some small convolutions take."""
    torch.set_num_threads(threads)
    layer = torch.nn.Conv2d(16, 16, 3, padding=1)
    maps = torch.zeros(4, 16, 64, 64)
    with torch.inference_mode():
        layer(maps)  # sets kernels and threads up
        began = time.perf_counter()
        for _ in range(_TRIAL_STEPS):
            layer(maps).relu()
    return time.perf_counter() - began


def training_device() -> TrainingDevice:
    """Return the GPU if torch really computes on one, else the CPU and the reason."""
    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    on_cpu = f"the CPU, {threads} thread{'s' if threads != 1 else ''}"
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return TrainingDevice(cpu, f"{on_cpu} (this torch {torch.__version__} is built for CPUs)")
    if not torch.cuda.is_available():
        return TrainingDevice(cpu, f"{on_cpu} (torch finds no GPU, or no driver for it)")
    try:
        _try_gpu()
    except RuntimeError as error:  # too old for this torch, out of memory, driver too old …
        first = str(error).splitlines()[0]
        return TrainingDevice(cpu, f"{on_cpu} (the GPU does not compute: {first})")
    return TrainingDevice(torch.device("cuda"), f"the GPU, {torch.cuda.get_device_name(0)}")


def limit_gpu_memory(megabytes: int) -> None:
    """Let torch take no more of the GPU's memory than that; the live masks run there, too."""
    if not torch.cuda.is_available():
        return
    # Of a GPU that does not compute, `training_device` says why.
    with contextlib.suppress(RuntimeError):
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, megabytes * 1e6 / total))


def _try_gpu() -> None:
    """Convolve something, exactly: block means are sums that must not be rounded."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    ones = torch.ones(1, 1, 8, 8, device="cuda")
    float(torch.nn.functional.conv2d(ones, ones).sum())
