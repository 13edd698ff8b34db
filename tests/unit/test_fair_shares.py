"""Two clients at once: who floods, or whose disk refuses, does not hold up the other."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepfocus_live.config import Config, StorageConfig
from deepfocus_live.daemon import _intake
from deepfocus_live.daemon._intake import Intake
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._run import ActiveRun, Look
from deepfocus_live.daemon._turns import Turns
from deepfocus_live.ring import MemoryRing
from deepfocus_live.volume import RunWriter
from tests.stored_frames import header_of, pixels_of, run_spec

WORKERS = 2
QUICK = StorageConfig(durability="process", workers=WORKERS)


def _no(*_: Any, **__: Any) -> None:
    """Is not called."""


class _Clients:
    """Two rings, their runs, and whose frames were acknowledged in which order."""

    def __init__(self, folder: Path) -> None:
        self.order: list[str] = []
        self.troubles: list[str | None] = []
        self.intake = Intake(
            QUICK,
            on_stored=lambda run, *_: self.order.append(run.spec.run_id),
            on_trouble=lambda _run, text: self.troubles.append(text),
            warn=lambda text, **_: pytest.fail(text),
        )
        self.runs: dict[str, ActiveRun] = {}
        self.rings: dict[str, MemoryRing] = {}
        for name in ("flood", "slow"):
            frames = [{"name": "here", "size_z": 64}]
            spec = run_spec(run_id=name, name=name, images=frames)
            writer = RunWriter.create(folder, spec, QUICK, about={})
            self.runs[name] = ActiveRun(writer, Look("consensus"))
            self.rings[name] = MemoryRing.create(
                folder / f"{name}.ring", slots=64, slot_bytes=spec.frame_bytes, run_room=9
            )

    def send(self, name: str, numbers: range) -> None:
        ring = self.rings[name]
        for number in numbers:
            header = header_of(number, run_id=name)
            ring.put(number, header.model_dump_json().encode(), pixels_of(number), number)
            self.intake.store(self.runs[name], ring, number, number, None)

    def close(self) -> None:
        self.intake.stop()
        for run in self.runs.values():
            run.writer.close()
        for ring in self.rings.values():
            ring.close(remove=True)


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Clients]:
    monkeypatch.setattr(_intake, "_RETRY_S", 0.02)
    made = _Clients(tmp_path)
    yield made
    made.close()


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_slow_client_s_frames_are_durable_a_few_of_the_flooder_s_after_they_came(
    clients: _Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = clients.runs["flood"].writer
    real, held = writer.write_frame, threading.Event()

    def hold(*given: Any) -> Any:
        held.wait(20)
        time.sleep(0.005)  # the other's journal, a thread of its own, keeps up
        return real(*given)

    monkeypatch.setattr(writer, "write_frame", hold)
    clients.send("flood", range(60))
    clients.send("slow", range(3))
    held.set()
    _until(lambda: not any(ring.waiting() for ring in clients.rings.values()))
    _until(lambda: len(clients.order) == 63)
    mine = [place for place, name in enumerate(clients.order) if name == "slow"]
    # Before each: what the workers had in hand, and one of the flooder's in its turn; some more,
    # for the journals tell when it suits them. Behind the flooder's queue it would be 60.
    assert mine[-1] < 20, clients.order


def test_a_disk_that_refuses_one_run_holds_up_no_other(
    clients: _Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = clients.runs["flood"].writer
    real = writer.write_frame

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writer, "write_frame", refuse)
    clients.send("flood", range(10))
    _until(lambda: bool(clients.troubles))
    clients.send("slow", range(5))
    _until(lambda: not clients.rings["slow"].waiting())
    assert len(clients.rings["flood"].waiting()) == 10, "none is given up, and none was stored"
    monkeypatch.setattr(writer, "write_frame", real)
    _until(lambda: not clients.rings["flood"].waiting())
    _until(lambda: clients.intake.frames_waiting == 0)
    assert clients.troubles[-1] is None


def test_queues_take_turns_each_in_its_own_order_and_a_resting_one_is_passed_over() -> None:
    turns, done = Turns(1, "test"), list[str]()
    begun, go = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go.wait(20)

    def job(name: str, *again: float) -> Callable[[], float | None]:
        left = list(again)

        def work() -> float | None:
            done.append(name)
            return left.pop() if left else None

        return work

    def fail() -> float | None:
        done.append("fail")
        raise ValueError

    turns.put("a", first)
    begun.wait(20)
    for name in ("a1", "a2", "a3"):
        turns.put("a", job(name))
    turns.put("b", job("b1", 0.05))
    turns.put("b", job("b2"))
    turns.put("c", fail)
    go.set()
    _until(lambda: len(done) == 7)
    assert done[:3] == ["a1", "b1", "fail"]
    assert done[3:5] == ["a2", "a3"], "b rests, and holds up nobody"
    assert done[5:] == ["b1", "b2"], "what is tried again stays the first of its queue"
    turns.stop()
    turns.put("a", job("late"))
    assert "late" not in done


def test_runs_under_way_take_turns_for_masks_newest_slice_first_and_ended_ones_come_last() -> None:
    maker = MaskMaker(Config(), cast("Any", None), on_mask=_no, on_model=_no, warn=_no)
    runs = {
        name: SimpleNamespace(spec=run_spec(run_id=name), ended=name == "over")
        for name in ("over", "flood", "slow")
    }

    def job(name: str, number: int) -> Any:
        return SimpleNamespace(run=runs[name], sequence_number=number)

    maker.put_old([job("over", n) for n in range(2)])
    for number in range(4):
        maker.put(job("flood", number))
    maker.put(job("slow", 0))
    maker.put(job("slow", 1))
    assert maker.masks_waiting == 8
    taken: list[Any] = [maker._next() for _ in range(8)]
    assert [(one.run.spec.run_id, one.sequence_number) for one in taken] == [
        ("flood", 3),
        ("slow", 1),
        ("flood", 2),
        ("slow", 0),
        ("flood", 1),
        ("flood", 0),
        ("over", 1),
        ("over", 0),
    ]
    assert maker.masks_waiting == 0
