"""The page's sums, which need no document, against their plain twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon


def ask(page: Page, module: str, expression: str, *arguments: Any) -> Any:
    """Return what an expression in `it` (the module) and `a` (the arguments) comes to."""
    script = f"""async (a) => {{
      const it = await import("/static/{module}.js");
      const value = {expression};
      return ArrayBuffer.isView(value) ? Array.from(value) : value;
    }}"""
    return page.evaluate(script, list(arguments))


def test_depth_colours_go_up_in_even_steps_that_all_can_see(page: Page) -> None:
    table = np.array(ask(page, "colours", "it.makeDepthTable()"), float) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    lab = np.cbrt(linear @ np.transpose(to_lms)) @ np.transpose(to_lab)
    steps = np.linalg.norm(np.diff(lab[::15], axis=0), axis=1)
    assert steps.max() < 1.35 * steps.min()
    assert (np.diff(lab[::15, 0]) > 0.01).all(), "lightness alone tells the order"


def test_zoom_keeps_the_place_under_the_pointer_and_the_picture_in_view(page: Page) -> None:
    view, picture = {"width": 900, "height": 600}, {"width": 640, "height": 480}
    point = {"x": 500, "y": 200}
    under = "it.toPicture(a[0], it.placeIn(a[1], a[2], {camera}))"
    near = "it.zoomAt(it.FITTED, 3, a[0], a[1], a[2])"
    before = ask(page, "camera", under.format(camera="it.FITTED"), point, view, picture)
    after = ask(page, "camera", under.format(camera=near), point, view, picture)
    assert (after["x"], after["y"]) == pytest.approx((before["x"], before["y"]))
    far = f"it.panBy({near}, 1e6, -1e6, a[1], a[2])"
    corner = ask(page, "camera", f"it.placeIn(a[1], a[2], {far})", point, view, picture)
    assert corner["left"] == pytest.approx(0)
    assert corner["top"] + 480 * corner["scale"] == pytest.approx(600)
    back = ask(page, "camera", f"it.zoomAt({far}, 0.01, a[0], a[1], a[2])", point, view, picture)
    assert back == {"zoom": 1, "x": 0.5, "y": 0.5}


def test_threshold_contrast_heights_and_scale_are_those_of_numpy(page: Page) -> None:
    probability = np.arange(256)
    for threshold in (0.0, 0.1, 0.5, 0.9, 1.0):
        level = ask(page, "threshold", "it.levelOf(a[0])", threshold)
        assert ((probability >= level) == (probability / 255 >= threshold - 1e-9)).all()
    display, wanted = {"low": 100, "high": 1120}, {"low": 400, "high": 800}
    table = np.array(ask(page, "contrast", "it.greyTable(a[0], a[1])", display, wanted))
    counts = 100 + 4 * probability
    assert np.abs(table - np.clip(255 * (counts - 400) / 400, 0, 255)).max() <= 0.5
    codes = "new Uint16Array([0, 1, 32768, 65535])"
    heights = ask(page, "projections", f"it.toHeights({codes}, a[0])", {"low": -10, "high": 30})
    assert heights[1:] == pytest.approx([-10, 10, 30], abs=1e-3)
    assert heights[0] != heights[0], "not a number where no height is known"
    lengths = {0.07: 0.05, 0.2: 0.2, 1.99: 1, 37: 20, 50: 50, 999: 500}
    for most, length in lengths.items():
        assert ask(page, "scale", "it.roundLength(a[0])", most) == length


def test_best_is_only_called_reached_within_the_stack(page: Page) -> None:
    def best(fractions: list[float | None]) -> Any:
        points = [[z, {"z": z, "fraction": part}] for z, part in enumerate(fractions)]
        stack = "{ sizeZ: a[0].length, points: new Map(a[0]) }"
        return ask(page, "curves", f"it.findBest({stack})", points)

    assert best([None, None]) is None
    assert best([0.1, 0.3, 0.2])["z"] == 1
    assert not best([0.1, 0.3, 0.2])["beyond"]
    assert best([0.1, 0.2, 0.3])["beyond"]
    assert best([0.3, 0.2, 0.1])["beyond"]
    assert not best([0.1, 0.2, None])["complete"]
    assert not best([0.1, 0.2, None])["beyond"], "the stack may still get there"
    assert best([0.0, 0.0, 0.0])["nothing"]
