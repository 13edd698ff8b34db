"""Take the README's picture of the live page, from a real run of the demo.

    python scripts/picture_of_page.py [STACK…] [-o docs/images/page.png]

Needs Playwright for Python and a Chromium of the system.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

READY = """() => {
    const view = document.querySelector('#view');
    return view.dataset.sequence === view.dataset.maskSequence
        && Number(view.dataset.sequence) % 21 === 11 && Number(view.dataset.sequence) > 21;
}"""


def main() -> None:
    """Run a demo, wait for the middle of a scan, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stacks", nargs="*", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/page.png"))
    arguments = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no `chromium` on the path")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deepfocus_live", "demo", *map(str, arguments.stacks)]
        command += ["--stacks", "3", "--headless", "--exposure", "300", "--output", folder]
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with demo, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium,
                args=["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"],
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            found = None
            while found is None and demo.stdout is not None:
                found = re.search(r"http://\S+", demo.stdout.readline())
            page.goto(found.group() if found else "")
            page.wait_for_function(READY, timeout=120_000, polling=20)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=arguments.output)
            browser.close()
    print(arguments.output)


if __name__ == "__main__":
    main()
