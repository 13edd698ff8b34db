"""`frames.jsonl`: the append-only truth of which slices exist.

Design Notes
------------
A line is written after its chunk is on the medium and before the frame is
acknowledged. Many workers finish close together, so one thread writes and
syncs whatever lines have come in since its last sync ("group commit"): the
cost of a sync is shared, and the order within the file is the order of
arrival. What a line speaks of must be on the medium before it: a run's folders
are synced for the whole batch, too, just before its lines are written. A crash
can tear only the last line, which every reader passes over and the next writer
cuts off.

Lines that a full disk refuses are taken back whole. Those that someone waits
for are his to append again; the others are kept and go first with the next, so
that an image's line stays before those of its frames.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepfocus_live import _platform

__all__ = ["Journal", "cut_torn_line", "read_journal"]

Line = dict[str, Any]


def read_journal(path: Path) -> Iterator[Line]:
    """Yield the whole lines of a journal; a torn last one is passed over."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            try:
                yield json.loads(raw)
            except ValueError:
                # Only the tail can be torn, but a later writer may have gone on after it.
                continue


class Journal:
    """Appends lines, one sync for all that came in together.

    Parameters
    ----------
    path : Path
        Created where missing; a torn last line is cut off.
    sync : bool
        Whether lines are on the medium before their callback is called.
    first : callable, optional
        What must have been done before lines that came in before it are written. Its OSError
        keeps them from the disk as the disk's own would.
    """

    def __init__(self, path: Path, *, sync: bool, first: Callable[[], None] | None = None) -> None:
        self._sync = sync
        self._first = first
        # Not buffered: what a full disk refused must not come back with the next lines.
        self._file = path.open("ab", buffering=0)
        cut_torn_line(path)
        self._whole_to: int | None = None
        self._waiting: list[tuple[bytes, Callable[[BaseException | None], None] | None]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._commit, name="journal", daemon=True)
        self._thread.start()

    def append(
        self, line: Line, then: Callable[[BaseException | None], None] | None = None
    ) -> None:
        """Queue `line`; `then(error)` is called on the journal's thread once it is durable.

        `error` is None, or what kept the line from the disk.
        """
        raw = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            self._waiting.append((raw, then))
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued and close the file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._file.close()

    def _commit(self) -> None:
        kept: list[tuple[bytes, None]] = []
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                batch, self._waiting = [*kept, *self._waiting], []
                if not batch:
                    return
                last = self._closing
            error = self._write(b"".join(raw for raw, _ in batch))
            kept = [(raw, None) for raw, then in batch if then is None and error and not last]
            for _, then in batch:
                if then is not None:
                    then(error)

    def _write(self, data: bytes) -> BaseException | None:
        try:
            if self._first is not None:
                self._first()
        except OSError as error:
            return error
        unwritten = memoryview(self._end_refused() + data)
        end = self._file.seek(0, os.SEEK_END)
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
            if self._sync:
                _platform.sync_file(self._file.fileno())
        except OSError as error:
            # Half a batch must not stay: its frames will be sent and written again.
            self._take_back(end if self._whole_to is None else self._whole_to)
            return error
        self._whole_to = None
        return None

    def _take_back(self, end: int) -> None:
        try:
            self._file.truncate(end)
            self._whole_to = None
        except OSError:
            # A disk that has turned read-only refuses this too: tried again before the next line.
            self._whole_to = end

    def _end_refused(self) -> bytes:
        """Take away what is left of refused lines; return what must end it where that fails."""
        if self._whole_to is None:
            return b""
        self._take_back(self._whole_to)
        left = self._whole_to is not None and self._file.seek(0, os.SEEK_END) > self._whole_to
        # Readers pass over the torn line. An empty one would look like a line that is damaged.
        return b"\n" if left else b""


def cut_torn_line(path: Path) -> None:
    """Cut off what stands after the last whole line of a journal."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        keep = size
        while keep:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep != size:
            file.truncate(keep)
