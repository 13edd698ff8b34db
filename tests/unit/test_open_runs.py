"""Who opens and closes a run when several ask for it at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from deepfocus_live.config import load_config
from deepfocus_live.daemon import Daemon
from deepfocus_live.daemon._intake import Client
from deepfocus_live.ring import MemoryRing
from deepfocus_live.volume import RunWriter, open_run
from tests.stored_frames import run_spec


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    config = load_config(
        output=str(tmp_path / "runs"),
        models=str(tmp_path / "models"),
        web__port=0,
        storage__durability="process",
        inference__enabled=False,
        labels__enabled=False,
    )
    made = Daemon(config)
    yield made
    made._close_all()


_MICROSCOPE_WITH_A_FRAME = """
import sys, time
from deepfocus_live.ring import MemoryRing, new_ring_path
from tests.stored_frames import header_of, pixels_of, run_spec

spec = run_spec()
path = new_ring_path(4 * spec.frame_bytes)
ring = MemoryRing.create(path, slots=4, slot_bytes=spec.frame_bytes, run_room=4096)
ring.run = spec.model_dump_json().encode()
ring.put(0, header_of(0).model_dump_json().encode(), pixels_of(0), 0)
print(path, flush=True)
time.sleep(60)
"""


def test_microscope_that_dies_while_its_run_is_made_leaves_one_run(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    being_made, go_on = threading.Event(), threading.Event()
    create = RunWriter.create

    def create_slowly(*args: Any, **kwargs: Any) -> RunWriter:
        being_made.set()
        assert go_on.wait(30)
        return create(*args, **kwargs)

    monkeypatch.setattr(RunWriter, "create", create_slowly)
    loop = asyncio.new_event_loop()
    client = Client(cast("Any", None), loop)
    command = [sys.executable, "-c", _MICROSCOPE_WITH_A_FRAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as microscope:
        assert microscope.stdout is not None
        path = microscope.stdout.readline().strip()
        message = {"spec": run_spec().model_dump(mode="json"), "ring": path}
        begin = threading.Thread(target=daemon._desk._begin_run, args=(client, message))
        begin.start()
        assert being_made.wait(30)
        microscope.kill()
    look = threading.Thread(target=daemon._leftovers.look)
    being_made.clear()
    look.start()
    assert not being_made.wait(0.5), "made by two at once"
    go_on.set()
    for thread in (begin, look):
        thread.join(30)
        assert not thread.is_alive()
    daemon._leftovers.look()  # one microscope's program is dead now
    daemon._leftovers.stop()
    daemon._close_all()  # the journal's thread has written what it had
    (folder,) = (tmp_path / "runs").iterdir()
    run = open_run(folder)
    assert run.state == "interrupted"
    assert [line["sequence_number"] for line in run.journal if line["kind"] == "frame"] == [0]
    assert not Path(path).exists()
    loop.close()


def test_run_is_open_until_its_folder_is_left_alone(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_spec()
    ring = MemoryRing.create(
        tmp_path / "a.ring", slots=2, slot_bytes=spec.frame_bytes, run_room=4096
    )
    run = daemon._runs.begin(spec, ring)
    close = run.writer.close
    seen = []

    def close_and_look() -> None:
        close()
        seen.append(daemon.status()["run"])

    monkeypatch.setattr(run.writer, "close", close_and_look)
    daemon._runs.end(run, "completed")
    while not seen:
        daemon._runs.close_finished()
    assert seen[0] is not None and seen[0]["name"] == spec.name
    assert daemon.status()["run"] is None
    ring.close(remove=True)
