"""The spill: frames on a disk come back in their order, whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deepfocus_live._platform import RUNTIME_DIR_VARIABLE
from deepfocus_live.frames import FrameHeader
from deepfocus_live.ring import FrameSpill, RingError, SpilledFrames, _spill, leftover_spills
from tests.left_behind import _frame, pixels_of
from tests.small_disk import run_on_small_disk


@pytest.fixture
def spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FrameSpill]:
    monkeypatch.setenv(RUNTIME_DIR_VARIABLE, str(tmp_path / "runtime"))
    spill = FrameSpill(tmp_path / "spill", b"the run")
    yield spill
    spill.clear()
    assert list((tmp_path / "spill").glob("*")) == []


def _append(spill: FrameSpill, *numbers: int, run_folder: Path | None = None) -> None:
    for number in numbers:
        header, pixels, _ = _frame("run", number)
        assert spill.append(header, pixels, number, run_folder=run_folder)


def _take(spill: FrameSpill) -> int:
    header, pixels, number = spill.first()
    assert FrameHeader.model_validate_json(header).sequence_number == number
    np.testing.assert_array_equal(pixels, pixels_of("run", number).reshape(-1).view(np.uint8))
    assert spill.first_number == number
    spill.forget_first()
    return number


def test_frames_leave_in_the_order_they_came_and_their_files_with_them(
    spill: FrameSpill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spill, "_FILE_BYTES", 8000)  # three frames and what says whose
    taken = []
    for first in range(0, 12, 3):
        _append(spill, first, first + 1, first + 2)
        taken.append(_take(spill))
    files = leftover_spills(tmp_path / "spill")
    assert 2 <= len(files) <= 4
    assert (len(spill), spill.waiting_bytes) == (8, 8 * 1200)
    # A reader sees what is in all files; some of it has left already, and is known by number.
    seen = [number for file in files for _, number in SpilledFrames(file).waiting()]
    assert seen == list(range(seen[0], 12))
    while spill:
        taken.append(_take(spill))
        held = leftover_spills(tmp_path / "spill")
        assert held == files[len(files) - len(held) :]
    assert taken == list(range(12))
    assert (held, spill.waiting_bytes) == ([], 0)


def test_reader_knows_run_and_folder_and_acknowledges_like_a_ring(
    spill: FrameSpill, tmp_path: Path
) -> None:
    _append(spill, 3)
    (path,) = leftover_spills(tmp_path / "spill")
    assert SpilledFrames(path).folder is None
    _append(spill, 4, run_folder=Path("runs/größer"))
    frames = SpilledFrames(path)
    assert (frames.run, frames.folder) == (b"the run", Path("runs/größer"))
    assert frames.producer.alive()
    assert frames.waiting() == [(0, 3), (1, 4)]
    header, pixels = frames.get(1)
    assert header.sequence_number == 4
    np.testing.assert_array_equal(pixels, pixels_of("run", 4))
    frames.acknowledge(1, 9)
    frames.acknowledge(0, 3)
    assert frames.waiting() == [(1, 4)]


@pytest.mark.parametrize("back", [1, 1199, 1201, 1300], ids="cut {} from the end".format)
def test_torn_last_frame_is_none_and_those_before_are_whole(
    spill: FrameSpill, tmp_path: Path, back: int
) -> None:
    _append(spill, 0, 1)
    (path,) = leftover_spills(tmp_path / "spill")
    torn = tmp_path / "torn.spill"
    shutil.copy(path, torn)
    with torn.open("r+b") as file:
        file.truncate(path.stat().st_size - back)
    assert SpilledFrames(torn).waiting() == [(0, 0)]
    np.testing.assert_array_equal(SpilledFrames(torn).get(0)[1], pixels_of("run", 0))


def test_damaged_frame_is_refused_by_writer_and_reader(spill: FrameSpill, tmp_path: Path) -> None:
    _append(spill, 0)
    (path,) = leftover_spills(tmp_path / "spill")
    with path.open("r+b") as file:
        file.seek(-100, 2)
        byte = file.read(1)[0]
        file.seek(-100, 2)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(RingError, match="frame 0 is damaged"):
        spill.first()
    with pytest.raises(RingError, match="frame 0 is damaged"):
        SpilledFrames(path).get(0)


@pytest.mark.parametrize("content", [b"", b"dfl-ring" + bytes(9000), b"text " * 2000])
def test_other_files_are_no_spills(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.spill").write_bytes(content)
    with pytest.raises(RingError, match=r"a\.spill: not a spill"):
        SpilledFrames(tmp_path / "a.spill")


def test_full_disk_refuses_a_frame_and_keeps_those_before_it(tmp_path: Path) -> None:
    script = """
import os
os.environ["DEEPFOCUS_LIVE_RUNTIME_DIR"] = os.getcwd()
from pathlib import Path
from deepfocus_live.ring import FrameSpill, SpilledFrames, _spill, leftover_spills
from tests.left_behind import _frame

_spill._KEEP_FREE_BYTES = -(1 << 30)  # refused by the disk itself
spill, number = FrameSpill(Path("spill"), b"run"), 0
while True:
    header, pixels, _ = _frame("run", number)
    if not spill.append(header, pixels, number, run_folder=None):
        break
    number += 1
frames = SpilledFrames(leftover_spills(Path("spill"))[0])
assert [n for _, n in frames.waiting()] == list(range(number)), frames.waiting()
assert frames.get(number - 1)[0].sequence_number == number - 1
_spill._KEEP_FREE_BYTES = 1 << 30  # refused by ourselves, for the others' sake
spill.clear()
assert not spill.append(header, pixels, 0, run_folder=None)
print(number, sorted(Path("spill").iterdir()))
"""
    said = run_on_small_disk(script, tmp_path, size_kb=64).split(maxsplit=1)
    assert 30 < int(said[0]) < 50
    assert said[1].strip() == "[]"
