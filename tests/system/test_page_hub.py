"""The page in headless Chromium, against its own server and real pictures."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect
from scipy import ndimage

from deepfocus_live.frames import (
    Calibration,
    ChannelSpec,
    FrameHeader,
    ImageSpec,
    Placement,
    RunSpec,
    StackKey,
)
from deepfocus_live.web import SERVER_OPTIONS, LiveHub, create_app

_SIZE_Z = 7
_SHAPE = (480, 640)
_MODEL = "default-0003"
_SPEC = RunSpec(
    run_id="run-1",
    name="beads in gel",
    height_px=_SHAPE[0],
    width_px=_SHAPE[1],
    dtype="uint16",
    images=(ImageSpec(name="A1", size_t=3, size_z=_SIZE_Z),),
    channels=(ChannelSpec(name="BF"),),
    pixel_size_um=Calibration(um=0.325, source="user"),
    z_step_um=Calibration(um=5.0, source="stage"),
    frames_expected=3 * _SIZE_Z,
)


class Specimen:
    """Discs at different depths: sharp at their own slice, blurred away from it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        rows, columns = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
        discs = []
        for _ in range(25):
            y, x, radius = rng.uniform(0, _SHAPE[0]), rng.uniform(0, _SHAPE[1]), rng.uniform(9, 26)
            inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            discs.append((inside, rng.normal(2.5, 1.2)))
        self.slices = [self._render(discs, z, rng) for z in range(_SIZE_Z)]
        self.masks = [self._in_focus(discs, z) for z in range(_SIZE_Z)]

    def _render(self, discs: list[Any], z: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        light = np.full(_SHAPE, 3000.0)
        for inside, depth in discs:
            blur = 0.7 + 2.5 * abs(z - depth)
            light *= 1 - 0.55 * ndimage.gaussian_filter(inside.astype(float), blur)
        return rng.poisson(light).astype(np.uint16)

    def _in_focus(self, discs: list[Any], z: int) -> NDArray[np.uint8]:
        near = [inside for inside, depth in discs if abs(z - depth) < 0.5]
        mask = np.any(near, axis=0) if near else np.zeros(_SHAPE, bool)
        return mask.astype(np.uint8)

    def read_slice(
        self, run_id: str, placement: Placement
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        if run_id != "run-1" or placement.z >= _SIZE_Z:
            raise KeyError(run_id)
        return self.slices[placement.z], self.masks[placement.z]


class Daemon:
    """What the page sees of a daemon: hub, source, status and uvicorn on a thread."""

    def __init__(self, specimen: Specimen, port: int = 0, pid: int = 1) -> None:
        self.hub = LiveHub()
        self.specimen = specimen
        self.pid = pid
        self.taken = 0
        self.masked = 0
        self.answers = threading.Event()
        self.answers.set()
        app = create_app(self.hub, specimen, status=self.status)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                port=port,
                log_config=None,
                timeout_graceful_shutdown=1,
                **SERVER_OPTIONS,
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self.hub.close()

    def status(self) -> dict[str, object]:
        self.answers.wait(20)
        return {
            "state": "acquiring",
            "pid": self.pid,
            "version": "0.1",
            "run": {
                "name": _SPEC.name,
                "frames_expected": _SPEC.frames_expected,
                "frames_received": self.taken,
                "frames_durable": self.taken,
                "frames_masked": self.masked,
            },
            "model": _MODEL,
            "provider": "CPUExecutionProvider",
            "frames_per_s": 12.5,
            "camera_to_durable_ms": {"p50": 8.25, "p99": 20.0},
            "camera_to_mask_ms": {"p50": 41.0, "p99": 77.0},
            "waiting": {"frames": 0, "masks": 0, "stacks": 0},
            "disk_free_bytes": 250_000_000_000,
            "warnings": [],
        }

    def take(self, n: int) -> None:
        t, z = divmod(n, _SIZE_Z)
        header = FrameHeader(
            run_id="run-1",
            sequence_number=n,
            index={"t": t, "z": z},
            height_px=_SHAPE[0],
            width_px=_SHAPE[1],
            dtype="uint16",
            z_um=1000.0 + 5 * z,
            taken_at=time.time(),
        )
        self.taken += 1
        self.hub.slice_taken(Placement(0, t, 0, z), header, self.specimen.slices[z])

    def mask(self, n: int) -> None:
        t, z = divmod(n, _SIZE_Z)
        mask = self.specimen.masks[z]
        self.masked += 1
        self.hub.mask_made(
            "run-1",
            Placement(0, t, 0, z),
            n,
            mask,
            in_focus_fraction=float(mask.mean()),
            focus_score=None,
            model=_MODEL,
            provider="CPUExecutionProvider",
            milliseconds=20.0,
            latency_ms=40.0,
        )


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return Specimen()


@pytest.fixture
def daemon(specimen: Specimen) -> Iterator[Daemon]:
    daemon = Daemon(specimen)
    yield daemon
    daemon.stop()


@pytest.fixture
def page(browser: Browser, daemon: Daemon) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: _note_problem(message.type, message.text, problems))
    page.goto(daemon.address)
    expect(page.locator("body")).to_have_attribute("data-connection", "open")
    yield page
    page.close()
    assert problems == []


def _note_problem(kind: str, text: str, problems: list[str]) -> None:
    # A refused connection is what a page sees of a daemon that is not there.
    if kind == "error" and "ERR_CONNECTION_REFUSED" not in text:
        problems.append(text)


def show(page: Page, daemon: Daemon, n: int) -> None:
    """Take slice `n` and wait until the page shows it with its mask."""
    daemon.take(n)
    expect(page.locator("#view")).to_have_attribute("data-sequence", str(n))
    daemon.mask(n)
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", str(n))


def show_stack(page: Page, daemon: Daemon, t: int = 0) -> None:
    if t == 0:
        daemon.hub.run_started(_SPEC)
    for z in range(_SIZE_Z):
        show(page, daemon, t * _SIZE_Z + z)


def pixels(page: Page) -> NDArray[np.uint8]:
    """Return the canvas as (Y, X, 3) uint8, a quarter as wide."""
    flat = page.evaluate(
        """() => {
          const view = document.getElementById("view");
          const small = document.createElement("canvas");
          small.width = view.width / 4;
          small.height = view.height / 4;
          const context = small.getContext("2d");
          context.drawImage(view, 0, 0, small.width, small.height);
          return Array.from(context.getImageData(0, 0, small.width, small.height).data);
        }"""
    )
    return np.array(flat, np.uint8).reshape(_SHAPE[0] // 4, _SHAPE[1] // 4, 4)[..., :3]


def colourfulness(image: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return how far each pixel is from grey."""
    return np.ptp(image.astype(np.int16), axis=2)


def test_page_waits_in_plain_words_before_the_first_slice(page: Page) -> None:
    expect(page.locator("#empty")).to_contain_text("Waiting for the first slice")
    expect(page.locator("#banner")).to_be_hidden()


def test_slice_and_overlay_change_as_the_stage_moves(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(_SPEC)
    show(page, daemon, 2)
    first = pixels(page)
    show(page, daemon, 3)
    second = pixels(page)
    assert np.abs(first.astype(int) - second).mean() > 1
    expect(page.locator("#view")).to_have_attribute("data-z", "3")
    expect(page.locator("#z-value")).to_have_text("1015")


def test_tint_lies_where_the_mask_is_and_nowhere_else(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(_SPEC)
    show(page, daemon, 2)
    mask = daemon.specimen.masks[2]
    inside = ndimage.binary_erosion(mask, iterations=8)[2::4, 2::4]
    outside = ~ndimage.binary_dilation(mask, iterations=8)[2::4, 2::4]
    colour = colourfulness(pixels(page))
    assert colour[inside].min() > 30
    assert colour[outside].max() < 8


def test_slice_is_shown_at_once_and_its_mask_when_it_comes(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(_SPEC)
    show(page, daemon, 1)
    daemon.take(2)
    expect(page.locator("#view")).to_have_attribute("data-sequence", "2")
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", "")
    expect(page.locator("#mask-note")).to_have_text("no mask of this slice yet")
    assert colourfulness(pixels(page)).max() < 8
    daemon.mask(2)
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", "2")


def test_late_masks_are_shown_with_their_own_slices(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(_SPEC)
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
    for n in range(2 * _SIZE_Z):
        daemon.take(n)
        if n >= 2:
            daemon.mask(n - 2)
        time.sleep(0.1)
    for n in (2 * _SIZE_Z - 2, 2 * _SIZE_Z - 1):
        daemon.mask(n)
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", str(2 * _SIZE_Z - 1))
    assert wrong.json_value() == []


def test_curve_fills_in_and_marks_the_best_slice(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    curve = page.locator("#curve")
    expect(curve).to_have_attribute("data-points", str(_SIZE_Z))
    best = int(np.argmax([mask.mean() for mask in daemon.specimen.masks]))
    expect(curve).to_have_attribute("data-best-z", str(best))
    expect(page.locator("#best")).to_have_text(f"◆ best {1000 + 5 * best} µm")
    daemon.hub.stack_labelled(StackKey("run-1", 0, 0, 0), [0.1] * _SIZE_Z)
    expect(curve).to_have_attribute("data-labelled", str(_SIZE_Z))


def test_focus_beyond_the_stack_is_said(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(_SPEC)
    for z in range(_SIZE_Z):
        daemon.hub.mask_made(
            "run-1",
            Placement(0, 0, 0, z),
            z,
            daemon.specimen.masks[z],
            in_focus_fraction=z / 100,
            focus_score=None,
            model=_MODEL,
            provider="CPU",
            milliseconds=1.0,
            latency_ms=1.0,
        )
    daemon.take(0)
    expect(page.locator("#best")).to_contain_text("focus not reached?")


def test_readings_are_the_daemons(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    expect(page.locator("#run")).to_have_text("beads in gel")
    expect(page.locator("#status")).to_have_text("acquiring")
    expect(page.locator("#model")).to_have_text(_MODEL)
    expect(page.locator("#provider")).to_have_text("CPUExecutionProvider")
    expect(page.locator("#fps")).to_have_text("12.5")
    expect(page.locator("#to-disk")).to_have_text("8.3 ms p99 20.0")
    expect(page.locator("#to-mask")).to_have_text("41 ms p99 77")
    expect(page.locator("#frames-durable")).to_have_text(str(_SIZE_Z))
    expect(page.locator("#place")).to_have_text("A1  ·  t 1/3  ·  BF")
    expect(page.locator("#scale-label")).to_have_text("20 µm")
    daemon.hub.note("warning", "The stage did not settle.")
    expect(page.locator("#notes")).to_contain_text("The stage did not settle.")


def test_slider_goes_to_earlier_slices_and_live_goes_on_behind(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    page.locator("#z-slider").fill("2")
    view = page.locator("#view")
    expect(view).to_have_attribute("data-z", "2")
    expect(view).to_have_attribute("data-mask-sequence", "2")
    expect(page.locator("#mode")).to_have_attribute("data-mode", "held")
    daemon.take(_SIZE_Z)
    daemon.mask(_SIZE_Z)
    expect(page.locator("#frames-masked")).to_have_text(str(_SIZE_Z + 1))
    expect(view).to_have_attribute("data-z", "2")
    page.locator("#follow").click()
    expect(view).to_have_attribute("data-sequence", str(_SIZE_Z))
    expect(page.locator("#mode")).to_have_attribute("data-mode", "live")


def test_keys_step_through_slices_follow_live_and_hide_the_mask(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    view = page.locator("#view")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(view).to_have_attribute("data-z", str(_SIZE_Z - 3))
    page.keyboard.press("ArrowRight")
    expect(view).to_have_attribute("data-z", str(_SIZE_Z - 2))
    page.keyboard.press(" ")
    expect(view).to_have_attribute("data-z", str(_SIZE_Z - 1))
    page.keyboard.press("m")
    expect(view).to_have_attribute("data-mask-visible", "false")
    assert colourfulness(pixels(page)).max() < 8
    expect(page.locator("#mask-note")).to_have_text("mask hidden")
    page.keyboard.press("m")
    expect(view).to_have_attribute("data-mask-visible", "true")


def test_click_on_the_curve_goes_to_that_slice(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    box = page.locator("#curve").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    expect(page.locator("#mode")).to_have_attribute("data-mode", "held")
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    expect(page.locator("#view")).to_have_attribute("data-z", "0")


def test_opacity_acts_on_the_slice_in_view(page: Page, daemon: Daemon) -> None:
    daemon.hub.run_started(_SPEC)
    show(page, daemon, 2)
    strong = colourfulness(pixels(page)).sum()
    page.locator("#opacity").fill("10")
    assert colourfulness(pixels(page)).sum() < 0.5 * strong
    expect(page.locator("#opacity-output")).to_have_text("10 %")


def test_lost_daemon_is_unmistakable_and_the_page_comes_back(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    daemon.stop()
    expect(page.locator("#banner")).to_be_visible()
    expect(page.locator("#banner")).to_contain_text("The daemon is gone")
    again = Daemon(daemon.specimen, port=daemon.port, pid=2)
    try:
        expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
        again.hub.run_started(_SPEC)
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
    daemon.hub.run_started(_SPEC)
    last = 3 * _SIZE_Z - 1
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


@pytest.mark.parametrize("size", [(1024, 700), (1280, 800), (1920, 1080), (3840, 2160)])
def test_nothing_overlaps_or_is_cut_off(page: Page, daemon: Daemon, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show_stack(page, daemon)
    cut = page.evaluate(
        """() => {
          const boxes = "header, footer, .big, .counts, .health dd, .pill, button, output";
          return [...document.querySelectorAll(boxes)]
            .filter((box) => box.offsetParent && box.scrollWidth > box.clientWidth + 1)
            .map((box) => box.outerHTML.slice(0, 80));
        }"""
    )
    assert cut == []
    chips = page.evaluate(
        """() => [...document.querySelectorAll(".chip, .scale")].filter((e) => e.offsetParent)
          .map((e) => e.getBoundingClientRect()).map((b) => [b.left, b.top, b.right, b.bottom])"""
    )
    for n, one in enumerate(chips):
        for other in chips[n + 1 :]:
            beside = one[2] <= other[0] or other[2] <= one[0]
            apart = beside or one[3] <= other[1] or other[3] <= one[1]
            assert apart, json.dumps([one, other])
