"""The live page while a demo runs, in headless Chromium."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Page

_SEEN = """() => {
    const view = document.querySelector('#view');
    return [view.dataset.sequence, view.dataset.maskSequence, view.toDataURL().length];
}"""

_MASK_CAN_BE_SEEN = """() => {
    const view = document.querySelector('#view');
    const press = () => document.dispatchEvent(new KeyboardEvent('keydown', { key: 'm' }));
    const withMask = view.toDataURL();
    press();
    const off = document.querySelector('#mask-toggle').ariaPressed === 'false';
    const without = view.toDataURL();
    press();
    return off && withMask !== without && view.toDataURL() === withMask;
}"""


def _wait_for_page(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://\S+", line)
        if found:
            return found.group()
    raise AssertionError("the demo ended without naming its page")


def _watch(page: Page, process: subprocess.Popen[str]) -> set[tuple[str, str]]:
    """Return every (slice, mask) pair that the canvas said it showed until the demo ended."""
    seen = set()
    while process.poll() is None:
        sequence, mask_sequence, _ = page.evaluate(_SEEN)
        if sequence and mask_sequence:
            seen.add((sequence, mask_sequence))
        time.sleep(0.03)
    return seen


def test_slice_and_overlay_change_while_a_demo_runs(browser: Browser, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepfocus_live", "demo", "--stacks", "2", "--headless"]
    with subprocess.Popen(
        [*command, "--exposure", "250", "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(_wait_for_page(process))
        page.wait_for_selector("#view[data-mask-sequence]", timeout=60_000)
        first = page.screenshot()
        # One script, so that no slice can come between; some slices have nothing to show.
        page.wait_for_function(_MASK_CAN_BE_SEEN)
        seen = _watch(page, process)
        last = page.screenshot()
        page.close()
        assert process.stdout is not None
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert "slices stored 42 of 42, masks 42, stacks labelled 2" in rest
    slices, masks = {slice_ for slice_, _ in seen}, {mask for _, mask in seen}
    # How many of the 42 is for `bench page`: a browser on a busy machine draws few.
    assert len(slices) > 4, f"the page showed only slices {slices}"
    assert len(masks) > 4, f"the page showed only masks {masks}"
    assert all(slice_ == mask for slice_, mask in seen), "a mask lay over a slice not its own"
    assert first != last
