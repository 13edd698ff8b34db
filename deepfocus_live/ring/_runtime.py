"""Finding the daemon: one runtime file per user, under a lock that dies with its holder."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from deepfocus_live import _platform
from deepfocus_live.errors import InputError
from deepfocus_live.ring._client import ControlClient

__all__ = [
    "READY_S",
    "DaemonAddress",
    "DaemonDidNotStart",
    "claim_daemon_lock",
    "find_daemon",
    "forget_daemon",
    "leftover_rings",
    "log_path",
    "new_key",
    "new_ring_path",
    "publish_daemon",
    "spill_prefix",
    "start_daemon",
]

_MOST_OUTPUTS = 4
READY_S = 180.0
"""How long a daemon may take until it answers: a cold computer whose scanner reads every file."""
_INPUT_ERROR = 2  # the command line's exit code for what is the user's to mend

_children: list[subprocess.Popen[bytes]] = []
"""Daemons that this process has started: it must collect their exit, or they stay as zombies."""


class DaemonDidNotStart(RuntimeError):
    """The daemon ended, or was not ready in time; the message has its last words."""


@dataclass(frozen=True)
class DaemonAddress:
    """What the runtime file says of the daemon."""

    pid: int
    started: float
    port: int
    key: str
    page: str
    version: str
    arguments: tuple[str, ...] = ()
    """What it was started with: who replaces it starts the next with the same."""

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "arguments", tuple(self.arguments))

    @property
    def stamp(self) -> _platform.ProcessStamp:
        """The daemon's process."""
        return _platform.ProcessStamp(self.pid, self.started)

    def connect(self, *, timeout_s: float = 5.0) -> ControlClient:
        """Return an authenticated connection to the daemon."""
        return ControlClient(self.port, self.key, timeout_s=timeout_s)


def _runtime_file() -> Path:
    return _platform.runtime_dir() / "daemon.json"


def log_path() -> Path:
    """Return the daemon's log file; full ones and captured output lie beside it."""
    return _platform.log_dir() / "daemon.log"


def _new_output_path() -> Path:
    """Return a new file for what a daemon prints; of older ones the newest are kept."""
    folder = log_path().parent
    # A name of its own: a running daemon holds its file open, and Windows lets nobody rename it.
    for old in sorted(folder.glob("start-*.out"))[: -(_MOST_OUTPUTS - 1)]:
        with contextlib.suppress(OSError):
            old.unlink()
    return folder / f"start-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}.out"


def new_key() -> str:
    """Return a fresh secret for one daemon's life."""
    return secrets.token_hex(32)


def claim_daemon_lock() -> FileLock | None:
    """Return the lock of the one daemon of this user; None if another process holds it."""
    lock = FileLock(_platform.runtime_dir() / "daemon.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def publish_daemon(address: DaemonAddress) -> None:
    """Say where the daemon is, to this user only."""
    _platform.replace_file(_runtime_file(), json.dumps(asdict(address)).encode(), private=True)


def forget_daemon() -> None:
    """Remove the runtime file."""
    _runtime_file().unlink(missing_ok=True)


def find_daemon() -> DaemonAddress | None:
    """Return the running daemon's address; a file left by a dead one is passed over."""
    try:
        address = DaemonAddress(**json.loads(_runtime_file().read_text(encoding="utf-8")))
        return address if address.stamp.alive() else None
    except (OSError, ValueError, TypeError):
        return None


def start_daemon(
    arguments: Sequence[str] = (),
    *,
    python: Path | None = None,
    patience_s: float = READY_S,
    program: Sequence[str] = ("deepfocus_live",),
) -> DaemonAddress:
    """Start a daemon of its own session and wait until it is ready.

    If another one gets there first, that one is returned. `program` is the module that has the
    command line, and what it wants to be told before the command.

    Raises
    ------
    InputError
        If it refused what it was given.
    DaemonDidNotStart
        If it failed otherwise; with the last line that it printed.
    """
    output = _new_output_path()
    executable = str(python or sys.executable)
    command = [executable, "-m", *program, "start", *arguments]
    _children[:] = [child for child in _children if child.poll() is None]
    process = _platform.spawn_detached(command, log=output)
    _children.append(process)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        address = find_daemon()
        if address is not None:
            return address
        if process.poll() is not None and find_daemon() is None:
            words = _last_words(output, process.returncode)
            if process.returncode == _INPUT_ERROR:
                raise InputError(words.removeprefix("deepfocus-live: "))
            raise DaemonDidNotStart(words)
        time.sleep(0.05)
    raise DaemonDidNotStart(f"the daemon was not ready after {patience_s:.0f} s; see {log_path()}")


def _last_words(output: Path, code: int) -> str:
    said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if said:
        return said[-1]
    return f"the daemon ended without a word (exit code {code}); see {log_path()}"


def new_ring_path(size: int) -> Path:
    """Return where a new ring of `size` bytes goes: memory-backed where there is room."""
    folder = _platform.fast_scratch_dir(size, _platform.runtime_dir())
    return folder / f"{_ring_prefix()}{uuid.uuid4().hex}.ring"


def leftover_rings() -> list[Path]:
    """Return all ring files of this user's runtime folder, whoever made them."""
    folders = [_platform.runtime_dir(), *_platform.fast_scratch_dirs()]
    return sorted(path for folder in folders for path in folder.glob(f"{_ring_prefix()}*.ring"))


def spill_prefix() -> str:
    """Return what the names of this runtime folder's spill files begin with."""
    return _ring_prefix()


def _ring_prefix() -> str:
    # Two runtime folders (a demo beside the real one) must not drain each other's rings.
    folder = uuid.uuid5(uuid.NAMESPACE_URL, str(_platform.runtime_dir().absolute()))
    return f"deepfocus-live-{folder.hex[:12]}-"
