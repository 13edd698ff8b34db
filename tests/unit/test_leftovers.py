"""What dead programs left: stored whatever else is wrong, and removed only once it is."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfocus_live import _platform
from deepfocus_live.config import Config, load_config
from deepfocus_live.daemon import Daemon
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.errors import InputError
from deepfocus_live.frames import RunSpec
from deepfocus_live.inference import EngineError
from deepfocus_live.ring import FrameSpill, MemoryRing, SpilledFrames, leftover_rings
from deepfocus_live.volume import RunWriter, open_run
from tests.stored_frames import QUICK, header_of, pixels_of, run_spec, store_frame


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(_platform, "spill_dir", lambda: tmp_path / "spill")
    return load_config(
        output=str(tmp_path / "runs"),
        models=str(tmp_path / "models"),
        web__port=0,
        storage__durability="process",
        inference__enabled=False,
        labels__enabled=False,
    )


@pytest.fixture
def daemon(config: Config) -> Iterator[Daemon]:
    made = Daemon(config)
    yield made
    made._close_all()
    for path in leftover_rings():
        path.unlink()


_MICROSCOPE = """
import sys
from pathlib import Path
from deepfocus_live.ring import MemoryRing, new_ring_path
from tests.stored_frames import header_of, pixels_of, run_spec

spec = run_spec()
path = new_ring_path(4 * spec.frame_bytes)
ring = MemoryRing.create(path, slots=4, slot_bytes=spec.frame_bytes, run_room=4096)
ring.run = sys.argv[1].encode() or spec.model_dump_json().encode()
if sys.argv[2]:
    ring.folder = Path(sys.argv[2])
for number in map(int, sys.argv[3].split()):
    ring.put(number, header_of(number).model_dump_json().encode(), pixels_of(number), number)
