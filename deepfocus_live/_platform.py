"""What differs between Windows, macOS and Linux, and nothing else."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs
import psutil

__all__ = [
    "CUDA_DRIVER",
    "MACOS",
    "WINDOWS",
    "ProcessStamp",
    "available_memory_bytes",
    "boot_mark",
    "fast_scratch_dir",
    "fast_scratch_dirs",
    "ignore_hangup",
    "is_this_boot",
    "log_dir",
    "lower_priority",
    "lower_thread_priority",
    "make_private",
    "partial_name",
    "preallocate",
    "processor_name",
    "replace",
    "replace_file",
    "reserve",
    "runtime_dir",
    "spawn_detached",
    "spill_dir",
    "step_back",
    "stop_on_signals",
    "sync_directory",
    "sync_file",
    "usable_cores",
    "user_data_dir",
]

WINDOWS = sys.platform == "win32"
MACOS = sys.platform == "darwin"
CUDA_DRIVER = "nvcuda.dll" if WINDOWS else "libcuda.so.1"
"""The library that comes with a graphics card's driver."""
_SHARED_MEMORY = Path("/dev/shm")
_APP = "deepfocus-live"
_SAME_BOOT_S = 120.0
RUNTIME_DIR_VARIABLE = "DEEPFOCUS_LIVE_RUNTIME_DIR"
"""Environment variable that gives a process and its children a daemon of their own."""
_BACK = 5
"""Niceness of a process that steps back."""


def runtime_dir() -> Path:
    """Return the folder for what lives as long as a daemon: runtime file, lock, rings."""
    override = os.environ.get(RUNTIME_DIR_VARIABLE)
    with warnings.catch_warnings():
        # Over ssh and in services XDG_RUNTIME_DIR is not set: nothing to tell a user.
        warnings.simplefilter("ignore")
        path = Path(override or platformdirs.user_runtime_dir(_APP))
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        # A login without a session manager has no /run/user/<id>.
        path = Path(platformdirs.user_cache_dir(_APP)) / "runtime"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def log_dir() -> Path:
    """Return the folder of the daemon's log: on a disk, for it is asked for after a crash."""
    override = os.environ.get(RUNTIME_DIR_VARIABLE)
    path = Path(override or platformdirs.user_log_dir(_APP, appauthor=False))
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def user_data_dir() -> Path:
    """Return the folder for what outlives every daemon: the models."""
    return Path(platformdirs.user_data_dir(_APP, appauthor=False))


def spill_dir() -> Path:
    """Return the folder, on a disk, for frames that wait because memory is full."""
    override = os.environ.get(RUNTIME_DIR_VARIABLE)
    return Path(override or platformdirs.user_cache_dir(_APP, appauthor=False)) / "spill"


def fast_scratch_dir(need_bytes: int, fallback: Path) -> Path:
    """Return a memory-backed folder that has room for `need_bytes`, else `fallback`."""
    shm = _SHARED_MEMORY
    if sys.platform == "linux" and os.access(shm, os.W_OK):
        # Half of what is free stays free: a full tmpfs kills whoever writes next.
        if psutil.disk_usage(str(shm)).free // 2 >= need_bytes:
            return shm
    return fallback


def fast_scratch_dirs() -> list[Path]:
    """Return the folders that `fast_scratch_dir` may have returned, beside the fallbacks."""
    return [_SHARED_MEMORY] if _SHARED_MEMORY.is_dir() else []


def preallocate(path: Path, size: int, *, head: bytes = b"") -> None:
    """Create `path` with `size` bytes that really exist: `head`, then zeros.

    A sparse file on a full file system would end the process that touches its
    mapping with SIGBUS: here the microscope's. `head` is written first, so that
    a file whose maker was killed meanwhile says whose it was.

    Raises
    ------
    OSError
        If there is no room, and nothing is left behind; or if `path` exists, which stays.
    """
    file = path.open("xb")
    try:
        with file:
            make_private(path)
            file.write(head)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                block = bytes(min(size, 1 << 24))
                for start in range(len(head), size, len(block)):
                    file.write(block[: size - start])
    except OSError:
        path.unlink(missing_ok=True)
        raise


def reserve(fd: int, size: int) -> None:
    """Give a new file its blocks at once, where system and file system can.

    Whether the disk is full, the writing says.
    """
    if hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, size)


def sync_file(fd: int) -> None:
    """Return when the file's data are on the medium."""
    if sys.platform == "darwin":
        import fcntl

        # Plain fsync on macOS stops at the drive's own cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_directory(path: Path | str) -> None:
    """Return when new names in `path` are on the medium; Windows has no such call."""
    if WINDOWS:
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(source: Path | str, target: Path | str, *, patience_s: float = 2.0) -> None:
    """Rename `source` over `target` atomically.

    On Windows a reader or a virus scanner that holds `target` open makes this
    fail for a moment, so it is tried again.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def replace_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a small file: all of it or nothing, so that nobody ever reads a half of it.

    Of several who write it at once the last one's stays. A `private` one is this user's alone.
    Nothing is synced: after a power cut it may be the old one, or empty.
    """
    partial = partial_name(path)
    try:
        if private:
            Path(partial).touch(mode=0o600)
            make_private(Path(partial))
        with open(partial, "wb") as file:
            file.write(data)
        replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(partial).unlink(missing_ok=True)
        raise


