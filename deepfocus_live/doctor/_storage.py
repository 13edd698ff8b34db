"""How fast the disk takes slices, how much room there is, and memory for those that wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from deepfocus_live import _platform
from deepfocus_live.config import Config, writable_folder
from deepfocus_live.doctor._finding import Finding
from deepfocus_live.errors import InputError

__all__ = ["look_at_disk", "look_at_ring"]

_SLICE_BYTES = 8 << 20  # 2048 × 2048, 16 bit
_MOST_SLICES = 16
_BUDGET_S = 1.5
_LOW_GB = 20.0
_SLOW_MB_S = 60.0
_FEW_SLOTS = 16


def look_at_disk(config: Config) -> Iterator[Finding]:
    """Write slices of noise into the output folder, with and without sync, and remove them."""
    try:
        folder = writable_folder(config.output_dir)
    except InputError as error:
        yield Finding("disk", "fault", str(error), "set `output` in the configuration")
        return
    free_gb = shutil.disk_usage(folder).free / 1e9
    yield Finding(
        "disk, room",
        "warning" if free_gb < _LOW_GB else "ok",
        f"{folder}: {free_gb:.0f} GB free",
        "choose a larger disk with --output, or make room" if free_gb < _LOW_GB else "",
        {"folder": str(folder), "free_gb": round(free_gb, 1)},
    )
    plain, synced = (_rate_mb_s(folder, sync=sync) for sync in (False, True))
    slow = synced < _SLOW_MB_S
    yield Finding(
        "disk, rate",
        "warning" if slow else "ok",
        f"{synced:.0f} MB/s synced, {plain:.0f} MB/s without; a 2048 × 2048 camera at 10 frames/s "
        "brings 84 MB/s, before compression",
        "take a faster disk, or storage.durability: process" if slow else "",
        {"synced_mb_s": round(synced, 1), "plain_mb_s": round(plain, 1)},
    )


def _rate_mb_s(folder: Path, *, sync: bool) -> float:
    """Return how fast slices are written, each to a file of its own, in MB/s."""
    data = os.urandom(_SLICE_BYTES)  # what does not compress, whatever the file system does
    probe = folder / f".deepfocus-live-{uuid.uuid4().hex}"
    written = 0
    begin = time.perf_counter()
    try:
        while written < _MOST_SLICES and time.perf_counter() - begin < _BUDGET_S:
            with probe.open("wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    _platform.sync_file(file.fileno())
            written += 1
        return written * _SLICE_BYTES / 1e6 / (time.perf_counter() - begin)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def look_at_ring(config: Config) -> Iterator[Finding]:
    """Say how many large slices may wait in memory, and where."""
    from deepfocus_live.microscope._ring_room import ring_slots

    slots = ring_slots(config.ring, _SLICE_BYTES)
    folder = _platform.fast_scratch_dir(slots * _SLICE_BYTES, _platform.runtime_dir())
    few = slots < _FEW_SLOTS
    yield Finding(
        "ring memory",
        "warning" if few else "ok",
        f"{slots} slices of 2048 × 2048 pixels wait in {folder} at most",
        "close other programs, or set ring.memory_mb" if few else "",
        {"slots": slots, "folder": str(folder)},
    )
