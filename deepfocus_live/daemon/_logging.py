"""The daemon's log: where lines go, that repeats are counted, and that crashes are in it.

Design Notes
------------
The log file is written by the daemon itself and rotated (`_logfile`). What else a detached process
prints, native libraries above all, goes to a file of its own, made by whoever started it. A crash
of native code can only be written to a file that is open beforehand: that is a third one, and the
next daemon puts what it finds there into the log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from deepfocus_live._logfile import LineFormatter, RotatedFile
from deepfocus_live.errors import InputError

__all__ = ["CapturedOutput", "OncePerMinute", "daemon_log"]

log = logging.getLogger(__name__)

_SAY_AGAIN_S = 60.0
_MOST_KINDS = 256
_MOST_OUTPUT_BYTES = 5 << 20
_MOST_CRASH_BYTES = 64 << 10


class OncePerMinute(logging.Filter):
    """Lets a warning through at once, and its repeats once a minute, with how many there were.

    Two are the same if they come from one place in the code and differ in numbers only. What is
    below a warning passes, and so does what somebody has counted before (`counted` is set).
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Hashable, tuple[float, int]] = {}
        self._guard = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written; says in it how many were not."""
        if record.levelno < logging.WARNING or getattr(record, "counted", False):
            return True
        now = time.monotonic()
        with self._guard:
            said_at, held_back = self._seen.pop(_kind(record), (None, 0))
            if said_at is not None and now - said_at < _SAY_AGAIN_S:
                self._seen[_kind(record)] = (said_at, held_back + 1)
                return False
            self._seen[_kind(record)] = (now, 0)
            while len(self._seen) > _MOST_KINDS:
                del self._seen[next(iter(self._seen))]
        if held_back:
            record.msg = f"{record.getMessage()} (and {held_back} more of these since)"
            record.args = ()
        return True


def _kind(record: logging.LogRecord) -> Hashable:
    args = record.args if isinstance(record.args, tuple) else ()
    words = tuple(arg for arg in args if isinstance(arg, str))
    return record.name, record.levelno, str(record.msg), getattr(record, "run", None), words


class CapturedOutput:
    """The file that takes this process's output, where the one who started it made one.

    Parameters
    ----------
    folder : Path
        Where such files are made (`start-*.out`).
    """

    def __init__(self, folder: Path) -> None:
        self.path = _path_of_stderr(folder)

    def trim(self, most_bytes: int = _MOST_OUTPUT_BYTES) -> None:
        """Begin the file anew if it has grown above `most_bytes`."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > most_bytes:
                # Emptied, not renamed: we hold it open ourselves.
                os.ftruncate(2, 0)
                os.lseek(2, 0, os.SEEK_SET)
                log.warning("%s was full, and is begun anew", self.path)


def _path_of_stderr(folder: Path) -> Path | None:
    try:
        mine = os.fstat(2)
    except OSError:
        return None  # started without any output, as Windows services are
    for path in folder.glob("start-*.out"):
        with contextlib.suppress(OSError):
            if os.path.samestat(mine, path.stat()):
                return path
    return None


@contextlib.contextmanager
def daemon_log(path: Path) -> Iterator[CapturedOutput]:
    """Have everything that this process logs written to `path`, and shown if somebody looks.

    Parameters
    ----------
    path : Path
        The log file. Beside it: full ones, captured output, and the crash file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    output = CapturedOutput(path.parent)
    handlers: list[logging.Handler] = [RotatedFile(path)]
    if output.path is None and sys.stderr is not None:
        handlers.append(logging.StreamHandler())
        handlers[1].setFormatter(LineFormatter())
        handlers[1].addFilter(lambda record: not getattr(record, "file_only", False))
    once = _Forwarder(handlers)
    once.addFilter(OncePerMinute())
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.handlers[:] = [once]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable
    try:
        with _crashes_kept(path.with_suffix(".crash")):
            yield output
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            # The command line says it in one line; where it came from is for the file.
            where = None if isinstance(error, InputError) else error
            log.critical("ends: %s", error, exc_info=where, extra={"file_only": True})
        raise
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.level, root.handlers[:] = before
        for handler in handlers:
            handler.close()


class _Forwarder(logging.Handler):
    """Passes on what its filters let through: each record is judged once, not once per handler."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        super().__init__()
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)


@contextlib.contextmanager
def _crashes_kept(path: Path) -> Iterator[None]:
    """Have crashes of native code written to `path`; say what the last one left there."""
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        log.warning("%s: crashes will not be written down: %s", path, error)
        yield
        return
    with file:
        file.seek(0)
        left = file.read(_MOST_CRASH_BYTES).decode("utf-8", errors="replace").strip()
        if left:
            log.error("the daemon before this one crashed:\n%s", left)
            file.truncate(0)
        before = faulthandler.is_enabled()
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            if before:
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    faulthandler.enable()


def _thread_failed(args: threading.ExceptHookArgs, /) -> None:
    if args.exc_type is not SystemExit:
        name = "a thread" if args.thread is None else f"thread {args.thread.name}"
        log.error("%s ended with an error", name, exc_info=_info(args.exc_value))


def _unraisable(args: Any, /) -> None:
    log.error("%s: %r", args.err_msg or "ignored", args.object, exc_info=_info(args.exc_value))


def _info(
    error: BaseException | None,
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    return None if error is None else (type(error), error, error.__traceback__)
