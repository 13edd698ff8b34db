"""The log on the disk: what a line looks like, how files follow each other, how they are read.

Design Notes
------------
A line is `time level room [run] words`; what belongs to it (a traceback) follows, indented, so that
every line that is not indented begins with its time. The file that is written to always has the
same name. When it is full it is renamed once, to the next number, and the oldest is removed. On
Windows a file that anybody holds open cannot be renamed: then it is written on, tried again, and
at twice its size begun anew, so that the bound holds whatever others do. For the same reason a
follower holds no file open between two looks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from datetime import datetime
from pathlib import Path

__all__ = ["Follower", "LevelFilter", "LineFormatter", "RotatedFile", "rotated_files"]

_MOST_BYTES = 5 << 20
_MOST_FILES = 5
_AGAIN_S = 10.0
_MOST_CHARACTERS = 20_000
_PACKAGE = "deepfocus_live."
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_HEAD = re.compile(r"^\d{4}-\d\d-\d\dT\S+ ([A-Z]+) ")


class LineFormatter(logging.Formatter):
    """Formats records as `2026-03-01T09:15:02.123+01:00 WARNING  daemon [scan] words`.

    A record's attribute `run` (`extra={"run": name}`) is the name of the run that it is about.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line, and indented below it what belongs to it."""
        run = getattr(record, "run", None)
        text = super().format(record).removeprefix(f"run {run}: ")
        if len(text) > _MOST_CHARACTERS:
            text = f"{text[:_MOST_CHARACTERS]} … ({len(text)} characters)"
        # Words of strangers may be in it: they must not look like lines of ours.
        first, *rest = (_CONTROL.sub(_escape, line) for line in text.splitlines() or [""])
        when = datetime.fromtimestamp(record.created).astimezone()
        head = f"{when.isoformat(timespec='milliseconds')} {record.levelname:<8} "
        head += f"{_room(record.name)} [{run or '-'}] {first}"
        return "\n    ".join([head, *rest])


def _room(logger: str) -> str:
    return logger.removeprefix(_PACKAGE).partition(".")[0] if _PACKAGE in logger else logger


def _escape(found: re.Match[str]) -> str:
    return "\t" if found[0] == "\t" else f"\\x{ord(found[0]):02x}"


def rotated_files(path: Path) -> list[Path]:
    """Return the full files of the log at `path`, oldest first."""
    return sorted(path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}"))


class RotatedFile(logging.FileHandler):
    """Writes a log of bounded size; a disk that refuses costs lines, counted, and nothing else.

    Parameters
    ----------
    path : Path
        The file written to; full ones are named `<stem>-000001<suffix>` and so on.
    most_bytes : int
        When a file is full; the one written to may reach twice that.
    most_files : int
        How many there are, with the one written to.
    """

    def __init__(
        self, path: Path, *, most_bytes: int = _MOST_BYTES, most_files: int = _MOST_FILES
    ) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(LineFormatter())
        self._path = path
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._again_at = 0.0
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            self._rotate_if_full()
            super().emit(record)
        except OSError:
            self.handleError(record)
            return
        if self._lost and self.stream is not None:
            lost, self._lost = self._lost, 0
            self.emit(_of_ours(logging.WARNING, f"{lost} lines of this log could not be written"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Count a line that could not be written."""
        self._lost += 1
        stream, self.stream = self.stream, None
        if stream is not None:
            # Closed, or half a line would come out whenever the disk takes something again.
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def _rotate_if_full(self) -> None:
        if self.stream is None:
            return
        size = os.fstat(self.stream.fileno()).st_size
        too_big = size >= 2 * self._most_bytes
        if size < self._most_bytes or (time.monotonic() < self._again_at and not too_big):
            return
        self.stream.close()
        self.stream = None
        try:
            self._path.rename(self._next_name())
        except OSError:
            # Somebody holds it open (Windows).
            self._again_at = time.monotonic() + _AGAIN_S
            if too_big:
                self._path.write_bytes(b"")
        for old in rotated_files(self._path)[: -(self._most_files - 1)]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _next_name(self) -> Path:
        before = rotated_files(self._path)
        number = int(before[-1].stem.rpartition("-")[2]) + 1 if before else 1
        return self._path.with_name(f"{self._path.stem}-{number:06d}{self._path.suffix}")


def _of_ours(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(f"{_PACKAGE}log", level, "", 0, text, None, None)


class Follower:
    """Reads the lines of a log, those of its full files too, each once and in their order.

    Parameters
    ----------
    path : Path
        The file written to. It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = 0
        self._offset = 0

    def read(self) -> list[str]:
        """Return the whole lines that have come since the last call; at first all there are."""
        files = self._files()
        if self._file and not any(file == self._file for _, file in files):
            # Renamed while we listed; or it is gone, and what was in it with it.
            files = self._files()
        numbers = [file for _, file in files]
        if self._file in numbers:
            files = files[numbers.index(self._file) :]
        lines: list[str] = []
        for path, file in files:
            try:
                lines += self._read(path, file)
            except OSError:
                break
        return lines

    def _files(self) -> list[tuple[Path, int]]:
        found = []
        for path in [*rotated_files(self._path), self._path]:
            with contextlib.suppress(OSError):
                found.append((path, path.stat().st_ino))
        return found

    def _read(self, path: Path, number: int) -> list[str]:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_ino != number:
                raise FileNotFoundError(path)
            if number != self._file or about.st_size < self._offset:
                self._file, self._offset = number, 0
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.decode("utf-8", errors="replace").split("\n")[:-1]
        return [line.removesuffix("\r") for line in lines]


class LevelFilter:
    """Picks the lines of a level and above, with what belongs to them.

    Parameters
    ----------
    level : int
        As in `logging`.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._shows = True

    def pick(self, lines: list[str]) -> list[str]:
        """Return those of the next lines that are to be shown."""
        return [line for line in lines if self._look(line)]

    def _look(self, line: str) -> bool:
        head = _HEAD.match(line)
        if head is not None:
            self._shows = logging.getLevelNamesMapping().get(head[1], 0) >= self._level
        return self._shows
