"""The 3-D view, drawn by Plotly in headless Chromium."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Page, expect

from tests.system._page import Daemon, show_stack
from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon


def colours(page: Page) -> int:
    """Return how many colours the plot is drawn in."""
    with Image.open(io.BytesIO(page.locator("#space-plot").screenshot())) as image:
        return len(image.convert("RGB").getcolors(1 << 24) or [])


def test_surface_and_volume_of_a_stack_are_drawn(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    assert page.evaluate("() => typeof Plotly") == "undefined", "loaded only when looked at"
    page.keyboard.press("3")
    expect(page.locator("#space-plot[data-drawn^=surface]")).to_be_visible(timeout=60_000)
    expect(page.locator("#space-note")).to_contain_text("height known for")
    heights = page.evaluate(
        "() => document.getElementById('space-plot').data[0].z.flat().filter((z) => z !== null)"
    )
    assert colours(page) > 50, "only the empty plot is drawn"
    assert len(heights) > 500
    assert 1000 <= min(heights) < max(heights) <= 1030
    page.locator("#space-volume").click()
    expect(page.locator("#space-plot[data-drawn^=volume]")).to_be_visible(timeout=60_000)
    assert colours(page) > 50, "only the empty plot is drawn"
    page.keyboard.press("3")
    expect(page.locator("#view")).to_be_visible()


def test_without_webgl_the_page_says_so(page: Page, daemon: Daemon) -> None:
    page.evaluate(
        """() => {
          const own = HTMLCanvasElement.prototype.getContext;
          HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
            return kind.startsWith("webgl") ? null : own.call(this, kind, ...more);
          };
        }"""
    )
    show_stack(page, daemon)
    page.locator("#space").click()
    expect(page.locator("#space-note")).to_contain_text("WebGL")
