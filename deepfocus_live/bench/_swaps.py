"""What a new model costs the slices that are being worked on, and the memory."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Sequence

import numpy as np
import psutil

from deepfocus_live.inference import InFocusModel, ModelSlot
from deepfocus_live.model import MIN_SIDE, ModelVersion

__all__ = ["memory_of_swaps", "swap_under_load"]

_CALM = 3  # slices between two swaps


def swap_under_load(
    version: ModelVersion, shape: Sequence[int], *, swaps: int, threads: int
) -> tuple[float, float]:
    """Return the slowest slice while models are swapped, and the median before, in seconds.

    One thread infers all the time; this one swaps, with a few slices between two swaps.

    Parameters
    ----------
    version : ModelVersion
    shape : (Y, X)
    swaps, threads : int
    """
    slot = ModelSlot(
        InFocusModel.load(version, provider="cpu", threads=threads),
        provider="cpu",
        threads=threads,
    )
    slot.model.warm_up(shape)
    image = np.random.default_rng(0).integers(100, 4096, tuple(shape), np.uint16)
    spent: list[float] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def infer_all_the_time() -> None:
        try:
            while not stop.is_set():
                begin = time.perf_counter()
                slot.infer(image)
                spent.append(time.perf_counter() - begin)
        except Exception as error:
            failed.append(error)

    def wait_for(slices: int) -> int:
        until = len(spent) + slices
        while len(spent) < until and not failed:
            time.sleep(0.001)
        return len(spent)

    thread = threading.Thread(target=infer_all_the_time)
    thread.start()
    try:
        quiet = wait_for(max(swaps, _CALM))
        for _ in range(swaps):
            slot.swap(version, shape)
            wait_for(_CALM)
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
    return max(spent[quiet:]), statistics.median(spent[:quiet])


def memory_of_swaps(
    version: ModelVersion, *, swaps: int, first: int, seconds: float
) -> tuple[int, float]:
    """Return how many swaps were made and by how many MB (10^6 bytes) the process grew.

    A slice of the smallest size is inferred after each, on one thread.

    Parameters
    ----------
    version : ModelVersion
    swaps : int
    first : int
        Swaps before the memory is first looked at: allocators keep what they once had.
    seconds : float
        Time limit of all; from then on no further swap is begun.
    """
    shape = (MIN_SIDE, MIN_SIDE)
    image = np.zeros(shape, np.uint16)
    slot = ModelSlot(
        InFocusModel.load(version, provider="cpu", threads=1), provider="cpu", threads=1
    )
    deadline = time.monotonic() + seconds

    def swap() -> None:
        slot.swap(version, shape)
        slot.infer(image)

    for _ in range(first):
        swap()
    before = _resident()
    done = 0
    while done < swaps and (done == 0 or time.monotonic() < deadline):
        swap()
        done += 1
    return done, (_resident() - before) / 1e6


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
