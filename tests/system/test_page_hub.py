"""The live slice, its mask and the connection, in headless Chromium against the page's server."""

from __future__ import annotations

import time

import numpy as np
from playwright.sync_api import Browser, Page, expect
from scipy import ndimage

from tests.system._page import (
    MODEL,
    SIZE_Z,
    SPEC,
    Daemon,
    Specimen,
    colourfulness,
    pixels,
    show,
    show_stack,
)
from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon


def test_page_waits_in_plain_words_before_the_first_slice(page: Page) -> None:
    expect(page.locator("#empty")).to_contain_text("Waiting for the first slice")
    expect(page.locator("#banner")).to_be_hidden()


def test_slice_and_overlay_change_as_the_stage_moves(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    show(page, daemon, 2)
    first = pixels(page)
    show(page, daemon, 3)
    second = pixels(page)
    assert np.abs(first.astype(int) - second).mean() > 1
    expect(page.locator("#view")).to_have_attribute("data-z", "3")
    expect(page.locator("#z-value")).to_have_text("1015")


def test_tint_lies_where_the_mask_is_and_nowhere_else(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    show(page, daemon, 2)
    mask = daemon.specimen.masks[2]
    inside = ndimage.binary_erosion(mask, iterations=8)[2::4, 2::4]
    outside = ~ndimage.binary_dilation(mask, iterations=8)[2::4, 2::4]
    colour = colourfulness(pixels(page))
    assert colour[inside].min() > 30
    assert colour[outside].max() < 8


def test_slice_is_shown_at_once_and_its_mask_when_it_comes(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    show(page, daemon, 1)
    daemon.take(2)
    expect(page.locator("#view")).to_have_attribute("data-sequence", "2")
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", "")
    expect(page.locator("#mask-note")).to_have_text("no mask of this slice yet")
    assert colourfulness(pixels(page)).max() < 8
    daemon.mask(2)
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", "2")


def test_late_masks_are_shown_with_their_own_slices(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    wrong = page.evaluate_handle(
        """() => {
          const wrong = [];
          const view = document.getElementById("view");
          new MutationObserver(() => {
            const { sequence, maskSequence } = view.dataset;
            if (maskSequence && maskSequence !== sequence) wrong.push([sequence, maskSequence]);
          }).observe(view, { attributes: true });
          return wrong;
        }"""
    )
    for n in range(2 * SIZE_Z):
        daemon.take(n)
        if n >= 2:
            daemon.mask(n - 2)
        time.sleep(0.1)
    for n in (2 * SIZE_Z - 2, 2 * SIZE_Z - 1):
        daemon.mask(n)
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", str(2 * SIZE_Z - 1))
    assert wrong.json_value() == []


def test_readings_are_the_daemons(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    expect(page.locator("#run")).to_have_text("beads in gel")
    expect(page.locator("#status")).to_have_text("acquiring")
    expect(page.locator("#model")).to_have_text(MODEL)
    expect(page.locator("#provider")).to_have_text("CPUExecutionProvider")
    expect(page.locator("#fps")).to_have_text("12.5")
    expect(page.locator("#to-disk")).to_have_text("8.3 ms p99 20.0")
    expect(page.locator("#to-mask")).to_have_text("41 ms p99 77")
    expect(page.locator("#frames-durable")).to_have_text(str(SIZE_Z))
    expect(page.locator("#place")).to_have_text("A1  ·  t 1/3  ·  BF")
    expect(page.locator("#scale-label")).to_have_text("20 µm")
    daemon.hub.note("warning", "The stage did not settle.")
    expect(page.locator("#notes")).to_contain_text("The stage did not settle.")


def test_lost_daemon_is_unmistakable_and_the_page_comes_back(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    daemon.stop()
    expect(page.locator("#banner")).to_be_visible()
    expect(page.locator("#banner")).to_contain_text("The daemon is gone")
    again = Daemon(daemon.specimen, port=daemon.port, pid=2)
    try:
        expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
        again.hub.run_started(SPEC)
        show(page, again, 3)
    finally:
        again.stop()


def test_silent_daemon_is_told_from_a_working_one(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    daemon.answers.clear()
    expect(page.locator("#banner")).to_contain_text("does not answer", timeout=10_000)
    daemon.answers.set()
    expect(page.locator("#banner")).to_be_hidden(timeout=10_000)


def test_slow_browser_gets_the_newest_slice_and_not_a_queue(page: Page, daemon: Daemon) -> None:
    shown = page.evaluate_handle(
        """() => {
          const shown = [];
          const view = document.getElementById("view");
          new MutationObserver(() => shown.push(Number(view.dataset.sequence)))
            .observe(view, { attributes: true, attributeFilter: ["data-sequence"] });
          return shown;
        }"""
    )
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 10})
    daemon.hub.run_started(SPEC)
    last = 3 * SIZE_Z - 1
    for n in range(last + 1):
        daemon.take(n)
        daemon.mask(n)
        time.sleep(0.02)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    view = page.locator("#view")
    expect(view).to_have_attribute("data-mask-sequence", str(last), timeout=10_000)
    drawn = sorted(set(shown.json_value()))
    # Two on their way when it began to lag, what it drew meanwhile, and the newest.
    assert len(drawn) <= 8
    assert drawn[-1] == last


def test_page_of_another_origin_can_neither_read_nor_watch(
    browser: Browser, daemon: Daemon, specimen: Specimen
) -> None:
    hostile = Daemon(specimen)
    page = browser.new_page()
    try:
        # Its own policy would already forbid this; a hostile page has none.
        page.route(
            hostile.address,
            lambda route: route.fulfill(body="<p>hostile</p>", content_type="text/html"),
        )
        page.goto(hostile.address)
        outcome = page.evaluate(
            """async (address) => {
              const asked = fetch(`${address}api/status`);
              const read = await asked.then((a) => a.text(), () => "refused");
              const socket = new WebSocket(`${address.replace("http", "ws")}ws`);
              const watched = await new Promise((resolve) => {
                socket.onopen = () => resolve("open");
                socket.onerror = () => resolve("refused");
              });
              return [read, watched];
            }""",
            daemon.address,
        )
        assert outcome == ["refused", "refused"]
    finally:
        page.close()
        hostile.stop()
