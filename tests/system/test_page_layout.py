"""The page at every size, in both themes, by keyboard and by name."""

from __future__ import annotations

import itertools
from typing import Any

from playwright.sync_api import Page, expect

from tests.system._page import Daemon, show, show_stack
from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon

_CUT_OFF = """() => {
  const boxes = "header, footer, .big, .counts, .health dd, .pill, output, .stage-bar, "
    + "button, dialog";
  return [...document.querySelectorAll(boxes)]
    .filter((box) => box.offsetParent && box.scrollWidth > box.clientWidth + 1)
    .map((box) => box.outerHTML.slice(0, 80));
}"""
_BOXES = """() => [...document.querySelectorAll(
    ".pane > select, .pane > .note, .scale, .bar, .stage-bar > *, footer button, footer label, "
    + "footer .two, #contrast-output, .actions button")]
  .filter((e) => e.checkVisibility() && e.offsetWidth)
  .filter((e) => e.children.length || e.textContent.trim())
  .map((e) => [e, e.getBoundingClientRect()])
  .map(([e, b]) => [e.id || e.className, b.left, b.top, b.right, b.bottom])"""
_CONTRAST = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
    const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return colour !== "rgba(0, 0, 0, 0)" || !e.parentElement ? colour : ground(e.parentElement);
  };
  const words = "header *, aside *, footer *, .stage-bar *";
  return [...document.querySelectorAll(words)]
    .filter((e) => e.checkVisibility() && !e.disabled && !(e instanceof SVGElement))
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
    .map((e) => {
      const [one, other] = [light(getComputedStyle(e).color), light(ground(e))].sort();
      return [e.id || e.className || e.outerHTML.slice(0, 60), (other + 0.05) / (one + 0.05)];
    })
    .filter(([, ratio]) => ratio < 4.5);
}"""


def overlaps(boxes: list[Any]) -> list[Any]:
    """Return the pairs of [name, left, top, right, bottom] that lie over each other."""
    return [
        (one, other)
        for one, other in itertools.combinations(boxes, 2)
        if one[1] < other[3] - 1 and other[1] < one[3] - 1
        if one[2] < other[4] - 1 and other[2] < one[4] - 1
    ]


def test_nothing_overlaps_or_is_cut_off(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    daemon.hub.note("warning", "The stage did not settle at 1015 µm within 2 s.")
    expect(page.locator("#notes li")).to_have_count(1)
    page.keyboard.press("4")
    for width, height in [(1024, 700), (1280, 800), (1920, 1080), (3840, 2160)]:
        page.set_viewport_size({"width": width, "height": height})
        for tab in ("focus", "health", "learning"):
            page.evaluate("id => document.getElementById(id).click()", f"tab-{tab}")
            assert page.evaluate(_CUT_OFF) == [], (width, tab)
            boxes = page.evaluate(_BOXES)
            assert len(boxes) > 15
            assert overlaps(boxes) == [], (width, tab)


def test_text_is_readable_in_both_themes_and_the_choice_is_kept(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert page.evaluate(_CONTRAST) == []
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) != dark
    page.emulate_media(color_scheme="dark")
    page.keyboard.press("t")
    light = page.evaluate(ground)
    assert light != dark
    for tab in ("focus", "health", "learning"):
        page.locator(f"#tab-{tab}").click()
        assert page.evaluate(_CONTRAST) == []
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-connection", "open")
    assert page.evaluate(ground) == light


def test_keys_are_listed_and_do_nothing_while_they_are(page: Page, daemon: Daemon) -> None:
    show(page, daemon, 2)
    page.keyboard.press("?")
    listed = page.locator("#key-list")
    expect(listed).to_contain_text("best slice of the stack")
    page.keyboard.press("m")
    expect(page.locator("#view")).to_have_attribute("data-mask-visible", "true")
    page.keyboard.press("Escape")
    expect(listed).to_be_hidden()
    page.keyboard.press("m")
    expect(page.locator("#view")).to_have_attribute("data-mask-visible", "false")


def test_everything_has_a_name_for_a_screen_reader(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, progress, canvas[role]")]
          .filter((e) => e.checkVisibility())
          .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.title || e.labels?.length))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    expect(page.locator("#view")).to_have_attribute("aria-label", "Slice and mask. Slice 7 of 7. "
        "provisional: stack not labelled yet")  # fmt: skip
    for role in ("#status", "#connection"):
        expect(page.locator(role)).to_have_attribute("role", "status")
