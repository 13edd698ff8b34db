"""What `docs/operations.md` says of `status --json` and of the files is what there is."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from deepfocus_live.cli._daemon import _in_words
from deepfocus_live.config import load_config
from deepfocus_live.daemon import Daemon, DaemonState
from deepfocus_live.daemon._intake import Client
from deepfocus_live.ring import MemoryRing
from tests.stored_frames import header_of, pixels_of, run_spec

_DOCS = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr("deepfocus_live.daemon._intake._RETRY_S", 0.01)
    monkeypatch.setattr("deepfocus_live.daemon._warnings._OVER_AFTER_S", 0.0)
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


def _keys(found: dict[str, Any], before: str = "") -> set[str]:
    keys = set()
    for key, value in found.items():
        name = f"{before}{key}"
        keys.add(name)
        if isinstance(value, list) and value:
            keys |= _keys(value[0], f"{name}[].")
        elif isinstance(value, dict):
            keys |= _keys(value, f"{name}.")
    return keys


def _table(heading: str) -> list[str]:
    """Return what stands in code in the first column of the table below a heading."""
    below = _DOCS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert below, heading
    return re.findall(r"^\| `([^`]+)` \|", below, flags=re.MULTILINE)


def _until(done: Any) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_key_of_status_is_documented_and_a_full_disk_s_warning_goes_away_with_it(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.new_event_loop()
    client = Client(cast("Any", None), loop)
    spec = run_spec(frames_expected=3)
    ring = MemoryRing.create(
        tmp_path / "a.ring", slots=4, slot_bytes=spec.frame_bytes, run_room=4096
    )
    ring.run = spec.model_dump_json().encode()
    message = {"spec": spec.model_dump(mode="json"), "ring": str(ring.path)}
    answer = daemon._desk._begin_run(client, message)
    assert answer["ok"], answer
    run = daemon._runs.all()[0]
    real = run.writer.write_frame

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run.writer, "write_frame", refuse)
    ring.put(0, header_of(0).model_dump_json().encode(), pixels_of(0), 0)
    daemon._desk._frames_announced(client, {"slots": [[0, 0]]})
    _until(lambda: [w.count for w in daemon._warnings.standing()] > [2])
    monkeypatch.setattr(run.writer, "write_frame", real)
    _until(lambda: not ring.waiting())
    daemon._flow.mask_ms.add(1.0)
    found = daemon.status()
    (warning,) = cast("list[dict[str, Any]]", found["warnings"])
    assert warning["text"].endswith("No space left on device: make room.")
    assert warning["run"] == spec.name and warning["first_at"] < warning["last_at"]
    assert f"{warning['count']} times" in _in_words(found)

    assert _keys(found) == set(_table("`status --json`"))
    daemon._warnings.look()
    assert daemon.status()["warnings"] == []
    ring.close(remove=True)
    loop.close()


def test_every_state_is_documented() -> None:
    assert set(_table("States")) == {str(state) for state in DaemonState}
