"""The bench group `page`: its goals judge what they say, and it measures a real page."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deepfocus_live.bench import _page
from deepfocus_live.bench._page import (
    Acquired,
    Costs,
    Effort,
    _bench,
    _measure_masks,
    _measure_page,
    measure,
    page_rows,
)
from deepfocus_live.bench._page_browser import BrowserMissingError, open_browser
from deepfocus_live.bench._page_viewers import Seen
from deepfocus_live.bench._table import GROUPS

TAKEN = [100.0 + 0.05 * n for n in range(21)]
SEEN = Acquired(
    taken=TAKEN,
    acknowledged=[at + 0.01 for at in TAKEN],
    drawn={n: at + 0.04 for n, at in enumerate(TAKEN)},
)
EFFORT = Effort(turns=3)


def good() -> Costs:
    return Costs(
        percent={
            "no viewer": [20.0, 50.0, 30.0],
            "one viewer": [34.0, 60.0, 37.0],
            "10 viewers": [40.0, 70.0, 50.0],
            "one Chromium": [34.0, 64.0, 44.0],
        },
        pictures_per_s={
            "one viewer": [20.0, 20.0, 10.0],
            "10 viewers": [20.0] * 3,
            "one Chromium": [20.0] * 3,
        },
        in_browser=[SEEN] * 3,
        mask_ms={0: [100.0] * 3, 10: [109.0] * 3},
        seen=Seen(pictures=10, bytes=2_000_000),
    )


def figures(costs: Costs) -> dict[str, float | None]:
    return {row.name: row.value for row in page_rows(costs, EFFORT)}


def test_latency_is_from_acknowledged_and_from_the_camera_to_drawn() -> None:
    found = figures(good())
    assert found["slice acknowledged to drawn in Chromium, 1024 × 1024 at 20 frames/s, p50"] == (
        pytest.approx(30, abs=0.1)
    )
    assert found["camera to drawn in Chromium, 1024 × 1024 at 20 frames/s, p50"] == (
        pytest.approx(40, abs=0.1)
    )
    assert found["bytes of a slice over the WebSocket, all parts"] == 200


def test_cost_is_compared_within_each_turn_for_the_same_number_of_pictures() -> None:
    # 14 and 10 more, and 7 for half the pictures: other load in a turn is in both its figures.
    assert figures(good())["one viewer, what 20 pictures/s cost of a core"] == 14


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        pytest.param(
            {"pictures_per_s": {**good().pictures_per_s, "one viewer": [18.0, 20.0, 9.0]}},
            "one viewer",
            id="cost",
        ),
        pytest.param({"mask_ms": {0: [100.0], 10: [111.0]}}, "camera to mask", id="latency"),
        pytest.param(
            {"in_browser": [replace(SEEN, drawn={0: 100.04, 10: 100.54, 20: 101.04})]},
            "drawn in Chromium",
            id="drawn",
        ),
    ],
)
def test_each_goal_is_missed_by_its_own_figure_alone(
    change: dict[str, object], missed: str
) -> None:
    assert "page" in GROUPS
    assert [row.met for row in page_rows(good(), EFFORT) if row.goal is not None] == [True] * 3
    costs = good()
    for name, value in change.items():
        setattr(costs, name, value)
    [row] = [row for row in page_rows(costs, EFFORT) if row.met is False]
    assert row.name.startswith(missed)


def test_without_a_browser_nothing_is_measured_and_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> object:
        raise BrowserMissingError

    monkeypatch.setattr(_page, "open_browser", none)
    [row] = measure()
    assert row.value is None
    assert "Chromium" in row.name


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no `chromium` on the path")
def test_page_and_masks_are_measured_with_chromium(tmp_path: Path) -> None:
    effort = Effort(
        side=64, seconds=0.4, mask_seconds=0.4, mask_rate=20, turns=1, many=2, rest_s=0.1
    )
    costs = Costs()
    # One daemon for both halves: `measure` takes two.
    with open_browser() as browser, _bench(tmp_path / "bench", effort, masks=True) as bench:
        _measure_page(bench, browser, effort, costs)
        _measure_masks(bench, effort, costs)
    rows = page_rows(costs, effort)
    assert [row.name for row in rows if row.value is None or math.isnan(row.value)] == []
    [seen] = costs.in_browser
    assert len(seen.taken) == len(seen.acknowledged) == 8
    assert seen.drawn, "the canvas told of no slice"
    for number, drawn in seen.drawn.items():
        # The browser's clock has milliseconds, and slices are looked for once in one.
        assert seen.taken[number] < seen.acknowledged[number] < drawn + 0.02
    # Who joins is shown the last picture that was made, then the last slice that was taken.
    assert 0 < costs.seen.pictures <= 2 * (8 + 2)
    assert costs.seen.bytes > 200 * costs.seen.pictures
