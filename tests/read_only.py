"""A disk that turns read-only in the middle of a run, and is writable again later.

Runs in mounts of its own: see `run_on_small_disk`.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from deepfocus_live.daemon import _intake
from deepfocus_live.daemon._intake import Intake
from deepfocus_live.daemon._run import ActiveRun, Look
from deepfocus_live.ring import MemoryRing
from deepfocus_live.volume import RunWriter, read_ledger
from tests.kills import judge_going_on, judge_written
from tests.stored_frames import header_of, pixels_of
from tests.until_killed import WriterPlan, plan_writer

__all__ = ["go_through_read_only"]


class _ReadOnlyFile:
    """Stands before an open file: a mount that is remounted leaves open files writable."""

    def __init__(self, file: Any) -> None:
        self.real = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, _data: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    truncate = write


class _Store:
    """What the daemon does with frames, without the daemon."""

    def __init__(self, plan: WriterPlan) -> None:
        self.plan = plan
        self.writer = RunWriter.create(Path("runs"), plan.spec(), plan.storage(), about={})
        self.run = ActiveRun(self.writer, Look("consensus"))
        self.said: list[str | None] = []
        self.ring = MemoryRing.create(
            Path("a.ring"), slots=32, slot_bytes=self.writer.spec.frame_bytes, run_room=4096
        )
        self.intake = Intake(
            plan.storage(),
            on_stored=lambda *_: None,
            on_trouble=lambda _run, text: self.said.append(text),
            warn=lambda text, **_: self.said.append(text),
        )
        self.taken = 0

    def take(self, count: int) -> None:
        """Put the next frames into the ring and announce them."""
        spec = self.writer.spec
        for number in range(self.taken, self.taken + count):
            size = {"height_px": spec.height_px, "width_px": spec.width_px, "dtype": spec.dtype}
            # The clock is set back by an hour as well, once.
            at = 1000.0 + number - 3600 * (number > 4)
            header = header_of(number, self.plan.index(number), **{**size, "taken_at": at})
            slot = next(slot for slot in range(self.ring.slots) if self.ring.is_free(slot))
            self.ring.put(slot, header.model_dump_json().encode(), pixels_of(number, spec), number)
            self.intake.store(self.run, self.ring, slot, number, None)
        self.taken += count

    def all_durable(self, patience_s: float) -> bool:
        """Wait until every frame is acknowledged; return whether they are."""
        deadline = time.monotonic() + patience_s
        while self.ring.waiting() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.ring.waiting()


def go_through_read_only(seed: int) -> tuple[int, list[str]]:
    """Store frames, turn the disk read-only, take more, turn it back.

    Returns
    -------
    slices, faults : int, list of str
        How many were compared byte by byte, and what is wrong.
    """
    logging.getLogger("deepfocus_live").setLevel(logging.CRITICAL)
    chance = random.Random(f"read-only {seed}")
    _intake._RETRY_S = 0.1
    store = _Store(plan_writer(seed))
    subprocess.run(["mount", "--bind", "runs", "runs"], check=True)
    faults = []
    for _ in range(2):
        store.take(chance.randint(1, 9))
        if not store.all_durable(30):
            faults.append("a writable disk did not take the frames")
        faults += _turned(store, chance)
    store.intake.stop()
    store.writer.close()
    path = store.writer.path
    faults += judge_written(path, set(range(store.taken)))
    ledger = read_ledger(path)
    if set(ledger.frames) != set(range(store.taken)):
        faults.append(f"there are {sorted(ledger.frames)} of {store.taken}")
    return len(ledger.frames), faults + judge_going_on(path, store.plan, set(ledger.frames))


def _turned(store: _Store, chance: random.Random) -> list[str]:
    """Turn the disk read-only for a while in which frames come."""
    faults: list[str] = []
    before = set(store.writer.durable_placements())
    store.said.clear()
    journal: Any = store.writer._journal
    if chance.random() < 0.7:  # before the slices do, or only the slices
        journal._file = _ReadOnlyFile(journal._file)
        store.take(1)
        time.sleep(0.2)
    subprocess.run(["mount", "-o", "remount,bind,ro", "runs"], check=True)
    store.take(chance.randint(1, 9))
    if store.all_durable(0.5):
        faults.append("frames were acknowledged while nothing could be written")
    faults += judge_written(store.writer.path, before)
    lines = set(store.said)
    wanted = f"{store.writer.path}: Read-only file system: make it writable again."
    if lines != {wanted}:
        faults.append(f"what was said is {lines}")
    subprocess.run(["mount", "-o", "remount,bind,rw", "runs"], check=True)
    if isinstance(journal._file, _ReadOnlyFile):
        journal._file = journal._file.real
    if not store.all_durable(30):
        faults.append("it did not go on when the disk was writable again")
    return faults