print(path)
"""


def _dead_ring(*numbers: int, run: str = "", folder: Path | None = None) -> Path:
    """Have a program take frames and die before anyone stores them."""
    words = [run, "" if folder is None else str(folder), " ".join(map(str, numbers))]
    command = [sys.executable, "-c", _MICROSCOPE, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


def _wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _warned(daemon: Daemon) -> str:
    warnings: Any = daemon.status()["warnings"]
    return " ".join(one["text"] for one in warnings)


def _run_left_open(folder: Path, *numbers: int, spec: RunSpec | None = None) -> Path:
    """Write a run as a daemon does that is killed before its end."""
    writer = RunWriter.create(folder, spec or run_spec(), QUICK, about={})
    for number in numbers:
        store_frame(writer, number)
    writer.close()
    return writer.path


def _damage(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_bytes())
    record["spec"] = {"name": "of another time"}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def _left_open(tmp_path: Path) -> list[str]:
    known = json.loads((tmp_path / "runtime" / "open_runs.json").read_text(encoding="utf-8"))
    return list(known)


def test_frames_of_a_dead_program_are_stored_and_its_ring_is_removed(
    daemon: Daemon, tmp_path: Path
) -> None:
    path = _dead_ring(0, 1, 2)
    daemon._leftovers.look()
    _wait(lambda: not path.exists())
    _wait(lambda: daemon._runs.all()[0].finished)
    daemon._runs.close_finished()
    (folder,) = (tmp_path / "runs").iterdir()
    run = open_run(folder)
    assert run.state == "interrupted"
    for z in range(3):
        np.testing.assert_array_equal(run.images[0].read_slice(0, 0, z), pixels_of(z))
    assert not any("may_be_torn" in line for line in run.journal)


def test_frames_are_kept_whose_run_this_version_cannot_read(daemon: Daemon) -> None:
    path = _dead_ring(0, 1, run='{"run_id": "of another version"}')
    for _ in range(3):
        daemon._leftovers.look()
    assert path.exists()
    assert f"2 frames wait in {path}" in _warned(daemon)
    empty = _dead_ring(run='{"run_id": "of another version"}')
    daemon._leftovers.look()
    assert not empty.exists()
    assert path.exists()


def test_spilled_frames_are_kept_whose_run_this_version_cannot_read(
    daemon: Daemon, tmp_path: Path
) -> None:
    spill = FrameSpill(tmp_path / "spill", b'{"run_id": "of another version"}')
    raw = header_of(0).model_dump_json().encode()
    if not spill.append(raw, pixels_of(0), 0, run_folder=None):
        pytest.skip("less than 1 GiB is free")
    (path,) = (tmp_path / "spill").iterdir()
    with path.open("r+b") as file:
        file.seek(16)
        file.write(bytes(16))  # its pid and start: nobody's
    assert not SpilledFrames(path).producer.alive()
    daemon._leftovers.look()
    assert SpilledFrames(path).waiting() == [(0, 0)]
    assert f"1 frames wait in {path}" in _warned(daemon)
    spill.clear()


def test_daemon_starts_beside_a_run_whose_record_is_damaged(config: Config, tmp_path: Path) -> None:
    bad = _run_left_open(tmp_path / "runs", 0)
    good = _run_left_open(tmp_path / "runs", 0, spec=run_spec(run_id="other", name="other"))
    gone = tmp_path / "runs" / "removed by its owner"
    elsewhere = tmp_path / "no such drive" / "run"
    paths = [str(path) for path in (bad, gone, elsewhere, good)]
    _damage(bad)
    (tmp_path / "runtime").mkdir(exist_ok=True)
    known = tmp_path / "runtime" / "open_runs.json"
    known.write_text(json.dumps(paths), encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        open_run(bad)
    daemon = Daemon(config)
    try:
        daemon.prepare()
        assert "does not say what was planned" in _warned(daemon)
        assert str(elsewhere) in _warned(daemon)
        # What is not finished is looked at again by the next daemon; what is gone is not.
        assert set(_left_open(tmp_path)) == {str(bad), str(elsewhere), str(good)}
        _wait(lambda: daemon._runs.all()[0].finished)
        daemon._runs.close_finished()
        assert open_run(good).state == "interrupted"
        assert set(_left_open(tmp_path)) == {str(bad), str(elsewhere)}
    finally:
        daemon._close_all()


def test_frames_wait_for_a_run_whose_record_is_damaged(daemon: Daemon, tmp_path: Path) -> None:
    folder = _run_left_open(tmp_path / "runs", 0)
    whole = (folder / "run.json").read_bytes()
    _damage(folder)
    path = _dead_ring(1, folder=folder)
    daemon._leftovers.look()
    _wait(lambda: f"wait in {path}" in _warned(daemon))
    daemon._leftovers.stop()
    assert path.exists()
    (folder / "run.json").write_bytes(whole)
    _wait(lambda: [daemon._leftovers.look(), not path.exists()][1])
    numbers = [x["sequence_number"] for x in open_run(folder).journal if x["kind"] == "frame"]
    assert numbers == [0, 1]
    _wait(lambda: [daemon._warnings.look(), f"wait in {path}" not in _warned(daemon)][1])


def test_full_disk_holds_up_neither_the_start_nor_the_watch(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = threading.Event()
    write = RunWriter.write_frame

    def refuse(*args: Any) -> Any:
        if not room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    monkeypatch.setattr(RunWriter, "write_frame", refuse)
    path = _dead_ring(0, 1)
    begin = time.monotonic()
    daemon.prepare()
    for _ in range(3):
        daemon._look_around()
    assert time.monotonic() - begin < 20
    _wait(lambda: "No space left" in _warned(daemon))
    assert path.exists()
    # Nobody acquires: to stop it there is nothing to wait for.
    assert not daemon._acquiring
    room.set()
    _wait(lambda: not path.exists())


def test_frames_from_before_the_computer_went_down_are_marked_and_overwrite_nothing(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run_left_open(tmp_path / "runs", 0)
    path = _dead_ring(0, 1, folder=folder)
    with path.open("r+b") as file:
        raw = file.read()
        file.seek(raw.index(pixels_of(0).tobytes()))
        file.write(bytes(600))  # half of the slice never came to the disk
    monkeypatch.setattr(_platform, "boot_mark", lambda: "another start")
    daemon._leftovers.look()
    _wait(lambda: not path.exists())
    _wait(lambda: daemon._runs.all()[0].finished)
    daemon._runs.close_finished()
    run = open_run(folder)
    np.testing.assert_array_equal(run.images[0].read_slice(0, 0, 0), pixels_of(0))
    lines = [line for line in run.journal if line["kind"] == "frame"]
    assert [(x["sequence_number"], x.get("may_be_torn")) for x in lines] == [(0, None), (1, True)]
    assert "2 frames were in a file when the computer went down" in _warned(daemon)


def test_run_begins_although_its_model_cannot_be_had(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("the device fell off the bus")

    monkeypatch.setattr(MaskMaker, "prepare", fail)
    daemon = Daemon(
        config.model_copy(
            update={"inference": config.inference.model_copy(update={"enabled": True})}
        )
    )
    try:
        daemon.prepare()
        assert "the device fell off the bus" in _warned(daemon)
        path = _dead_ring(0)
        daemon._leftovers.look()
        _wait(lambda: not path.exists())
        (folder,) = (tmp_path / "runs").iterdir()
        np.testing.assert_array_equal(open_run(folder).images[0].read_slice(0, 0, 0), pixels_of(0))
    finally:
        daemon._close_all()


def test_run_that_cannot_be_gone_on_with_is_let_go(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run_left_open(tmp_path / "runs", 0)
    path = _dead_ring(1, folder=folder)

    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patched:
        patched.setattr(type(daemon._runs), "_looks", fail)
        daemon._leftovers.look()
        _wait(lambda: "unforeseen" in _warned(daemon))
        daemon._leftovers.stop()
    # Not locked: it can be gone on with as soon as that is over.
    RunWriter.reopen(folder, QUICK).close()
    _wait(lambda: [daemon._leftovers.look(), not path.exists()][1])


def test_ring_knows_the_start_of_the_system_that_it_was_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = MemoryRing.create(tmp_path / "a.ring", slots=2, slot_bytes=64, run_room=64)
    assert not ring.outlived_system
    shutil.copy(ring.path, tmp_path / "b.ring")
    monkeypatch.setattr(_platform, "boot_mark", lambda: f"{time.time():.0f}")
    assert MemoryRing(tmp_path / "b.ring").outlived_system
    ring.close(remove=True)


def test_start_of_the_system_as_a_time_is_the_same_though_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_platform, "boot_mark", lambda: "1000000")
    assert _platform.is_this_boot("1000030")
    assert not _platform.is_this_boot("1009000")
    assert not _platform.is_this_boot("0b1c9a7e-0000-4000-8000-000000000000")
