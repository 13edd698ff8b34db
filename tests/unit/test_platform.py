"""What differs between operating systems: files, processes, priorities."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import psutil
import pytest

from deepfocus_live import _platform
from deepfocus_live._platform import ProcessStamp
from tests.small_disk import run_on_small_disk

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


# ------------------------------------------------------------------- files


@pytest.mark.parametrize("fallocate", [True, False], ids=["fallocate", "without"])
def test_preallocated_bytes_are_zeros_that_really_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallocate: bool
) -> None:
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    path = tmp_path / "file"
    size = 3 * 4096 + 17
    _platform.preallocate(path, size)
    assert path.read_bytes() == bytes(size)
    if sys.platform != "win32":
        assert path.stat().st_blocks * 512 >= size
        assert path.stat().st_mode & 0o777 == 0o600


def test_preallocating_over_a_file_is_refused_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        _platform.preallocate(tmp_path / "file", 10)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("fallocate", [True, False], ids=["fallocate", "without"])
def test_preallocating_more_than_there_is_leaves_nothing_behind(
    tmp_path: Path, fallocate: bool
) -> None:
    script = f"""
import os
from pathlib import Path
from deepfocus_live import _platform

if not {fallocate}:
    del os.posix_fallocate
_platform.preallocate(Path("small"), 1 << 16)
try:
    _platform.preallocate(Path("large"), 1 << 20)
except OSError as error:
    print(error.strerror, sorted(path.name for path in Path().iterdir()))
"""
    said = run_on_small_disk(script, tmp_path, size_kb=256)
    assert said.strip() == "No space left on device ['small']"


def test_replace_puts_a_file_over_another(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    _platform.replace(tmp_path / "new", tmp_path / "old")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "new")]
    with pytest.raises(FileNotFoundError):
        _platform.replace(tmp_path / "new", tmp_path / "old")


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "history"
    _platform.replace_file(file, b"one\n", private=True)
    _platform.replace_file(file, b"two\n", private=True)
    assert file.read_bytes() == b"two\n"
    if not _platform.WINDOWS:
        assert file.stat().st_mode & 0o077 == 0
    with pytest.raises(TypeError):
        _platform.replace_file(file, cast("bytes", "no bytes"))
    assert file.read_bytes() == b"two\n"
    assert [path.name for path in tmp_path.iterdir()] == ["history"]
    with pytest.raises(OSError, match="history"):
        _platform.replace_file(file / "below", b"")


def test_files_and_folders_can_be_synced(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        file.flush()
        _platform.sync_file(file.fileno())
    _platform.sync_directory(tmp_path)


# ----------------------------------------------------------------- folders


def test_runtime_folder_is_made_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "b"
    monkeypatch.setenv(_platform.RUNTIME_DIR_VARIABLE, str(folder))
    assert _platform.runtime_dir() == folder == _platform.runtime_dir()
    assert folder.is_dir()
    if sys.platform != "win32":
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_login_without_a_session_is_nothing_to_warn_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_platform.RUNTIME_DIR_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert _platform.runtime_dir().is_dir()  # a warning would be an error here


@pytest.mark.skipif(sys.platform != "linux", reason="follows XDG")
def test_runtime_folder_is_elsewhere_where_it_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(_platform.RUNTIME_DIR_VARIABLE, str(tmp_path / "file" / "runtime"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _platform.runtime_dir().is_relative_to(tmp_path / "cache")
    assert _platform.runtime_dir().is_dir()


def test_memory_backed_folder_is_used_only_where_there_is_room(tmp_path: Path) -> None:
    assert _platform.fast_scratch_dir(1 << 60, tmp_path) == tmp_path
    small = _platform.fast_scratch_dir(1, tmp_path)
    assert small.is_dir()
    assert os.access(small, os.W_OK)


def test_some_memory_is_available() -> None:
    assert 0 < _platform.available_memory_bytes() < psutil.virtual_memory().total


# --------------------------------------------------------------- processes


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_stamp_knows_its_process_from_its_start_to_its_end() -> None:
    assert ProcessStamp.mine().alive()
    with _sleeper() as process:
        stamp = ProcessStamp.of(process.pid)
        assert stamp.alive()
        assert ProcessStamp(stamp.pid, stamp.started).alive()  # as read from a file
        assert not stamp.wait(0.05)
        process.kill()
        # Nobody has collected its exit yet: a zombie writes no more runs.
        assert stamp.wait(10)
        assert process.returncode is None
    assert not stamp.alive()
    assert stamp.wait(0)
    assert not ProcessStamp.of(process.pid).alive()


def test_stamp_does_not_take_a_later_process_for_its_own_and_does_not_kill_it() -> None:
    with _sleeper() as process:
        stamp = ProcessStamp.of(process.pid)
        earlier = ProcessStamp(stamp.pid, stamp.started - 60)
        assert not earlier.alive()
        earlier.kill()
        assert process.poll() is None
        stamp.kill()
        assert not stamp.alive()
        stamp.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere starts do not follow the clock")
@pytest.mark.parametrize("set_by_s", [-3600, 30])
def test_stamp_knows_its_process_after_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch, set_by_s: int
) -> None:
    stamp = ProcessStamp.mine()
    began = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: began + set_by_s)
    assert psutil.Process().create_time() == pytest.approx(stamp.started + began + set_by_s, abs=2)
    assert stamp.alive()
    assert abs(ProcessStamp.mine().started - stamp.started) < 0.1


_SPAWNS_AND_ENDS = """
import sys
from pathlib import Path
from deepfocus_live._platform import spawn_detached

