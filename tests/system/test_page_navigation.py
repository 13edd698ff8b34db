"""Going through z, time and earlier runs, and the curves, in headless Chromium."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Page, expect

from tests.system._page import SIZE_Z, SPEC, Daemon, show, show_stack
from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon


def test_curve_fills_in_and_marks_the_best_slice(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    curve = page.locator("#curve")
    expect(curve).to_have_attribute("data-points", str(SIZE_Z))
    expect(curve).to_have_attribute("data-scored", str(SIZE_Z))
    best = int(np.argmax(daemon.specimen.fractions))
    expect(curve).to_have_attribute("data-best-z", str(best))
    expect(page.locator("#best")).to_have_text(f"◆ best {1000 + 5 * best} µm")
    daemon.label()
    expect(curve).to_have_attribute("data-labelled", str(SIZE_Z))
    show(page, daemon, SIZE_Z)
    expect(curve).to_have_attribute("data-points", "1")
    expect(curve).to_have_attribute("data-before", "1")
    expect(page.locator("#best")).to_contain_text("best so far")


def test_focus_that_was_not_reached_is_said(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    for z in range(SIZE_Z):
        daemon.mask(z, fraction=z / 100)
        daemon.mask(SIZE_Z + z, fraction=0.0)
    daemon.take(0)
    best = page.locator("#best")
    expect(best).to_have_text("focus not reached? best at the end, 30 µm")
    daemon.take(SIZE_Z)
    expect(best).to_have_text("focus not reached: nothing in focus")


def test_slider_goes_to_earlier_slices_and_live_goes_on_behind(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    page.locator("#z-slider").fill("2")
    view = page.locator("#view")
    expect(view).to_have_attribute("data-z", "2")
    expect(view).to_have_attribute("data-mask-sequence", "2")
    expect(page.locator("#mode")).to_have_attribute("data-mode", "held")
    daemon.take(SIZE_Z)
    daemon.mask(SIZE_Z)
    expect(page.locator("#frames-masked")).to_have_text(str(SIZE_Z + 1))
    expect(view).to_have_attribute("data-z", "2")
    page.locator("#follow").click()
    expect(view).to_have_attribute("data-sequence", str(SIZE_Z))
    expect(page.locator("#mode")).to_have_attribute("data-mode", "live")


def test_keys_go_through_slices_and_back_to_live(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    view = page.locator("#view")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(view).to_have_attribute("data-z", str(SIZE_Z - 3))
    page.keyboard.press("ArrowRight")
    expect(view).to_have_attribute("data-z", str(SIZE_Z - 2))
    page.keyboard.press("Home")
    expect(view).to_have_attribute("data-z", "0")
    page.keyboard.press("b")
    expect(view).to_have_attribute("data-z", str(int(np.argmax(daemon.specimen.fractions))))
    page.keyboard.press("ArrowDown")
    expect(view).to_have_attribute("data-t", "1")
    page.keyboard.press(" ")
    expect(view).to_have_attribute("data-z", str(SIZE_Z - 1))
    expect(view).to_have_attribute("data-t", "0")


def test_click_on_the_curve_goes_to_that_slice(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    box = page.locator("#curve").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    expect(page.locator("#mode")).to_have_attribute("data-mode", "held")
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    expect(page.locator("#view")).to_have_attribute("data-z", "0")


def test_earlier_runs_are_looked_at_while_another_goes_on(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    show(page, daemon, 0)
    runs = page.locator("#run-select")
    runs.select_option("run-0")
    view = page.locator("#view")
    expect(view).to_have_attribute("data-run", "run-0")
    expect(page.locator("#run")).to_have_text("day 1")
    best = int(np.argmax(daemon.specimen.fractions))
    expect(view).to_have_attribute("data-z", str(best))
    expect(page.locator("#curve")).to_have_attribute("data-points", str(SIZE_Z))
    page.keyboard.press("PageDown")
    expect(view).to_have_attribute("data-image", "1")
    expect(page.locator("#image-select")).to_have_value("1")
    page.locator("#t-slider").fill("2")
    expect(view).to_have_attribute("data-t", "2")
    expect(page.locator("#curve")).to_have_attribute("data-before", "2")
    runs.select_option("")
    expect(view).to_have_attribute("data-run", "run-1")
    expect(page.locator("#run")).to_have_text("beads in gel")
