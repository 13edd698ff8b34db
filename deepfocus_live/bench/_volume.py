"""Storing slices against raw file writes on the same disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.bench._table import Row, medians
from deepfocus_live.config import StorageConfig
from deepfocus_live.frames import ChannelSpec, FrameHeader, ImageSpec, RunSpec
from deepfocus_live.volume import RunWriter

__all__ = ["measure"]

_SLICES, _SIDE = 20, 2048


def measure() -> list[Row]:
    """Return the rows of the group `volume`."""
    rng = np.random.default_rng(0)
    # 12-bit counts with shot noise: what a camera gives, neither empty nor random.
    slices = [rng.poisson(900, (_SIDE, _SIDE)).astype(np.uint16) for _ in range(3)]
    stack = [slices[z % 3] for z in range(_SLICES)]
    megabytes = _SLICES * stack[0].nbytes / 1e6
    with tempfile.TemporaryDirectory(prefix="deepfocus-bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        ours, raw, cached = medians(
            lambda: _store(folder, stack, StorageConfig()),
            lambda: _write_raw(folder, stack),
            lambda: _store(folder, stack, StorageConfig(durability="process")),
            repeat=5,
            seconds=30,
        )
    size = f"{_SLICES} slices of {_SIDE} × {_SIDE} uint16"
    reference = "raw write, sync and rename of the same pixels, uncompressed"
    return [
        Row("volume", f"{size}, durable", megabytes / ours, "MB/s", reference, megabytes / raw),
        Row(
            "volume", f"{size}, page cache", megabytes / cached, "MB/s", reference, megabytes / raw
        ),
    ]


def _store(folder: Path, stack: list[NDArray[np.uint16]], storage: StorageConfig) -> None:
    spec = RunSpec(
        run_id=uuid.uuid4().hex,
        name="bench",
        height_px=_SIDE,
        width_px=_SIDE,
        dtype="uint16",
        images=(ImageSpec(name="0", size_t=1, size_z=len(stack)),),
        channels=(ChannelSpec(name="bench"),),
    )
    writer = RunWriter.create(folder, spec, storage, about={})
    durable = Semaphore(0)

    def store(z: int) -> None:
        header = FrameHeader(
            run_id=spec.run_id,
            sequence_number=z,
            index={"z": z},
            height_px=_SIDE,
            width_px=_SIDE,
            dtype="uint16",
            taken_at=time.time(),
        )
        stored = writer.write_frame(header, stack[z])
        writer.journal_frame(header, stored, lambda _error: durable.release())

    with ThreadPoolExecutor(storage.workers) as workers:
        list(workers.map(store, range(len(stack))))
    for _ in stack:
        durable.acquire()
    writer.close()
    shutil.rmtree(writer.path)


def _write_raw(folder: Path, stack: list[NDArray[np.uint16]]) -> None:
    target = folder / uuid.uuid4().hex
    target.mkdir()
    for z, pixels in enumerate(stack):
        partial = target / f"{z}.partial"
        with partial.open("wb") as file:
            file.write(pixels.data)
            file.flush()
            _platform.sync_file(file.fileno())
        os.replace(partial, target / str(z))
    shutil.rmtree(target)