child = "import sys, time; print('out'); print('err', file=sys.stderr, flush=True); time.sleep(60)"
process = spawn_detached([sys.executable, "-u", "-c", child], log=Path(sys.argv[1]))
print(process.pid, flush=True)
process.returncode = 0  # not ours to wait for
"""


def test_detached_process_outlives_its_parent_and_holds_no_pipe_of_it(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    # Returns only when every copy of the pipe is closed, also the child's.
    parent = subprocess.run(
        [sys.executable, "-c", _SPAWNS_AND_ENDS, str(log)], stdout=subprocess.PIPE, timeout=30
    )
    child = psutil.Process(int(parent.stdout))
    try:
        assert child.is_running()
        if sys.platform != "win32":
            assert os.getsid(child.pid) == child.pid
        deadline = time.monotonic() + 20
        while sorted(log.read_text().split()) != ["err", "out"]:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
    finally:
        child.kill()


def _priority_after_lowering() -> tuple[int, int]:
    before = psutil.Process().nice()
    _platform.lower_priority()
    return int(before), int(psutil.Process().nice())


def test_lowered_process_yields_to_this_one() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, after = pool.apply(_priority_after_lowering)
    if sys.platform == "win32":
        assert after == psutil.IDLE_PRIORITY_CLASS
    else:
        assert before < after == 19


_STEPS_BACK = """
from pathlib import Path

import psutil
from deepfocus_live import _platform
_platform.step_back()
print(int(psutil.Process().nice()))
# A kernel without autogroups has no such file; a process in none has an empty one.
autogroup = Path("/proc/self/autogroup")
print(autogroup.read_text() if autogroup.exists() else "")
"""


@pytest.mark.parametrize("own_session", [True, False])
def test_process_that_steps_back_lowers_no_session_but_its_own(own_session: bool) -> None:
    if sys.platform == "win32" and own_session:
        pytest.skip("Windows has no sessions of processes")
    said = subprocess.run(
        [sys.executable, "-c", _STEPS_BACK],
        start_new_session=own_session,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    niceness, _, autogroup = said.partition("\n")
    if sys.platform == "win32":
        assert int(niceness) == psutil.BELOW_NORMAL_PRIORITY_CLASS
        return
    assert int(niceness) == max(5, int(psutil.Process().nice()))
    if autogroup.strip():
        assert autogroup.strip().endswith("nice 10") == own_session


_STOPS_WHEN_ASKED = """
import signal, sys, time
from deepfocus_live._platform import stop_on_signals

for number in stop_on_signals():
    signal.signal(number, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(60)
"""


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_can_end_in_order_when_it_is_asked_to(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _STOPS_WHEN_ASKED]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(10) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is true")
def test_what_the_machine_is_is_what_the_system_says(tmp_path: Path) -> None:
    assert _platform.usable_cores() == len(os.sched_getaffinity(0))
    assert _platform.processor_name() in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    with (tmp_path / "file").open("wb") as file:
        _platform.reserve(file.fileno(), 1 << 20)
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="there are no hangups")
def test_hangup_ends_no_process_that_ignores_it() -> None:
    code = (
        "import os, signal; from deepfocus_live._platform import ignore_hangup; ignore_hangup(); "
        "os.kill(os.getpid(), signal.SIGHUP); print('lives')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "lives")
