"""`doctor`: everything is really tried, and what the dead left is found and freed."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mm_test_adapters
import pytest

from deepfocus_live._platform import ProcessStamp
from deepfocus_live.config import Config, load_config
from deepfocus_live.doctor import Finding, examine, find_leftovers, free_leftovers
from deepfocus_live.doctor import _examine as examining
from deepfocus_live.doctor._compute import look_at_inference
from deepfocus_live.doctor._daemon import look_at_daemon, look_at_page
from deepfocus_live.doctor._microscope import look_at_adapters
from deepfocus_live.doctor._models import look_at_models
from deepfocus_live.doctor._storage import look_at_disk
from deepfocus_live.ring import DaemonAddress, MemoryRing, publish_daemon
from tests.stored_frames import run_spec

SUBJECTS = {
    *("versions", "device adapters", "inference, cpu", "inference, openvino", "inference, cuda"),
    *("training", "model, default", "disk, room", "disk, rate", "ring memory", "page", "daemon"),
    "leftovers",
}

LEAVES_RINGS = """
import sys, time
from pathlib import Path
import numpy as np
from deepfocus_live.frames import FrameHeader
from deepfocus_live.ring import FrameSpill, MemoryRing, new_ring_path, spill_folder
pixels = np.full((8, 8), 7, np.uint16)
header = FrameHeader(run_id="a", sequence_number=0, index={}, height_px=8, width_px=8,
                     dtype="uint16", taken_at=0.0).model_dump_json().encode()
full, empty = (MemoryRing.create(new_ring_path(1 << 20), slots=2, slot_bytes=128, run_room=4096)
               for _ in range(2))
full.run = sys.argv[1].encode()
full.put(0, header, pixels, 0)
spill = FrameSpill(spill_folder(None), b"run")
spill.append(header, pixels, 1, run_folder=None)
print(full.path, empty.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    yield
    for path in (find.path for find in find_leftovers(Config(output=tmp_path / "runs"))):
        path.unlink(missing_ok=True)


def _config(tmp_path: Path, **changes: object) -> Config:
    known = {"output": str(tmp_path / "runs"), "models": str(tmp_path / "models")}
    return load_config(None, **{**known, **changes})


def _run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepfocus_live", "doctor", "--output", str(tmp_path / "runs")]
    command += ["--models", str(tmp_path / "models"), *options]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


def test_everything_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    result = _run(tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    found = {one["subject"]: one for one in json.loads(result.stdout)}
    assert set(found) >= SUBJECTS
    assert {one["state"] for one in found.values()} <= {"ok", "note", "warning"}
    assert found["inference, cpu"]["figures"]["runs_on"] == "CPUExecutionProvider"
    assert found["inference, cpu"]["figures"]["ms"] > 0
    assert found["disk, rate"]["figures"]["synced_mb_s"] > 0
    assert found["device adapters"]["figures"]["adapters"] >= 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_frames_of_the_dead_are_kept_and_the_rest_is_freed(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", LEAVES_RINGS, run_spec().model_dump_json()],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert child.stdout is not None
    full, empty = map(Path, child.stdout.readline().split())
    config = _config(tmp_path)
    assert find_leftovers(config) == [], "what a living process uses is no leftover"
    child.kill()
    child.communicate()
    assert child.returncode
    half_made = tmp_path / "runs" / ".20261123_run.partial"
    half_made.mkdir(parents=True)
    (half_made / "run.json").write_text("{}", encoding="utf-8")

    found = {one.path: one.frames for one in find_leftovers(config)}
    assert found.pop(full) == 1
    assert found.pop(empty) == found.pop(half_made) == 0
    assert list(found.values()) == [1], "the spill"
    assert {one.path: one.run_known for one in find_leftovers(config)}[full]
    result = _run(tmp_path, "--free")
    assert result.returncode == 0
    assert result.stdout.count("1 frames of a program that died wait to be stored") == 2
    assert result.stdout.count("deepfocus-live start: it stores them") == 1
    assert result.stdout.count("their run cannot be read: start the version") == 1, "the spill's"
    assert not empty.exists()
    assert not half_made.exists()
    assert len(MemoryRing(full).waiting()) == 1
    full.unlink()


def test_what_has_frames_is_never_removed(tmp_path: Path) -> None:
    from deepfocus_live.doctor import Leftover

    kept, freed = tmp_path / "kept", tmp_path / "freed"
    for path in (kept, freed):
        path.write_bytes(b"1")
    assert free_leftovers([Leftover(kept, 3, 1), Leftover(freed, 0, 1)]) == [freed]
    assert kept.exists()


def _only(found: Iterator[Finding] | list[Finding]) -> Finding:
    (one,) = found
    return one


def test_adapters_are_loaded_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path(str(mm_test_adapters.device_adapter_path()))
    demo = next(path for path in real.iterdir() if "mmgr_dal_DemoCamera" in path.name)
    damaged, without = tmp_path / "damaged", tmp_path / "without"
    for folder in (damaged, without):
        folder.mkdir()
    (damaged / demo.name).write_bytes(b"no library")
    shutil.copy(demo, without / demo.name.replace("DemoCamera", "Another"))
    states = {}
    for folders in ([], [str(damaged)], [str(without)]):
        monkeypatch.setattr("pymmcore_plus.find_micromanager", lambda folders=folders, **_: folders)
        states[Path(*folders).name] = _only(list(look_at_adapters(Config())))
    assert {name: one.state for name, one in states.items()} == {
        "": "note",
        "damaged": "fault",
        "without": "note",
    }
    assert all(one.advice for one in states.values())


def test_port_that_is_taken_is_a_fault_only_where_it_was_asked_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = _only(list(look_at_page(_config(tmp_path, web__port=port))))
    assert (found.state, str(port) in found.found) == ("fault", True)
    assert _only(list(look_at_page(_config(tmp_path, web__port=port)))).state == "ok"


def test_daemon_that_does_not_answer_is_named_without_the_key_of_its_page(tmp_path: Path) -> None:
    mine = ProcessStamp.mine()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    page = "http://scope-3:8765/?key=secret"
    publish_daemon(DaemonAddress(mine.pid, mine.started, port, "other", page, "0.0"))
    found = _only(list(look_at_daemon(_config(tmp_path))))
    assert found.state == "fault"
    assert "its page at http://scope-3:8765/: does not answer" in found.found
    assert "key" not in found.found


def test_what_cannot_be_used_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    config = _config(tmp_path, output=str(tmp_path / "file" / "runs"))
    assert _only(list(look_at_disk(config))).state == "fault"
    wants_gpu = _config(tmp_path, inference__provider="cuda")
    states = {one.subject: one.state for one in look_at_inference(wants_gpu)}
    if states["inference, cuda"] != "ok":
        assert states["inference, cuda"] == "fault"
    profile = tmp_path / "models" / "profiles" / "default"
    profile.mkdir(parents=True)
    (profile / "current").write_text("gone", encoding="utf-8")
    found = _only(list(look_at_models(_config(tmp_path))))
    assert (found.state, "shipped" in found.found) == ("warning", True)


def test_one_that_fails_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_config: Config) -> list[Finding]:
        raise OSError(5, "Input/output error")

    looks = {"disk": breaks, "page": look_at_page}
    monkeypatch.setattr(examining, "_LOOKS", looks)
    first, second = examine(_config(tmp_path))
    assert (first.state, "Input/output error" in first.found) == ("fault", True)
    assert second.subject == "page"
