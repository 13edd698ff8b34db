"""Frames to store, and what the daemon does with each: light to import, for processes to kill."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.config import StorageConfig
from deepfocus_live.frames import FrameHeader, RunSpec
from deepfocus_live.volume import RunWriter, StoredFrame

__all__ = [
    "QUICK",
    "SAFE",
    "SHAPE",
    "Pixels",
    "enter_frame",
    "header_of",
    "pixels_of",
    "run_spec",
    "store_frame",
]

Pixels = NDArray[np.unsignedinteger[Any]]
SHAPE = (20, 30)
QUICK = StorageConfig(durability="process")
SAFE = StorageConfig(durability="power-loss")


def run_spec(**changes: Any) -> RunSpec:
    spec = {
        "run_id": "abc",
        "name": "organoid",
        "height_px": SHAPE[0],
        "width_px": SHAPE[1],
        "dtype": "uint16",
        "images": [{"name": "here", "size_t": 1, "size_z": 3}],
        "channels": [{"name": "BF"}],
    }
    return RunSpec.model_validate({**spec, **changes})


def pixels_of(seed: int, spec: RunSpec | None = None) -> Pixels:
    spec = spec or run_spec()
    rng = np.random.default_rng(seed)
    top = np.iinfo(spec.dtype).max
    return rng.integers(0, top, (spec.height_px, spec.width_px), spec.dtype, endpoint=True)


def header_of(number: int, index: dict[str, int] | None = None, **known: Any) -> FrameHeader:
    header = {
        "run_id": "abc",
        "sequence_number": number,
        "index": {"z": number} if index is None else index,
        "height_px": SHAPE[0],
        "width_px": SHAPE[1],
        "dtype": "uint16",
        "taken_at": 1000.0 + number,
    }
    return FrameHeader.model_validate({**header, **known})


def store_frame(
    writer: RunWriter, number: int, index: dict[str, int] | None = None, *, seed: int | None = None
) -> StoredFrame:
    """Do with a frame what the daemon does: write, journal, wait until it is durable."""
    pixels = pixels_of(number if seed is None else seed, writer.spec)
    header = header_of(number, index)
    stored = writer.write_frame(header, pixels)
    if not stored.duplicate:
        enter_frame(writer, header, stored)
    return stored


def enter_frame(writer: RunWriter, header: FrameHeader, stored: StoredFrame) -> None:
    durable = threading.Event()
    errors: list[BaseException | None] = []

    def then(error: BaseException | None) -> None:
        errors.append(error)
        durable.set()

    writer.journal_frame(header, stored, then)
    assert durable.wait(20)
    if errors[0] is not None:
        raise errors[0]
