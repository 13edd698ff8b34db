"""Letting the interpreter end while pymmcore's own thread still has events to deliver."""

from __future__ import annotations

import atexit
import weakref

import pymmcore
from pymmcore_plus import CMMCorePlus

__all__ = ["quiet_at_exit"]

_cores: weakref.WeakSet[CMMCorePlus] = weakref.WeakSet()


def quiet_at_exit(core: CMMCorePlus) -> None:
    """Have `core` deliver no events any more once the interpreter ends.

    pymmcore delivers them on a thread of its own. One that calls into an
    interpreter that is being taken down aborts the process (exit code 134)
    after everything went well.
    """
    _cores.add(core)


@atexit.register
def _silence() -> None:
    for core in list(_cores):
        # CMMCorePlus refuses this for users; its own destructor does the same, too late.
        pymmcore.CMMCore.registerCallback(core, None)
