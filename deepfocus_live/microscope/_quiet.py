"""What pymmcore and pymmcore-plus do unasked: events at the interpreter's end, words in red."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pymmcore
from pymmcore_plus import CMMCorePlus

__all__ = ["quiet_at_exit", "untold"]

_cores: weakref.WeakSet[CMMCorePlus] = weakref.WeakSet()


def quiet_at_exit(core: CMMCorePlus) -> None:
    """Have `core` deliver no events any more once the interpreter ends.

    pymmcore delivers them on a thread of its own. One that calls into an
    interpreter that is being taken down aborts the process (exit code 134)
    after everything went well.
    """
    _cores.add(core)


@contextmanager
def untold() -> Iterator[None]:
    """Within this context pymmcore-plus reports nothing on its own: we do, in one line.

    Making a core logs an error of many lines where no Micro-Manager is
    installed, also for a microscope that needs none.
    """
    logger = logging.getLogger("pymmcore-plus")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@atexit.register
def _silence() -> None:
    for core in list(_cores):
        # CMMCorePlus refuses this for users; its own destructor does the same, too late.
        pymmcore.CMMCore.registerCallback(core, None)
