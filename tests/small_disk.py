"""A disk of a few hundred kilobytes, to find out what happens when it is full."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

__all__ = ["run_on_small_disk"]

_MOUNT_AND_RUN = (
    'mount -t tmpfs -o size="$1"k none "$2" && cd "$2" && shift 2 && exec "$@"'  # small, then full
)


@cache
def _private_mounts() -> tuple[str, ...] | None:
    """Return the command that gives a process mounts of its own; None where not permitted."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return None
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        probe = [*command, "sh", "-c", _MOUNT_AND_RUN, "sh", "64", "/mnt", "true"]
        if subprocess.run(probe, capture_output=True, timeout=20).returncode == 0:
            return command
    return None


def run_on_small_disk(script: str, folder: Path, *, size_kb: int) -> str:
    """Run a Python `script` in `folder` while a disk of `size_kb` is mounted there.

    Returns what it printed; the test fails if it did not end in order, and is
    skipped where nothing may be mounted.
    """
    private = _private_mounts()
    if private is None:
        pytest.skip("no private mounts here: a small disk needs Linux and `unshare -m`")
    command = [*private, "sh", "-c", _MOUNT_AND_RUN, "sh", str(size_kb), str(folder)]
    done = subprocess.run(
        [*command, sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=90,
        env=_importable(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _importable() -> dict[str, str]:
    import os

    root = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if before is None else f"{root}{os.pathsep}{before}"}
