"""A daemon of one's own: for the demo, the benches and the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepfocus_live._platform import RUNTIME_DIR_VARIABLE
from deepfocus_live.ring._runtime import DaemonAddress, find_daemon, start_daemon

__all__ = ["private_daemon"]

_STOP_S = 20.0


@contextmanager
def private_daemon(
    folder: Path, *arguments: str, program: Sequence[str] = ("deepfocus_live",)
) -> Iterator[DaemonAddress]:
    """Within this context this process, and those it starts, have a daemon of their own.

    It keeps its runtime file, its models and (unless `arguments` say otherwise)
    its runs below `folder`, takes any free port, and ends with the context. The
    user's daemon and models are never touched. `program` as of `start_daemon`: a module that
    changes something before it runs the command line.

    Raises
    ------
    DaemonDidNotStart
        With the daemon's last words.
    """
    runtime = folder / "runtime"
    runtime.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(RUNTIME_DIR_VARIABLE)
    os.environ[RUNTIME_DIR_VARIABLE] = str(runtime.absolute())
    try:
        own = {
            "--owner": os.getpid(),
            "--port": "0",
            "--models": folder / "models",
            "--output": folder / "runs",
        }
        given = [
            part for key, value in own.items() if key not in arguments for part in (key, str(value))
        ]
        try:
            yield start_daemon([*given, *arguments], program=program)
        finally:
            _stop()
    finally:
        if before is None:
            del os.environ[RUNTIME_DIR_VARIABLE]
        else:
            os.environ[RUNTIME_DIR_VARIABLE] = before


def _stop() -> None:
    # Looked up now: the one that was started may have been replaced meanwhile.
    address = find_daemon()
    if address is None:
        return
    try:
        with address.connect() as client:
            client.ask({"type": "stop", "now": True})
    except OSError:
        address.stamp.kill()
    if not address.stamp.wait(_STOP_S):
        address.stamp.kill()
