"""The daemon's log: its lines, its files, who reads them; warnings that are counted and go away."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from deepfocus_live._logfile import Follower, LevelFilter, LineFormatter, RotatedFile, rotated_files
from deepfocus_live.cli import _logs
from deepfocus_live.cli._main import app
from deepfocus_live.daemon import _logging
from deepfocus_live.daemon._logging import OncePerMinute
from deepfocus_live.daemon._warnings import StandingWarnings
from deepfocus_live.ring import log_path


def record(
    text: str, *args: object, level: int = logging.INFO, **more: object
) -> logging.LogRecord:
    made = logging.LogRecord("deepfocus_live.daemon._intake", level, "", 0, text, args, None)
    made.__dict__.update(more)
    return made


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path))
    assert log_path() == tmp_path / "daemon.log"
    return log_path()


def write(path: Path, numbers: range, *, most_bytes: int, most_files: int = 3) -> None:
    handler = RotatedFile(path, most_bytes=most_bytes, most_files=most_files)
    for number in numbers:
        handler.emit(record("line %03d", number))
    handler.close()


# ------------------------------------------------------------------- a line


def test_line_has_time_with_zone_level_room_run_and_words() -> None:
    formatter = LineFormatter()
    line = formatter.format(record("run scan 1: %s", "full", level=logging.WARNING, run="scan 1"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d WARNING  daemon \[scan 1\] full", line
    )
    assert formatter.format(record("ready")).endswith(" INFO     daemon [-] ready")


def test_words_of_strangers_cannot_pass_for_lines_of_ours() -> None:
    forged = "a\n2026-03-01T09:00:00+00:00 ERROR    daemon [-] lost\r\x1b[2J\u2028b" + "x" * 30_000
    first, *rest = LineFormatter().format(record("%s", forged)).split("\n")
    assert first.endswith("] a") and all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest) and "\\x1b" in "".join(rest)
    assert len("".join(rest)) < 21_000


# ------------------------------------------------------------------ its files


def test_follower_reads_every_line_once_while_files_rotate_and_their_size_is_bounded(
    log: Path,
) -> None:
    follower, seen = Follower(log), []
    assert follower.read() == []
    for begin in range(0, 400, 7):
        # Between two looks at most one file is filled, and one more lies before it.
        write(log, range(begin, min(400, begin + 7)), most_bytes=600)
        seen += follower.read()
        assert sum(path.stat().st_size for path in log.parent.iterdir()) < 3 * 700
    assert [int(line[-3:]) for line in seen] == list(range(400))
    assert len(rotated_files(log)) == 2 and follower.read() == []
    # Who comes later reads what there is, and half a line only when it is whole.
    with log.open("ab") as file:
        file.write(b"2026-03-01T")
        assert Follower(log).read()[-1].endswith("line 399")
        file.write(b"09:00 half\r\n")
        file.flush()
    assert follower.read() == ["2026-03-01T09:00 half"]


def test_file_that_others_hold_open_is_written_on_and_bounded_all_the_same(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "used by another process")

    monkeypatch.setattr(Path, "rename", refuse)
    follower, seen = Follower(log), []
    for begin in range(0, 100, 5):
        write(log, range(begin, begin + 5), most_bytes=1000)
        seen += follower.read()
        assert log.stat().st_size < 2 * 1000 + 100
    # What was emptied between two looks is missed; nothing comes twice, and it goes on.
    numbers = [int(line[-3:]) for line in seen]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 99 and len(numbers) > 80
    assert rotated_files(log) == []


def test_lines_that_a_disk_refuses_are_counted_and_end_nothing(tmp_path: Path) -> None:
    path = tmp_path / "not yet" / "daemon.log"
    handler = RotatedFile(path)
    for _ in range(3):
        handler.handle(record("lost"))
    path.parent.mkdir()
    handler.handle(record("kept"))
    handler.close()
    kept, counted = path.read_text(encoding="utf-8").splitlines()
    assert kept.endswith("kept") and counted.endswith("3 lines of this log could not be written")


_CRASHES = """
import sys, threading, warnings, logging, faulthandler
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# By its file: the daemon's other rooms take seconds to load.
spec = spec_from_file_location("deepfocus_live.daemon._logging", sys.argv[3])
module = module_from_spec(spec)
spec.loader.exec_module(module)
daemon_log = module.daemon_log

with daemon_log(Path(sys.argv[1])) as output:
    logging.getLogger("deepfocus_live.daemon").info("ready")
    warnings.warn("old-fashioned")
    thread = threading.Thread(target=lambda: 1 / 0, name="masks")
    thread.start(); thread.join()
    if sys.argv[2] == "crash":
        faulthandler._sigsegv()
    print("said by a library " * 100, flush=True, file=sys.stderr)
    output.trim(1000)
    print("after it", flush=True, file=sys.stderr)
    raise OSError("the end")
