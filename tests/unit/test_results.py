"""What comes back from the daemon, and the focus stage that follows it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pymmcore_plus.mda import RunState

from deepfocus_live.errors import InputError
from deepfocus_live.frames import StackKey
from deepfocus_live.microscope import StackResult
from deepfocus_live.microscope._best_focus import StackMemory, move_focus, wait_until_idle
from deepfocus_live.microscope._signals import connect_direct

NO_TIME = 0.0


def stack(
    *shares: float | None, z_um: tuple[float | None, ...] = (), run: str = "run"
) -> StackResult:
    known = {z: share for z, share in enumerate(shares) if share}
    return StackResult(
        key=StackKey(run, 0, 0, 0),
        image_name="well B2",
        z_um=z_um or tuple(10.0 * z for z in range(len(shares))),
        in_focus_fraction=shares,
        focus_score=shares,
        best_z=max(known, key=known.__getitem__) if known else None,
    )


class Stage:
    """A core with a focus stage that notes where it was sent."""

    def __init__(self, z_um: float, label: str = "Z") -> None:
        self.z_um, self.label, self.way = z_um, label, [z_um]
        self.mda = SimpleNamespace(status=SimpleNamespace(phase=RunState.IDLE))

    def getFocusDevice(self) -> str:
        return self.label

    def getPosition(self, label: str) -> float:
        return self.way[-1]

    def setPosition(self, label: str, z_um: float) -> None:
        assert label == self.label
        self.way.append(z_um)

    def waitForDevice(self, label: str) -> None:
        assert label == self.label


@pytest.mark.parametrize(
    ("shares", "best_um", "reached"),
    [
        pytest.param((0.1, 0.3, 0.2), 10.0, True, id="inside"),
        pytest.param((0.3, 0.2, 0.1), 0.0, False, id="first"),
        pytest.param((0.1, 0.2, 0.3), 20.0, False, id="last"),
        pytest.param((0.1, 0.3, None), 10.0, False, id="last-before-the-cut"),
        pytest.param((0.0, 0.0, 0.0), None, False, id="nothing"),
        pytest.param((0.3,), 0.0, False, id="one-slice"),
    ],
)
def test_focus_is_reached_where_the_best_lies_within_the_scan(
    shares: tuple[float | None, ...], best_um: float | None, reached: bool
) -> None:
    found = stack(*shares)
    assert (found.best_z_um, found.focus_reached) == (best_um, reached)


@pytest.mark.parametrize(
    ("z_um", "at", "way"),
    [
        pytest.param((0.0, 5.0, 10.0), 0.0, [5.0], id="up-from-below"),
        pytest.param((0.0, 5.0, 10.0), 10.0, [0.0, 5.0], id="up-from-above"),
        pytest.param((10.0, 5.0, 0.0), 10.0, [5.0], id="down-from-above"),
        pytest.param((10.0, 5.0, 0.0), 0.0, [10.0, 5.0], id="down-from-below"),
        pytest.param((None, 5.0, 10.0), 10.0, [5.0], id="start-not-known"),
    ],
)
def test_the_stage_comes_from_where_the_scan_came_from(
    z_um: tuple[float | None, ...], at: float, way: list[float]
) -> None:
    core: Any = Stage(at)
    assert move_focus(core, stack(0.1, 0.3, 0.2, z_um=z_um)) == 5.0
    assert core.way == [at, *way]


@pytest.mark.parametrize(
    ("found", "label", "said"),
    [
        pytest.param(
            stack(0.0, 0.0), "Z", "nothing is in focus in the stack at well B2", id="dark"
        ),
        pytest.param(
            stack(0.1, 0.2, z_um=(0.0, None)), "Z", "slice 1 .* not known", id="z-unknown"
        ),
        pytest.param(stack(0.1, 0.2), "", "no focus stage", id="no-stage"),
    ],
)
def test_a_stage_is_not_moved_where_there_is_no_place_to_go(
    found: StackResult, label: str, said: str
) -> None:
    core: Any = Stage(3.0, label)
    with pytest.raises(InputError, match=said):
        move_focus(core, found)
    assert core.way == [3.0]


def test_the_last_stack_is_the_latest_of_the_last_run_in_whatever_order_results_come() -> None:
    memory = StackMemory()
    late, early = stack(0.1, 0.9, run="new"), stack(0.2, 0.8, run="new")
    memory.add(late, last_number=21)
    memory.add(early, last_number=10)
    memory.add(stack(0.3, 0.7, run="old"), last_number=99)
    with pytest.raises(InputError, match="not all made"):
        memory.last_of("new", NO_TIME)
    for run in ("new", "old", "bare"):
        memory.all_masked(run)
    assert memory.last_of("new", NO_TIME) is late
    with pytest.raises(InputError, match="no masks"):
        memory.last_of("bare", NO_TIME)


def test_an_acquisition_under_way_is_waited_for_up_to_the_deadline() -> None:
    core: Any = Stage(0.0)
    core.mda.status.phase = RunState.FINISHING  # the engine still moves the stage
    with pytest.raises(InputError, match="under way"):
        wait_until_idle(core, time.monotonic() + 0.03)
    core.mda.status.phase = RunState.IDLE
    wait_until_idle(core, NO_TIME)


# --- signals ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["psygnal", "qt"])
def test_slots_run_on_the_acquisitions_thread_whatever_signals_are_made_of(backend: str) -> None:
    if backend == "qt":
        pytest.importorskip("PyQt6.QtCore", reason="PyQt6 is not installed")
        from pymmcore_plus.mda.events import QMDASignaler as Signaler
    else:
        from pymmcore_plus.mda.events import MDASignaler as Signaler
    signals, seen = Signaler(), []

    class Listener:
        def hear(self, _image: object, event: object, _meta: object) -> None:
            seen.append((threading.get_ident(), event))

    listener = Listener()
    connect_direct(signals.frameReady, listener.hear)

    def acquire(event: int) -> int | None:
        thread = threading.Thread(target=lambda: signals.frameReady.emit(None, event, {}))
        thread.start()
        thread.join()
        return thread.ident

    # No event loop runs here: a slot that Qt queues would never be called.
    acquired_on = acquire(0)
    assert seen == [(acquired_on, 0)]
    signals.frameReady.disconnect(listener.hear)
    acquire(1)
    assert len(seen) == 1


def test_results_say_which_stack_they_are_of() -> None:
    found = stack(0.1, 0.2)
    assert str(replace(found, key=StackKey("run", 3, 2, 1))) == "the stack at well B2 (t 2, c 1)"
