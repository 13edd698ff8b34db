"""The way back: from a stack's result to the focus stage."""

from __future__ import annotations

import logging
import threading
import time

from pymmcore_plus import CMMCorePlus
from pymmcore_plus.mda import RunState

from deepfocus_live.errors import InputError
from deepfocus_live.microscope._results import StackResult

__all__ = ["StackMemory", "is_idle", "move_focus", "wait_until_idle"]

log = logging.getLogger(__name__)

_POLL_S = 0.02
_MOST_RUNS = 8


class StackMemory:
    """The last stack of each of the latest runs. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._last: dict[str, tuple[int, StackResult]] = {}
        self._masked: dict[str, None] = {}

    def add(self, result: StackResult, last_number: int) -> None:
        """Take in a result; results of one run may come in any order."""
        run_id = result.key.run_id
        with self._changed:
            before = self._last.get(run_id)
            if before is None or before[0] <= last_number:
                self._last[run_id] = last_number, result
            while len(self._last) > _MOST_RUNS:
                del self._last[next(iter(self._last))]

    def all_masked(self, run_id: str) -> None:
        """Note that every result of a run has come."""
        with self._changed:
            self._masked[run_id] = None
            while len(self._masked) > _MOST_RUNS:
                del self._masked[next(iter(self._masked))]
            self._changed.notify_all()

    def last_of(self, run_id: str, deadline: float) -> StackResult:
        """Return the result of a run's last stack.

        Raises
        ------
        InputError
            If it has not come by the deadline (`time.monotonic`), or none comes.
        """
        with self._changed:
            left_s = deadline - time.monotonic()
            if not self._changed.wait_for(lambda: run_id in self._masked, max(left_s, 0.0)):
                raise InputError(
                    "the masks of the last acquisition are not all made: wait longer (timeout_s), "
                    "or see `deepfocus-live logs`."
                )
            if run_id not in self._last:
                raise InputError(
                    "the last acquisition has no masks: see which channels the profile segments, "
                    "and `deepfocus-live logs`."
                )
            return self._last[run_id][1]


def is_idle(core: CMMCorePlus) -> bool:
    """Return whether no acquisition is under way, its engine's last moves included."""
    return core.mda.status.phase is RunState.IDLE


def wait_until_idle(core: CMMCorePlus, deadline: float) -> None:
    """Wait for the end of the acquisition.

    Raises
    ------
    InputError
        If it is still under way at the deadline (`time.monotonic`).
    """
    while not is_idle(core):
        if time.monotonic() >= deadline:
            raise InputError(
                "an acquisition is under way: the focus stage is moved only after its end. "
                "Cancel it, or wait longer (timeout_s)."
            )
        time.sleep(_POLL_S)


def move_focus(core: CMMCorePlus, stack: StackResult) -> float:
    """Move the focus stage to a stack's best slice and return its z in µm.

    Raises
    ------
    InputError
        If there is no such place, or no stage.
    """
    if stack.best_z is None:
        raise InputError(f"nothing is in focus in {stack}: the focus stage stays where it is.")
    best = stack.best_z_um
    if best is None:
        raise InputError(f"the height of slice {stack.best_z} of {stack} is not known: no move.")
    if not (stage := core.getFocusDevice()):
        raise InputError("the core has no focus stage: choose one with setFocusDevice.")
    first = next((z for z in stack.z_um if z is not None), best)
    if (core.getPosition(stage) - best) * (best - first) > 0:
        # It is beyond the best, seen from where the scan began: back to there first.
        core.setPosition(stage, first)
        core.waitForDevice(stage)
    core.setPosition(stage, best)
    core.waitForDevice(stage)
    log.info("focus stage at %.2f µm: slice %d of %s", best, stack.best_z, stack)
    if not stack.focus_reached:
        log.warning("the best slice of %s is at an end of its scan: scan further there.", stack)
    return best
