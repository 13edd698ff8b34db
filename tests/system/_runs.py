"""What every finished run must satisfy, whoever made it."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pymmcore_plus import CMMCorePlus

from deepfocus_live.ring import find_daemon
from deepfocus_live.volume import Run, open_run
from tests.ome_zarr import assert_run_is_valid


class Witness:
    """Keeps every frame that a core delivers, to hold the disk to."""

    def __init__(self, core: CMMCorePlus) -> None:
        self.frames: list[np.ndarray[Any, Any]] = []
        core.mda.events.frameReady.connect(self._see)

    def _see(self, image: np.ndarray[Any, Any]) -> None:
        self.frames.append(image.copy())


def wait_until_closed(path: Path, *, seconds: float = 150.0) -> Run:
    """Return the run once the daemon has made everything that it owes to it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        address = find_daemon()
        if address is not None:
            try:
                with address.connect() as client:
                    status = client.ask({"type": "status"})["status"]
            except OSError:
                continue
            if status["run"] is None and status["state"] != "catching-up":
                return open_run(path)
        time.sleep(0.05)
    raise TimeoutError(f"{path} was not finished in {seconds} s")


def frame_lines(run: Run) -> list[dict[str, Any]]:
    """Return the journal's lines of slices; which stand there as they got durable."""
    lines = [line for line in run.journal if line["kind"] == "frame"]
    return sorted(lines, key=lambda line: line["sequence_number"])


def assert_stored_once(run: Run, frames: list[np.ndarray[Any, Any]]) -> None:
    """Every frame that the camera delivered is on the disk once, equal to the last byte."""
    lines = frame_lines(run)
    numbers = Counter(line["sequence_number"] for line in lines)
    assert numbers == Counter(range(len(frames)))
    for line in lines:
        stored = slice_of(run, line)
        np.testing.assert_array_equal(stored, frames[line["sequence_number"]])
        assert line["crc32"] == f"{zlib.crc32(stored.tobytes()):08x}"


def slice_of(run: Run, line: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the pixels that a journal line speaks of."""
    image = run.images[line["image"]].image
    return np.asarray(image[line["t"], line["c"], line["z"]])


def assert_masked_once(run: Run) -> None:
    """Every stored slice has one mask, of zeros and ones."""
    journal = run.journal
    stored = [line["sequence_number"] for line in journal if line["kind"] == "frame"]
    masked = [line["sequence_number"] for line in journal if line["kind"] == "mask"]
    assert Counter(masked) == Counter(stored)
    for image in run.images:
        assert image.in_focus.shape == image.image.shape
        assert set(np.unique(image.in_focus[...])) <= {0, 1}


def assert_valid(run: Run) -> None:
    """Both validators of the field accept the store."""
    assert_run_is_valid(run.path)
