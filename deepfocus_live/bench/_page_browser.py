"""Chromium that looks at the live page and notes when each slice is on its canvas."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["BrowserMissingError", "drawn_at", "open_browser", "watching"]

_WINDOW = {"width": 1280, "height": 800}
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    *(f"--disable-{name}" for name in ("background-networking", "component-update", "sync", "gpu")),
)
# The canvas carries the number of the slice that was drawn on it last.
_NOTE = """() => {
    const view = document.querySelector("#view");
    window.benchDrawn = [];
    new MutationObserver(() => {
        const { run, sequence } = view.dataset;
        window.benchDrawn.push([run, Number(sequence), Date.now()]);
    }).observe(view, { attributeFilter: ["data-sequence"] });
}"""


class BrowserMissingError(RuntimeError):
    """There is no Playwright, or no Chromium for it."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Within this context there is a Chromium without a window.

    Raises
    ------
    BrowserMissingError
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise BrowserMissingError from error
    with sync_playwright() as playwright:
        try:
            # The system's own where there is one, else Playwright's.
            found = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(_FLAGS)
            )
        except Error as error:
            raise BrowserMissingError from error
        try:
            yield found
        finally:
            found.close()


@contextmanager
def watching(browser: Browser, address: str) -> Iterator[Page]:
    """Within this context a page watches, and notes what it draws."""
    page = browser.new_page(viewport=_WINDOW)  # type: ignore[arg-type]
    try:
        page.goto(address)
        page.wait_for_selector('body[data-connection="open"]')
        page.evaluate(_NOTE)
        yield page
    finally:
        page.close()


def drawn_at(page: Page) -> dict[int, float]:
    """Return when each slice of the newest run was first drawn, s since 1970, by its number."""
    noted: list[tuple[str, int, float]] = page.evaluate("() => window.benchDrawn")
    first: dict[int, float] = {}
    for run, number, at in noted:
        if run == noted[-1][0]:
            first.setdefault(number, at / 1000)
    return first
