"""What `acquire` says beforehand and meanwhile: time, memory, how far it is."""

from __future__ import annotations

from typing import Any, cast

import pytest
import useq

from deepfocus_live.cli._acquire import _duration, _in_words
from deepfocus_live.config import Config, RingConfig
from deepfocus_live.microscope import acquire
from deepfocus_live.microscope.acquire import Progress, memory_for


class _Camera:
    """As much of a core as is asked: 1000 × 500 px of 2 bytes, 10 ms."""

    def getExposure(self) -> float:
        return 10.0

    def getImageWidth(self) -> int:
        return 1000

    def getImageHeight(self) -> int:
        return 500

    def getBytesPerPixel(self) -> int:
        return 2

    def getFocusDevice(self) -> str:
        return ""


_INFO = {"height": 500, "width": 1000, "dtype": "uint16", "camera_label": "Camera"}


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        ({"z_plan": {"range": 9, "step": 1}}, 0.1),
        ({"z_plan": {"range": 1, "step": 1}, "channels": [{"config": "a", "exposure": 50}]}, 0.1),
        # The last time point begins after two intervals; those that are too short do not count.
        ({"time_plan": {"interval": 3, "loops": 3}, "z_plan": {"range": 1, "step": 1}}, 6.02),
        ({"time_plan": {"interval": 0.001, "loops": 3}}, 0.03),
        # More than are looked at: 12 of 10 ms, reckoned from the first 5.
        ({"z_plan": {"range": 11, "step": 1}}, 0.12),
    ],
)
def test_least_time_is_exposures_and_intervals(
    plan: dict[str, Any], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire, "summary_metadata", lambda *_, **__: {"image_infos": [_INFO]})
    monkeypatch.setattr(acquire, "_EVENTS_READ", 10 if seconds != 0.12 else 5)
    needed = acquire.plan(cast("Any", _Camera()), useq.MDASequence.model_validate(plan))
    assert needed.seconds == pytest.approx(seconds)


def test_memory_is_the_ring_and_what_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquire, "available_memory_bytes", lambda: 8 << 30)
    core = cast("Any", _Camera())
    memory = memory_for(core, Config(ring=RingConfig(memory_mb=64)))
    assert (memory.ring_frames, memory.ring_bytes, memory.most_bytes) == (67, 67_000_000, 4 << 30)
    assert memory_for(core, Config(ring=RingConfig(slots=5))).ring_bytes == 5_000_000


@pytest.mark.parametrize(
    ("progress", "frames", "said"),
    [
        (Progress(0, 0, True), 40, "0 of 40 frames taken, 0 on the disk"),
        (Progress(10, 8, True), 40, "10 of 40 frames taken, 8 on the disk, about 1 min 30 s left"),
        (Progress(10, 8, True), None, "10 frames taken, 8 on the disk"),
        (Progress(10, 9, False), 40, "10 of 40 frames taken, 9 on the disk"),
    ],
)
def test_progress_says_taken_durable_and_time_left(
    progress: Progress, frames: int | None, said: str
) -> None:
    assert _in_words(progress, frames, 30.0) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_are_said_in_two_units_at_most(seconds: float, said: str) -> None:
    assert _duration(seconds) == said
