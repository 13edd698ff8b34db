"""Live mode is followed gently, between acquisitions only, and leaves nothing behind."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from psygnal import Signal
from pymmcore_plus.mda import RunState

from deepfocus_live.config import Config
from deepfocus_live.daemon._masks import LiveSlice, MaskMaker
from deepfocus_live.microscope._live import LiveFollower
from deepfocus_live.ring import MemoryRing, leftover_rings


class Events:
    continuousSequenceAcquisitionStarted = Signal()


class LiveCamera:
    """A core in live mode, and the daemon's side of the link."""

    def __init__(self) -> None:
        self.mda = SimpleNamespace(status=SimpleNamespace(phase=RunState.IDLE))
        self.events = Events()
        self.running, self.looked, self.image = False, 0, np.zeros((4, 6), np.uint16)
        self.told: list[dict[str, Any]] = []
        self.pixels: list[Any] = []

    def getCameraDevice(self) -> str:
        return "Camera"

    def isSequenceRunning(self) -> bool:
        return self.running

    def getLastImageAndMD(self) -> tuple[Any, dict[str, str]]:
        self.looked += 1
        return self.image + self.looked, {"ImageNumber": str(self.looked)}

    def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "live":
            ring = MemoryRing(leftover_rings()[0])
            header, pixels = ring.get(message["slot"])
            ring.acknowledge(message["slot"], message["number"])
            ring.close()
            assert header.sequence_number == message["number"]
            self.pixels.append(pixels)
        self.told.append(message)


@pytest.fixture
def live(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("deepfocus_live.microscope._live._EVERY_S", 0.01)
    camera: Any = LiveCamera()
    follower = LiveFollower(camera, camera)
    yield camera, follower
    follower.stop()
    assert not follower._thread.is_alive()
    assert leftover_rings() == []


def soon(condition: Any) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return bool(condition())


def start(camera: Any) -> None:
    camera.running = True
    camera.events.continuousSequenceAcquisitionStarted.emit()


def test_live_frames_are_sent_one_at_a_time_as_fast_as_they_are_answered(live: Any) -> None:
    camera, follower = live
    start(camera)
    assert soon(lambda: len(camera.told) == 1)
    time.sleep(0.1)
    assert [m["number"] for m in camera.told] == [0]  # the first one's mask is still to come
    assert follower.following
    for n in range(2, 5):
        follower.answered({"type": "mask", "live": True})
        assert soon(lambda n=n: len(camera.told) == n)
    newest = [int(pixels[0, 0]) for pixels in camera.pixels]
    assert newest == sorted(set(newest))
    assert all(pixels.shape == (4, 6) for pixels in camera.pixels)
    camera.image = np.zeros((4, 6, 3), np.uint8)
    follower.answered({"type": "mask", "live": True})
    assert soon(lambda: len(camera.told) == 5)
    assert camera.pixels[-1].shape == (3, 4, 6)  # colours come first, as in a run


def test_an_acquisition_ends_the_following_of_live_mode_and_its_end_resumes_it(live: Any) -> None:
    camera, follower = live
    start(camera)
    assert soon(lambda: camera.told)
    camera.mda.status.phase = RunState.PREPARING
    follower.answered({})
    assert soon(lambda: camera.told[-1] == {"type": "live_end"})
    looked = camera.looked
    time.sleep(0.05)
    assert (camera.looked, follower.following, leftover_rings()) == (looked, False, [])
    camera.mda.status.phase = RunState.IDLE
    assert soon(lambda: camera.told[-1]["type"] == "live")


def test_live_mode_is_left_alone_when_it_ends_or_cannot_be_masked(
    live: Any, caplog: pytest.LogCaptureFixture
) -> None:
    camera, follower = live
    start(camera)
    assert soon(lambda: camera.told)
    follower.answered({"ok": False, "reason": "masks are off"})
    assert soon(lambda: camera.told[-1] == {"type": "live_end"})
    assert "masks are off" in caplog.text
    camera.image = np.zeros((4, 6), np.float32)
    start(camera)
    assert soon(lambda: "float32" in caplog.text)
    looked = camera.looked
    time.sleep(0.05)
    assert camera.looked == looked


def test_live_and_stored_slices_take_turns_and_the_newest_live_one_wins() -> None:
    maker = MaskMaker(
        Config(),
        None,  # type: ignore[arg-type]
        on_mask=print,
        on_model=print,
        warn=lambda text, **_: pytest.fail(text),
    )
    blank = np.zeros((2, 2), np.uint8)
    live = [LiveSlice("me", "default", blank, print) for _ in range(3)]
    run = SimpleNamespace(spec=SimpleNamespace(run_id="abc"), ended=False)
    older, newer = (SimpleNamespace(run=run) for _ in range(2))
    stored: list[Any] = [older, newer]
    for job in stored:
        maker.put(job)
    for one in live[:2]:
        maker.put_live(one)
    order: list[Any] = [maker._next()]
    maker.put_live(live[2])
    order += [maker._next() for _ in range(3)]
    assert [id(one) for one in order] == [id(one) for one in (live[1], newer, live[2], older)]
