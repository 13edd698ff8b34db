"""Inference goes on when a device fails. A GPU that dies cannot be had: engines are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live.config import Config
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._warnings import StandingWarnings
from deepfocus_live.errors import InputError
from deepfocus_live.inference import _steady
from deepfocus_live.inference._engine import Answer, EngineError, OutOfMemoryError
from deepfocus_live.inference._steady import SteadyEngine, Way

SMALL, LARGE = np.zeros((64, 64), np.uint16), np.zeros((128, 128), np.uint16)


class Device:
    """An engine that answers until it is told to fail."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.fails_with: Exception | None = None
        self.holds_px = 1 << 40
        self.opened = 0

    def open(self) -> Device:
        self.opened += 1
        return self

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        if self.fails_with is not None:
            raise self.fails_with
        if counts.size > self.holds_px:
            raise OutOfMemoryError("no memory for the maps\nmore words of the driver")
        return np.ones(counts.shape, np.uint8), np.zeros((1, 1), np.uint8)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_steady, "time", clock)
    return clock


class Machine:
    """A GPU, the same in tiles, and the CPU."""

    def __init__(self) -> None:
        self.gpu, self.tiles, self.cpu = Device("GPU"), Device("GPU in tiles"), Device("CPU")
        self.told: list[str] = []
        ways = [Way(device.open) for device in (self.gpu, self.tiles, self.cpu)]
        self.back: list[str] = []
        self.engine = SteadyEngine(ways, self.told.append, self.back.append)

    def ran(self, counts: NDArray[np.uint16] = SMALL) -> str:
        mask, _ = self.engine.run(counts)
        assert mask.shape == counts.shape
        return self.engine.provider


def test_first_way_is_opened_at_once_and_the_others_when_they_are_needed(clock: Clock) -> None:
    machine = Machine()
    assert (machine.gpu.opened, machine.tiles.opened, machine.cpu.opened) == (1, 0, 0)
    assert machine.ran() == "GPU"
    assert machine.gpu.opened == 1 and machine.told == []


def test_a_lost_device_is_left_at_once_and_tried_again_after_a_minute(clock: Clock) -> None:
    machine = Machine()
    machine.gpu.fails_with = machine.tiles.fails_with = EngineError("device lost")
    assert machine.ran() == "CPU"
    [told] = machine.told
    assert "masks are made on CPU, no longer on GPU: device lost" in told and "\n" not in told
    machine.gpu.fails_with = None
    assert machine.ran() == "CPU", "not tried again at every slice"
    assert not machine.engine.at_best
    clock.now += 61
    assert machine.ran() == "GPU"
    assert machine.gpu.opened == 2, "a lost device needs a new session"
    assert machine.told[1:] == [] and machine.engine.at_best
    assert machine.back == ["masks are made on GPU again"]


def test_a_device_that_stays_lost_is_told_once(clock: Clock) -> None:
    machine = Machine()
    machine.gpu.fails_with = machine.tiles.fails_with = EngineError("device lost")
    for _ in range(3):
        assert machine.ran() == "CPU"
        clock.now += 61
    assert len(machine.told) == 1


def test_what_does_not_fit_goes_in_tiles_and_what_fits_as_before(clock: Clock) -> None:
    machine = Machine()
    machine.gpu.holds_px = SMALL.size
    assert machine.ran(LARGE) == "GPU in tiles"
    assert machine.ran(SMALL) == "GPU"
    assert machine.gpu.opened == 1, "memory that ran out is no reason for a new session"
    assert "no memory for the maps; it is tried again in a minute" in machine.told[0]


def test_a_way_that_cannot_be_opened_is_passed_over(clock: Clock) -> None:
    machine = Machine()

    def refuse() -> Device:
        raise InputError("made by an older version")

    ways = [Way(machine.gpu.open), Way(refuse), Way(machine.cpu.open)]
    engine = SteadyEngine(ways, machine.told.append)
    machine.gpu.fails_with = OutOfMemoryError("full")
    engine.run(SMALL)
    assert engine.provider == "CPU"


def test_the_last_way_is_always_tried_and_its_failure_is_told(clock: Clock) -> None:
    machine = Machine()
    for device in (machine.gpu, machine.tiles, machine.cpu):
        device.fails_with = OutOfMemoryError(device.provider)
    for _ in range(2):
        with pytest.raises(OutOfMemoryError, match="CPU"):
            machine.ran()
    machine.cpu.fails_with = None
    assert machine.ran() == "CPU"


def test_a_slice_that_would_take_most_of_the_memory_is_not_tried_whole(clock: Clock) -> None:
    whole, tiles = Device("whole"), Device("tiles")
    engine = SteadyEngine([Way(whole.open, 1e9), Way(tiles.open)], lambda _: None)
    engine.run(SMALL)
    assert engine.provider == "whole", "small slices are not worth a look at the memory"
    engine.run(np.zeros((4096, 4096), np.uint16))
    assert engine.provider == "tiles"


def test_the_daemon_s_warning_of_a_lost_device_ends_when_it_is_back(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, warnings = Machine(), StandingWarnings(lambda *_: None, clock=clock.monotonic)
    opened: dict[str, Any] = {}

    def open_slot(_version: object, **given: Any) -> SimpleNamespace:
        opened.update(given)
        return SimpleNamespace(model=SimpleNamespace(warm_up=lambda _: None))

    monkeypatch.setattr("deepfocus_live.daemon._masks.ModelSlot.open", open_slot)
    registry = SimpleNamespace(current=lambda _: SimpleNamespace(fallback_reason=None))
    nobody = cast("Any", None)
    maker = MaskMaker(
        Config(),
        cast("Any", registry),
        on_mask=nobody,
        on_model=nobody,
        warn=warnings.warn,
        clear=warnings.clear,
    )
    maker.prepare("default", (64, 64))
    machine.engine._on_change, machine.engine._on_back = opened["on_change"], opened["on_back"]
    machine.gpu.fails_with = EngineError("device lost")
    machine.ran()
    assert [one.text.partition(",")[0] for one in warnings.standing()] == [
        "masks are made on GPU in tiles"
    ]
    machine.gpu.fails_with = None
    clock.now += 61
    machine.ran()
    clock.now += 5
    warnings.look()
    assert warnings.standing() == []
    # A model that takes over has its own engine, and what was said of the old one is over.
    warnings.warn("masks are made on CPU", key=("device", "default"))
    maker._settle("default", cast("Any", SimpleNamespace(at_best=False)))
    clock.now += 5
    warnings.look()
    assert len(warnings.standing()) == 1
    maker._settle("default", cast("Any", SimpleNamespace(at_best=True)))
    clock.now += 5
    warnings.look()
    assert warnings.standing() == []
