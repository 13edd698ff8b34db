"""Real parts for the system tests: a daemon of their own, and the C++ DemoCamera."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from pymmcore_plus import CMMCorePlus

from deepfocus_live._platform import RUNTIME_DIR_VARIABLE
from deepfocus_live.ring import DaemonAddress, leftover_rings, private_daemon
from tests.until_killed import load_demo_camera


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonAddress]:
    """A daemon of this test's own; when the test ends it is gone, and has left no ring."""
    with private_daemon(tmp_path) as address:
        yield address
        rings = leftover_rings()
    assert not rings, "every ring is removed with its attachment"


@pytest.fixture
def mm_config() -> Path:
    """The configuration of the DemoCamera that `mm-test-adapters` brings."""
    adapters = pytest.importorskip("mm_test_adapters")
    return Path(str(adapters.device_adapter_path())) / "MMConfig_demo.cfg"


@pytest.fixture
def demo_core(mm_config: Path) -> CMMCorePlus:
    """A core with the C++ DemoCamera, 512 × 512, 16 bit."""
    return load_demo_camera(mm_config)


@pytest.fixture
def own_environment(tmp_path: Path, mm_config: Path) -> dict[str, str]:
    """The environment of a child process that must find neither our daemon nor the user's."""
    return {
        **os.environ,
        RUNTIME_DIR_VARIABLE: str(tmp_path / "runtime"),
        "MICROMANAGER_PATH": str(mm_config.parent),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the system, without a window and without a word to the outside."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no `chromium` on the path")
    quiet = ("background-networking", "component-update", "sync", "gpu")
    flags = [
        *(f"--disable-{name}" for name in quiet),
        "--headless",
        "--no-sandbox",
        "--no-first-run",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()
