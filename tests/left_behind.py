"""A producer that leaves things behind: it makes rings and spills, and is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deepfocus_live import _platform
from deepfocus_live.frames import FrameHeader, RunSpec
from deepfocus_live.ring import FrameSpill, MemoryRing, new_ring_path, spill_folder

__all__ = ["FRAMES", "SHAPE", "pixels_of", "spec_of"]

SHAPE = (20, 30)
FRAMES = 7


def spec_of(name: str) -> RunSpec:
    return RunSpec.model_validate(
        {
            "run_id": name,
            "name": name,
            "height_px": SHAPE[0],
            "width_px": SHAPE[1],
            "dtype": "uint16",
            "images": [{"name": "here", "size_z": FRAMES}],
            "channels": [{"name": "BF"}],
        }
    )


def pixels_of(name: str, number: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    rng = np.random.default_rng([number, *name.encode()])
    return rng.integers(0, 65535, SHAPE, np.uint16)


def _frame(name: str, number: int) -> tuple[bytes, np.ndarray[Any, np.dtype[np.uint16]], int]:
    header = FrameHeader(
        run_id=name,
        sequence_number=number,
        index={"z": number},
        height_px=SHAPE[0],
        width_px=SHAPE[1],
        dtype="uint16",
        taken_at=1000.0,
    )
    return header.model_dump_json(exclude_none=True).encode(), pixels_of(name, number), number


def _ring(name: str, count: int) -> MemoryRing:
    about = spec_of(name).model_dump_json().encode()
    ring = MemoryRing.create(new_ring_path(1 << 20), slots=4, slot_bytes=1200, run_room=len(about))
    ring.run = about
    for number in range(count):
        ring.put(number, *_frame(name, number))
    return ring


def _spill(name: str, first: int) -> Path:
    """Spill the frames from `first` on; return the file."""
    spill = FrameSpill(spill_folder(None), spec_of(name).model_dump_json().encode())
    before = set(spill.folder.glob("*"))
    for number in range(first, FRAMES):
        header, pixels, _ = _frame(name, number)
        assert spill.append(header, pixels, number, run_folder=None)
    (path,) = set(spill.folder.glob("*")) - before
    return path


def leave_everything() -> None:
    """Leave a run in ring and spill, runs in spills alone (whole, torn, damaged); die at a ring."""
    # One frame is in both, as after a death between putting it there and forgetting it here.
    _ring("both", 3)
    _spill("both", 2)
    _spill("spilled", 0)
    # A daemon was killed too, just before the run that it made had its name.
    named = _platform.runtime_dir().parent / "runs" / "20260101_000000_named"
    (named.parent / f".{named.name}.partial" / "volume.ome.zarr").mkdir(parents=True)
    _ring("named", 4).folder = named
    torn = _spill("torn", 0)
    os.truncate(torn, torn.stat().st_size - 5)
    damaged = _spill("damaged", 0)
    with damaged.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    die_half_way(new_ring_path(1 << 20))


def die_half_way(path: Path, *, fallocate: bool = True) -> None:
    """Be killed while the ring's bytes are being made."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if fallocate:
        os.posix_fallocate = die
    else:
        del os.posix_fallocate
        import builtins

        builtins.bytes = lambda *_: die()  # type: ignore[assignment,misc]
    MemoryRing.create(path, slots=4, slot_bytes=1200, run_room=100)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        die_half_way(Path(sys.argv[1]), fallocate=sys.argv[2] == "True")
    leave_everything()
