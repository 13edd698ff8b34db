"""Kernels are compiled before the workers start, which would else each compile all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COMPILE = "import sys; from deepfocus_live.focus import warm_up; warm_up(dtypes=sys.argv[1:])"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fill numba's cache with two processes, if tests are about to run on several."""
    if not session.config.getoption("numprocesses", None):
        return
    halves = [
        subprocess.Popen([sys.executable, "-c", _COMPILE, *dtypes])
        for dtypes in (["uint16"], ["uint8", "float32"])
    ]
    if [0, 0] != [half.wait() for half in halves]:
        pytest.exit("the kernels of the weak labels cannot be compiled", returncode=1)