def partial_name(path: Path) -> str:
    """Return a name beside `path` that nobody else has, for what will be renamed to it.

    No Path: pathlib interns each name, and CPython's table of interned strings doubles, to 4 MB,
    when enough of them have come and gone.
    """
    return f"{path}.{uuid.uuid4().hex}.partial"


def make_private(path: Path) -> None:
    """Let only this user read and write `path` (on Windows the profile folder's rights do)."""
    if not WINDOWS:
        path.chmod(0o600)


def step_back() -> None:
    """Let other programs go before this one where the processor is short; for its first thread.

    Linux may share the processor among sessions first (autogroups): among those the niceness of a
    process says nothing, that of its session does. It is set where this process leads one.
    """
    process = psutil.Process()
    if sys.platform == "win32":
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        return
    process.nice(max(process.nice(), _BACK))
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        # A kernel without autogroups has no such file.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("10", encoding="ascii")


def lower_priority() -> None:
    """Make this process yield to every other."""
    process = psutil.Process()
    with contextlib.suppress(psutil.AccessDenied):
        if sys.platform == "win32":
            process.nice(psutil.IDLE_PRIORITY_CLASS)
        else:
            process.nice(19)


def lower_thread_priority() -> None:
    """Make the calling thread yield to ordinary ones, also of a process that stepped back.

    On Linux, threads that it starts from then on do so too. macOS has no such
    call for single threads; there it does nothing.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACK + 10)
    elif sys.platform == "win32":
        import ctypes

        below_normal = -1
        kernel = ctypes.windll.kernel32
        kernel.SetThreadPriority(kernel.GetCurrentThread(), below_normal)


def spawn_detached(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` so that it survives its parent and its terminal; output goes to `log`.

    No pipe is inherited: a caller that reads ours until its end must not hang. On Windows it leaves
    the job of its parent, whose end would be its own, where that job allows it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:

        def start(flags: int = 0) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if env is None else dict(env),
                close_fds=True,
                start_new_session=not WINDOWS,
                creationflags=flags,
            )

        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
            try:
                return start(flags | subprocess.CREATE_BREAKAWAY_FROM_JOB)
            except PermissionError:
                # The job forbids it. Better a daemon that ends with it than none.
                return start(flags)
        return start()


def stop_on_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to end in order."""
    if sys.platform == "win32":
        return (signal.SIGINT, signal.SIGBREAK)
    return (signal.SIGINT, signal.SIGTERM)


def available_memory_bytes() -> int:
    """Return the memory that can be had without swapping."""
    return int(psutil.virtual_memory().available)


class ProcessStamp:
    """Tell a process from a later one that was given the same number.

    Compared by pid and start time, both in plain numbers so that they can
    stand in a file. On Linux the start is counted in seconds since the system
    started, elsewhere since the epoch: compare stamps of one system only.
    """

    def __init__(self, pid: int, started: float) -> None:
        self.pid = pid
        self.started = started

    @classmethod
    def mine(cls) -> ProcessStamp:
        """Return the stamp of this process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessStamp:
        """Return the stamp of the process that has this number now, or of none if nobody has."""
        try:
            return cls(pid, _started(psutil.Process(pid)))
        except psutil.NoSuchProcess:
            return cls(pid, 0.0)

    def alive(self) -> bool:
        """Return whether this very process still runs (a zombie does not)."""
        if self.pid <= 0:
            return False
        try:
            process = psutil.Process(self.pid)
            # Start times are rounded differently by different readers.
            if abs(_started(process) - self.started) > 1.0:
                return False
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for this very process to end; return whether it has."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        """End this very process at once and wait until it is gone."""
        if not self.alive():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            process.kill()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(timeout=5)


def ignore_hangup() -> None:
    """Have this process live on when its terminal is closed."""
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def processor_name() -> str:
    """Return the processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many logical cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def boot_mark() -> str:
    """Return what tells this start of the system from others, in at most 64 ASCII characters."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{psutil.boot_time():.0f}"


def is_this_boot(mark: str) -> bool:
    """Return whether a `boot_mark` is of the system's present start."""
    mine = boot_mark()
    try:
        # Where it is a time, a clock that was set moves it; no start follows another so soon.
        return abs(float(mark) - float(mine)) < _SAME_BOOT_S
    except ValueError:
        return mark == mine


def _started(process: psutil.Process) -> float:
    """Return when a process started, in seconds that nobody can set back."""
    if sys.platform != "linux":
        return process.create_time()
    # psutil adds the wall clock's idea of when the system started. When that clock is set,
    # every process would seem to have been replaced: a live microscope's ring would be removed.
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(process.pid) from None
    # The name, in brackets, may hold anything; the start is the 20th word after it.
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