"""


def test_crashes_threads_and_warnings_are_in_the_log_and_captured_output_is_bounded(
    log: Path,
) -> None:
    for how in ("crash", "raise"):
        with (log.parent / f"start-{how}.out").open("ab") as output:
            command = [sys.executable, "-c", _CRASHES, str(log), how, str(_logging.__file__)]
            done = subprocess.run(command, stderr=output, timeout=60)
        assert done.returncode != 0
    said = log.read_text(encoding="utf-8")
    assert (said.count("ready"), said.count("old-fashioned")) == (2, 2)
    assert said.count("thread masks ended with an error\n    Traceback") == 2
    before, _, after = said.partition("the daemon before this one crashed:\n    Fatal Python error")
    assert "ready" in before and "ready" in after
    assert "CRITICAL daemon [-] ends: the end\n    Traceback" in after
    assert (log.parent / "daemon.crash").read_bytes() == b""
    # What is in the log is not in there as well.
    assert (log.parent / "start-crash.out").read_text(encoding="utf-8") == ""
    kept = (log.parent / "start-raise.out").read_text(encoding="utf-8")
    assert kept.startswith("after it\nTraceback") and "was full" in said


# ---------------------------------------------------------------- who reads it


def test_logs_prints_the_last_lines_of_a_level_from_all_files(log: Path) -> None:
    handler = RotatedFile(log, most_bytes=400)
    for number in range(9):
        level = logging.WARNING if number % 4 == 0 else logging.INFO
        handler.emit(record("line %d\nmore", number, level=level))
    handler.close()
    assert rotated_files(log)

    def said(*options: str) -> list[str]:
        done = CliRunner().invoke(app, ["logs", *options])
        assert done.exit_code == 0
        return [line.split()[-1] for line in done.output.splitlines()]

    assert said("-n", "3") == ["more", "8", "more"]
    assert said("--level", "warning") == ["0", "more", "4", "more", "8", "more"]
    assert said("--level", "error") == said("-n", "0") == []


def test_logs_follows_across_rotation_until_it_is_interrupted(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(0, 60, 6))

    def meanwhile(_seconds: float) -> None:
        begin = next(turns, None)
        if begin is None:
            raise KeyboardInterrupt
        write(log, range(begin, begin + 6), most_bytes=500)

    monkeypatch.setattr(_logs, "time", SimpleNamespace(sleep=meanwhile))
    done = CliRunner().invoke(app, ["logs", "--follow"])  # no daemon has ever run here
    assert done.exit_code == 0
    assert [int(line[-3:]) for line in done.output.splitlines()] == list(range(60))
    assert rotated_files(log)


def test_logs_without_a_log_says_so(log: Path) -> None:
    done = CliRunner().invoke(app, ["logs"])
    assert done.exit_code != 0 and "no log yet" in str(done.exception)


def test_what_belongs_to_a_line_goes_with_it() -> None:
    chosen = LevelFilter(logging.WARNING)
    head = "2026-03-01T09:00:00.000+01:00"
    assert chosen.pick([f"{head} ERROR    web [-] a", "    b"]) == [
        f"{head} ERROR    web [-] a",
        "    b",
    ]
    assert chosen.pick(["    c", f"{head} INFO     web [-] d", "    e"]) == ["    c"]


# ------------------------------------------------------------- what repeats


def test_warning_of_one_kind_is_written_once_a_minute_with_its_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("deepfocus_live.daemon._logging.time", clock)
    once = OncePerMinute()

    def passes(number: int, why: str, **more: Any) -> str | None:
        more.setdefault("level", logging.WARNING)
        one = record("frame %d: %s", number, why, **more)
        return one.getMessage() if once.filter(one) else None

    assert passes(1, "damaged") == "frame 1: damaged"
    assert [passes(n, "damaged") for n in (2, 3)] == [None, None]
    assert passes(4, "another reason") and passes(5, "damaged", run="another run")
    assert passes(6, "damaged", level=logging.INFO) and passes(7, "damaged", counted=True)
    now[0] = 61.0
    assert passes(8, "damaged") == "frame 8: damaged (and 2 more of these since)"
    assert passes(9, "damaged") is None
    for number in range(1000):
        passes(0, f"reason {number}")
    assert len(once._seen) <= 256


def test_warning_stands_with_count_and_times_until_it_is_over() -> None:
    now, said = [0.0], []
    warnings = StandingWarnings(lambda *words: said.append(words), clock=lambda: now[0])
    for second in range(100):
        now[0] = float(second)
        warnings.warn(f"{100 - second} GB: make room.", key="disk", run="scan")
        warnings.look()
    assert said == [
        ("warning", "100 GB: make room.", "scan"),
        ("warning", "40 GB: make room. (×61)", "scan"),
    ]
    (one,) = warnings.standing()
    assert (one.text, one.count, one.run) == ("1 GB: make room.", 100, "scan")
    assert one.as_json().keys() == {"text", "run", "count", "first_at", "last_at"}
    # Gone for a moment only: it is the same warning, and nothing is said.
    warnings.clear("disk", over="it takes slices again")
    now[0] += 2
    warnings.look()
    warnings.warn("make room.", key="disk")
    now[0] += 5
    warnings.look()
    assert [one.count for one in warnings.standing()] == [101] and len(said) == 2
    warnings.clear("disk", over="it takes slices again")
    now[0] += 4
    warnings.look()
    assert warnings.standing() == []
    assert said[-1] == ("info", "it takes slices again (the warning came 101 times)", "scan")


def test_warnings_without_an_end_stand_for_a_week_and_are_bounded() -> None:
    now = [0.0]
    warnings = StandingWarnings(lambda *_: None, clock=lambda: now[0])
    for number in range(30):
        now[0] += 1
        warnings.warn(f"run {number}: missed frames")
        warnings.warn("run 0: missed frames")
    assert len(warnings.standing()) == 20
    assert {"run 0: missed frames", "run 29: missed frames"} <= {
        one.text for one in warnings.standing()
    }
    now[0] += 6 * 86400
    warnings.look()
    assert len(warnings.standing()) == 20
    now[0] += 86401
    warnings.look()
    assert warnings.standing() == []
