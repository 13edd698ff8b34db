"""The runtimes' own exceptions, told as ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from deepfocus_live.inference._engine import EngineError, OutOfMemoryError

__all__ = ["said_by", "told_as_engine_errors"]

_NO_MEMORY = re.compile(
    r"out of memory|failed to allocate|(can't|cannot) alloc|bad.?alloc|alloc(ation)?_failed"
    r"|resource temporarily unavailable",
    re.IGNORECASE,
)
_WHERE = re.compile(r"^(Exception from|Check ').*:$")  # OpenVINO's lines of its own source
_ORIGIN = re.compile(r"^/\S+:\d+ .*?\) ")  # ONNX Runtime's file, line and function


def said_by(error: BaseException) -> str:
    """Return what a runtime's exception says, in one line, without where in the runtime it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not _WHERE.match(line)] or lines
    if not telling:
        return type(error).__name__
    return _ORIGIN.sub("", telling[0].rpartition("Status Message: ")[2])


@contextlib.contextmanager
def told_as_engine_errors(runtime: str) -> Iterator[None]:
    """Raise `OutOfMemoryError` or `EngineError` for whatever is raised inside.

    Parameters
    ----------
    runtime : str
        Named in the message.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        # No runtime has an exception class for it: only the words tell.
        full = isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))
        kind = OutOfMemoryError if full else EngineError
        raise kind(f"{runtime}: {said_by(error)}") from error
