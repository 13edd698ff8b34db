"""What the page has the daemon do, and what it tells of health and learning."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.system._page import SPEC, Daemon, show
from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon


def test_actions_are_confirmed_sent_and_answered(page: Page, daemon: Daemon) -> None:
    page.locator("#tab-health").click()
    page.locator("#pause-masks").click()
    page.locator("#ask-no").click()
    assert daemon.acts.done == []
    page.locator("#pause-masks").click()
    expect(page.locator("#ask-text")).to_contain_text("Slices are stored as before")
    page.locator("#ask-yes").click()
    expect(page.locator("#answer")).to_have_text("done: pause-masks")
    expect(page.locator("#pause-masks")).to_have_text("Resume masks")
    expect(page.locator("#status")).to_contain_text("masks paused")
    page.locator("#pause-masks").click()
    expect(page.locator("#answer")).to_have_text("done: resume-masks")
    page.locator("#stop-after-run").click()
    page.keyboard.press("Escape")
    page.locator("#tab-learning").click()
    for button in ("#rollback", "#models button"):
        page.locator(button).click()
        page.locator("#ask-yes").click()
        expect(page.locator("#ask")).to_be_hidden()
    page.locator("#choose-profile").select_option("fluorescence")
    page.locator("#ask-yes").click()
    expect(page.locator("#answer")).to_have_text("done: choose-profile")
    assert daemon.acts.done == [
        ("pause-masks",),
        ("resume-masks",),
        ("rollback", "default"),
        ("use-model", "shipped-1", "default"),
        ("choose-profile", "fluorescence"),
    ]


def test_what_cannot_be_done_is_said(page: Page, daemon: Daemon) -> None:
    page.locator("#tab-learning").click()
    page.locator("#retrain").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#answer")).to_have_text("No stack is labelled yet.")
    expect(page.locator("#answer")).to_have_attribute("data-ok", "false")


def test_actions_go_on_with_a_daemon_that_was_started_anew(page: Page, daemon: Daemon) -> None:
    daemon.stop()
    expect(page.locator("#banner")).to_be_visible()
    again = Daemon(daemon.specimen, port=daemon.port, pid=2)
    try:
        expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
        page.locator("#tab-health").click()
        page.locator("#pause-masks").click()
        page.locator("#ask-yes").click()
        expect(page.locator("#answer")).to_have_text("done: pause-masks")
    finally:
        again.stop()


def test_health_and_learning_are_the_daemons(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(SPEC)
    show(page, daemon, 2)
    page.locator("#tab-health").click()
    readings = {
        "fps": "12.5",
        "to-disk": "8.3 ms p99 20.0",
        "to-mask": "41 ms p99 77",
        "mask-share": "51 % p50",
        "ring-fill": "13 %",
        "disk": "250 GB",
        "disk-time": "90 min",
        "provider": "CPUExecutionProvider",
        "clipped-part": "0.0 %",
    }
    for name, text in readings.items():
        expect(page.locator(f"#{name}")).to_have_text(text)
    page.locator("#tab-learning").click()
    expect(page.locator("#trust")).to_have_text("checked on 12 stacks")
    expect(page.locator("#agreement")).to_have_attribute("data-points", "3")
    expect(page.locator("#trainer-text")).to_contain_text("Learning now")
    expect(page.locator("#trainer-figures")).to_contain_text("0.321")
    expect(page.locator("#models li")).to_have_count(2)
