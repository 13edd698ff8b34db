"""A run's writer is killed, or its disk refuses: what was acknowledged is there, and it goes on.

`scripts/kill.py` does this, and the like to daemon and microscope, many more times.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from deepfocus_live.volume import Journal
from tests.kills import kill_writer, turn_read_only


# Both kinds of durability, two codecs (zstd: below); more slices, and more positions, than planned.
@pytest.mark.parametrize("number", [12, 71])
def test_killed_writer_has_every_slice_it_acknowledged_and_the_next_goes_on(
    tmp_path: Path, number: int
) -> None:
    trial = kill_writer(tmp_path, number, lives=1)
    assert trial.faults == []
    assert trial.slices >= trial.kills[-1].acknowledged


def test_disk_turned_read_only_keeps_what_was_acknowledged_and_goes_on_when_writable(
    tmp_path: Path,
) -> None:
    assert turn_read_only(tmp_path, 64).faults == []


class _Refusing:
    """A file on a disk that takes `room` bytes more, and nothing back."""

    def __init__(self, file: Any, room: int) -> None:
        self.real, self._room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, data: Any) -> int:
        if not self._room:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        room, self._room = self._room, 0
        return int(self.real.write(data[:room]))

    def truncate(self, _size: int) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("room", [0, 3], ids=["nothing-written", "half-a-line"])
def test_refused_lines_leave_no_trace_in_the_journal_once_the_disk_takes_lines_again(
    tmp_path: Path, room: int
) -> None:
    path = tmp_path / "frames.jsonl"
    journal = Journal(path, sync=False)
    refusing: Any = _Refusing(journal._file, room)
    journal._file = refusing
    errors: list[BaseException | None] = []
    for number in range(3):
        journal.append({"n": number}, errors.append)
        while len(errors) == number:
            time.sleep(0.001)
    assert [getattr(error, "errno", None) for error in errors] == [errno.EROFS] * 3
    journal._file = refusing.real
    journal.append({"n": 3}, errors.append)
    journal.close()
    assert errors[3] is None
    assert path.read_bytes() == b'{"n":3}\n'
