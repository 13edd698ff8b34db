"""Take the pictures of the live page for the documentation, from a real run of the demo.

    python scripts/screenshots.py [STACK…] [-o docs/images]

Needs Playwright for Python and a Chromium of the system. Writes `page.png` and `page-….png`,
each with 256 colours, so that none is large.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

_STACKS = 60
_MOST_TRIES = 60
_SIZE: ViewportSize = {"width": 1280, "height": 800}
_MASKED_AT = """(z) => {
    const { sequence, maskSequence, z: shown, t } = document.querySelector("#view").dataset;
    return sequence === maskSequence && Number(shown) === z && Number(t) > 0;
}"""
_IN_VIEW = """() => {
    const { sequence, maskSequence } = document.querySelector("#view").dataset;
    return [sequence, maskSequence];
}"""
_STACK_IS_MADE = """() => {
    const bar = document.querySelector(".pane[data-kind=depth] .bar");
    return bar && !bar.hidden;
}"""


def main() -> None:
    """Run a demo, and take one picture after the other of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stacks", nargs="*", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with _demo(arguments.stacks) as address, _browser(address) as page:
        for name, take in _PICTURES.items():
            take(page)
            _save(page, arguments.output / f"{name}.png")
            print(arguments.output / f"{name}.png")


def _live(page: Page) -> None:
    page.wait_for_function(_MASKED_AT, arg=11, timeout=240_000, polling=20)


def _four_views(page: Page) -> None:
    page.keyboard.press("4")
    page.wait_for_function(_STACK_IS_MADE, timeout=120_000, polling=100)
    _hold(page)
    page.wait_for_timeout(2000)


def _zoomed(page: Page) -> None:
    page.keyboard.press("1")
    page.keyboard.press("o")
    page.locator("#threshold").fill("0.4")
    page.locator("#threshold").blur()
    box = page.locator("#view").bounding_box()
    if box is not None:
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.42 * box["height"])
        page.mouse.wheel(0, -500)
    page.wait_for_timeout(1500)


def _surface(page: Page) -> None:
    page.keyboard.press("0")
    page.keyboard.press("o")
    page.keyboard.press("\\")
    page.keyboard.press("3")
    page.wait_for_selector("#space-plot[data-drawn^=surface]", timeout=120_000)
    page.wait_for_timeout(2000)


def _volume(page: Page) -> None:
    page.locator("#space-volume").click()
    page.wait_for_selector("#space-plot[data-drawn^=volume]", timeout=120_000)
    page.locator("#tab-health").click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(2000)


def _light(page: Page) -> None:
    page.keyboard.press("1")
    page.keyboard.press("t")
    page.locator("#tab-learning").click()
    page.wait_for_timeout(1500)


def _hold(page: Page) -> None:
    """Stay at the best slice of a stack that is labelled."""
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(500)
    page.keyboard.press("b")


_PICTURES = {
    "page": _live,
    "page-views": _four_views,
    "page-zoom": _zoomed,
    "page-surface": _surface,
    "page-volume": _volume,
    "page-light": _light,
}


@contextmanager
def _demo(stacks: list[Path]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "deepfocus_live", "demo", *map(str, stacks)]
        command += ["--stacks", str(_STACKS), "--headless", "--exposure", "300"]
        with subprocess.Popen(
            [*command, "--output", folder], stdout=subprocess.PIPE, text=True
        ) as demo:
            found = None
            while found is None and demo.stdout is not None and demo.poll() is None:
                found = re.search(r"http://\S+", demo.stdout.readline())
            if found is None:
                sys.exit("the demo ended without naming its page")
            try:
                yield found.group()
            finally:
                demo.terminate()
                demo.wait(60)


@contextmanager
def _browser(address: str) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no `chromium` on the path")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport=_SIZE, color_scheme="dark")
        page.goto(address)
        yield page
        browser.close()


def _save(page: Page, path: Path) -> None:
    with Image.open(io.BytesIO(_screenshot(page))) as image:
        few = image.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def _screenshot(page: Page) -> bytes:
    """Return a picture during which no slice came or went, of a slice that has its mask."""
    for _ in range(_MOST_TRIES):
        before = page.evaluate(_IN_VIEW)
        picture = page.screenshot()
        if page.evaluate(_IN_VIEW) == before and before[0] == before[1]:
            break
    return picture


if __name__ == "__main__":
    main()
