"""`bench attach`: rows from known acquisitions, and how long an acquisition is."""

from __future__ import annotations

import pytest

from deepfocus_live.bench._attach import Condition, Effort, Taken, attach_rows


def _taken(seconds: float, rate: float, slot_us: float, *, overflowed: bool = False) -> Taken:
    # One slot in 50 is slow: in the 99th percentile, not in the median.
    slots = (49 * (slot_us * 1e-6,) + (10 * slot_us * 1e-6,)) * 4
    cpu = tuple(0.5 * slot for slot in slots)
    return Taken(seconds, rate, slots, cpu, overflowed=overflowed)


def test_rows_judge_slot_pace_and_overflows_beside_bare_ones() -> None:
    fast, steady = Condition(512, None, True), Condition(512, 30.0, False)
    pairs = {
        fast: [(_taken(1, 80, 10, overflowed=True), _taken(1, 100, 5, overflowed=True))],
        steady: [(_taken(s, 29, 10), _taken(1, 30, 5)) for s in (1.01, 1.03, 9)],
    }
    kept = [_taken(1, 50, 5), _taken(1, 60, 5), _taken(1, 70, 5, overflowed=True)]
    rows = attach_rows(pairs, {(512, None): (3.0, 9.0)}, {512: kept})
    found = {(row.name.partition("thread, ")[2] or row.name, row.reference): row for row in rows}
    empty = "the same signal, an empty slot"
    assert found["median", empty].ratio == pytest.approx(2)
    assert found["p99", f"{empty}, p99"].value == pytest.approx(100)
    assert found["p99", None].met is False
    on_cpu = "on the processor: neither preempted nor waiting, p99"
    assert found[on_cpu, f"{empty}, p99"].value == pytest.approx(50)
    pace = found["pace, 512 × 512 uint16, hardware-sequenced z, unthrottled", "bare"]
    assert (pace.ratio, pace.met) == (pytest.approx(0.8), False)
    holding = "of a slot that keeps the frames and does nothing else (1 of 3 overflowed)"
    kept_pace = found[f"pace, {fast}, {holding}", "bare"]
    assert (kept_pace.value, kept_pace.ratio) == (60, pytest.approx(0.6))
    wall = found["200 frames, 512 × 512 uint16, software-timed z, 30 frames/s", "bare"]
    assert (wall.ratio, wall.met) == (pytest.approx(1.03), False)
    assert found["camera to durable, 512 × 512 uint16, unthrottled, p99", None].value == 9
    overflows = rows[-1]
    assert (overflows.value, overflows.met) == (0, True)
    assert "in 4 acquisitions, beyond 1 of bare ones" in overflows.name
    worse = attach_rows({fast: [(pairs[fast][0][0], _taken(1, 100, 5))]}, {}, {})
    assert (worse[-1].value, worse[-1].met) == (1, False)


@pytest.mark.parametrize(
    ("side", "rate", "frames"),
    [(512, 30.0, 120), (512, None, 150), (2048, 100.0, 128), (16384, 30.0, 2)],
)
def test_acquisitions_of_large_frames_are_shorter(
    side: int, rate: float | None, frames: int
) -> None:
    assert Effort().frames(Condition(side, rate, False)) == frames
