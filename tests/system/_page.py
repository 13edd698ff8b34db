"""A daemon as the page sees it: hub, application and uvicorn, around a specimen that is known."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image
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
from deepfocus_live.web import (
    SERVER_OPTIONS,
    InFocusVolume,
    LiveHub,
    NotPossibleError,
    Outcome,
    Progress,
    Projection,
    StoredSlice,
    create_app,
)

SIZE_Z = 7
SHAPE = (480, 640)
MODEL = "default-0003"
THRESHOLD = 0.5
CLIPPED_Z = 4
SPEC = RunSpec(
    run_id="run-1",
    name="beads in gel",
    height_px=SHAPE[0],
    width_px=SHAPE[1],
    dtype="uint16",
    bits_per_sample=12,
    images=(ImageSpec(name="A1", size_t=3, size_z=SIZE_Z),),
    channels=(ChannelSpec(name="BF"),),
    profile="default",
    pixel_size_um=Calibration(um=0.325, source="user"),
    z_step_um=Calibration(um=5.0, source="stage"),
    frames_expected=3 * SIZE_Z,
)


EARLIER = SPEC.model_copy(
    update={
        "run_id": "run-0",
        "images": tuple(ImageSpec(name=name, size_t=3, size_z=SIZE_Z) for name in ("A1", "A2")),
    }
)


def height_um(z: int) -> float:
    return 1000.0 + 5 * z


class Specimen:
    """Discs at different depths: sharp at their own slice, blurred away from it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
        discs = []
        for _ in range(25):
            y, x, radius = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1]), rng.uniform(9, 26)
            discs.append((radius - np.hypot(rows - y, columns - x), rng.normal(2.5, 1.2)))
        self.slices = [self._render(discs, z, rng) for z in range(SIZE_Z)]
        self.slices[CLIPPED_Z][100:106, 200:206] = 4095
        self.masks = [self._in_focus(discs, z) for z in range(SIZE_Z)]
        self.undecided = [self._around(mask) for mask in self.masks]
        # Half as fine as the slice; reaches a half at the mask's edge.
        self.probabilities = [
            (255 * ndimage.gaussian_filter(mask[::2, ::2].astype(np.float32), 3)).astype(np.uint8)
            for mask in self.masks
        ]
        self.depth = np.full(SHAPE, np.nan, np.float32)
        for within, depth in discs:
            self.depth[within > 0] = 5 * np.clip(depth, 0, SIZE_Z - 1) + 1000

    def _render(self, discs: list[Any], z: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        light = np.full(SHAPE, 3000, np.float32)
        for within, depth in discs:
            blur = 0.7 + 2.5 * abs(z - depth)
            light *= 1 - 0.55 * np.clip(0.5 + within / (3 * blur), 0, 1)
        return (light + rng.normal(0, 50, SHAPE)).astype(np.uint16)

    def _in_focus(self, discs: list[Any], z: int) -> NDArray[np.uint8]:
        mask = np.zeros(SHAPE, np.uint8)
        for within, depth in discs:
            if abs(z - depth) < 0.5:
                mask |= within > 0
        return mask

    def _around(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        away = ndimage.distance_transform_edt(mask == 0) if mask.any() else np.zeros(SHAPE)
        return ((away > 5) & (away < 16)).astype(np.uint8)

    def read_slice(self, run_id: str, placement: Placement) -> StoredSlice:
        if run_id not in ("run-1", "run-0") or placement.z >= SIZE_Z:
            raise KeyError(run_id)
        z = placement.z
        return StoredSlice(
            self.slices[z],
            mask=self.masks[z],
            probability=self.probabilities[z],
            threshold=THRESHOLD,
            undecided=self.undecided[z],
            labelled=True,
            z_um=height_um(z),
            spec=SPEC if run_id == "run-1" else EARLIER,
        )

    @property
    def fractions(self) -> list[float]:
        return [float(mask.mean()) for mask in self.masks]


class Archive:
    """Runs, views and models that the page can ask for."""

    def __init__(self, specimen: Specimen) -> None:
        self._specimen = specimen
        self.whole = True
        self.refusal: str | None = None
        self.warning: str | None = None

    def read_slice(self, run_id: str, placement: Placement) -> StoredSlice:
        return self._specimen.read_slice(run_id, placement)

    def list_runs(self) -> list[dict[str, Any]]:
        return [
            _told_run("run-1", "beads in gel", "open"),
            _told_run("run-0", "day 1", "completed"),
        ]

    def describe_run(self, run_id: str) -> dict[str, Any]:
        runs = {run["id"]: run for run in self.list_runs()}
        values = self._specimen.fractions
        stacks = [
            {
                "image": image,
                "t": t,
                "c": 0,
                "z": list(range(SIZE_Z)),
                "z_um": [height_um(z) for z in range(SIZE_Z)],
                "in_focus_fraction": values,
                "focus_score": [10 * value for value in values],
                "labelled_fraction": values,
                "labelled": True,
                "best_z": int(np.argmax(values)),
            }
            for t in range(3)
            for image in range(2)
        ]
        agreement = [
            {"image": 0, "t": t, "c": 0, "iou": 0.8 + 0.05 * t, "decided": 0.9, "model": MODEL}
            for t in range(3)
        ]
        found = runs[run_id]
        return {**found, "frames": 6 * SIZE_Z, "stacks": stacks, "agreement": agreement}

    def store_of(self, run_id: str) -> Any:
        raise KeyError(run_id)

    def get(self, kind: str, key: StackKey) -> Projection | InFocusVolume | Progress:
        if self.refusal is not None:
            raise NotPossibleError(self.refusal)
        if not self.whole:
            return Progress(0.25)
        return self._projection() if kind == "projection" else self._volume()

    def _projection(self) -> Projection:
        return Projection(
            image=np.min(self._specimen.slices, axis=0),
            depth=self._specimen.depth[::4, ::4],
            block_px=4,
            factor=1,
            full_shape=SHAPE,
            low=height_um(0),
            high=height_um(SIZE_Z - 1),
            unit="µm",
            measured=True,
            pixel_um=0.325,
        )

    def _volume(self) -> InFocusVolume:
        pixels = np.stack([slice_[::8, ::8] for slice_ in self._specimen.slices])
        masks = np.stack([mask[::8, ::8] for mask in self._specimen.masks])
        voxels = np.where(masks, 1 + pixels // 20, 0).clip(0, 255).astype(np.uint8)
        heights = tuple(height_um(z) for z in range(SIZE_Z))
        return InFocusVolume(voxels, heights, 8 * 0.325, 0, 4000, "in_focus")

    def models(self) -> dict[str, Any]:
        def version(name: str, **more: Any) -> dict[str, Any]:
            plain = {"parent": None, "created": None, "shipped": False, "current": False}
            return {"name": name, **plain, "gate": None, "metrics": {}, **more}

        gate = {"passed": True, "text": "passed: IoU 0.84, was 0.81"}
        trust = {"state": "checked", "text": "checked on 12 stacks", "stacks": 12, "iou": 0.83}
        default = {
            "name": "default",
            "current": MODEL,
            "warning": self.warning,
            "trust": trust,
            "can_roll_back": True,
            "versions": [
                version(MODEL, parent="shipped-1", current=True, gate=gate),
                version("shipped-1", shipped=True),
            ],
        }
        fluorescence = {**default, "name": "fluorescence", "versions": []}
        return {"profiles": [default, fluorescence]}


def _told_run(run_id: str, name: str, state: str) -> dict[str, Any]:
    return {
        "id": run_id,
        "name": name,
        "started": "2026-03-01T09:15:02+01:00",
        "state": state,
        "here": True,
        "height_px": SHAPE[0],
        "width_px": SHAPE[1],
        "dtype": "uint16",
        "colour": False,
        "images": [{"name": name, "size_t": 3, "size_z": SIZE_Z} for name in ("A1", "A2")],
        "channels": [{"name": "BF", "profile": "default"}],
        "pixel_size_um": {"um": 0.325, "source": "user"},
        "z_step_um": {"um": 5.0, "source": "stage"},
        "pixels_stored": True,
        "volume": None,
    }


class Acts:
    """Notes what it was asked to do."""

    available = (
        "pause-masks",
        "resume-masks",
        "retrain",
        "use-model",
        "rollback",
        "choose-profile",
        "stop-after-run",
    )

    def __init__(self) -> None:
        self.done: list[tuple[str | None, ...]] = []
        self.paused = False

    def _note(self, *what: str | None) -> Outcome:
        self.done.append(what)
        return Outcome(True, f"done: {what[0]}")

    def pause_masks(self) -> Outcome:
        self.paused = True
        return self._note("pause-masks")

    def resume_masks(self) -> Outcome:
        self.paused = False
        return self._note("resume-masks")

    def retrain(self, profile: str) -> Outcome:
        self.done.append(("retrain", profile))
        return Outcome(False, "No stack is labelled yet.")

    def use_model(self, name: str, profile: str) -> Outcome:
        return self._note("use-model", name, profile)

    def rollback(self, profile: str) -> Outcome:
        return self._note("rollback", profile)

    def choose_profile(self, profile: str | None) -> Outcome:
        return self._note("choose-profile", profile)

    def stop_after_run(self) -> Outcome:
        return self._note("stop-after-run")


class Daemon:
    """What the page sees of a daemon: hub, source, status and uvicorn on a thread."""

    def __init__(self, specimen: Specimen, port: int = 0, pid: int = 1) -> None:
        self.hub = LiveHub()
        self.specimen = specimen
        self.archive = Archive(specimen)
        self.acts = Acts()
        self.pid = pid
        self.taken = 0
        self.masked = 0
        self.answers = threading.Event()
        self.answers.set()
        app = create_app(
            self.hub,
            self.archive,
            status=self.status,
            runs=self.archive,
            views=self.archive,
            models=self.archive.models,
            actions=self.acts,
        )
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
                "name": SPEC.name,
                "frames_expected": SPEC.frames_expected,
                "frames_received": self.taken,
                "frames_durable": self.taken,
                "frames_masked": self.masked,
            },
            "forecast": {"bytes_free": 250_000_000_000, "fits": True, "full_in_s": 5400},
            "model": MODEL,
            "provider": "CPUExecutionProvider",
            "frames_per_s": 12.5,
            "camera_to_durable_ms": {"p50": 8.25, "p99": 20.0},
            "camera_to_mask_ms": {"p50": 41.0, "p99": 77.0},
            "waiting": {"frames": 0, "masks": 0, "stacks": 0},
            "ring_fill": 0.125,
            "masks_paused": self.acts.paused,
            "learning": {
                "on": True,
                "swap": "between-runs",
                "trainer": {
                    "running": True,
                    "profile": "default",
                    "progress": {"done": 0.4, "loss": 0.321, "iou": 0.8, "message": None},
                },
                "profiles": [{"name": "default", "agreement_series": [0.7, 0.8]}],
            },
            "disk_free_bytes": 250_000_000_000,
            "warnings": [],
        }

    def take(self, n: int) -> None:
        t, z = divmod(n, SIZE_Z)
        header = FrameHeader(
            run_id="run-1",
            sequence_number=n,
            index={"t": t, "z": z},
            height_px=SHAPE[0],
            width_px=SHAPE[1],
            dtype="uint16",
            z_um=height_um(z),
            taken_at=time.time(),
        )
        self.taken += 1
        self.hub.slice_taken(Placement(0, t, 0, z), header, self.specimen.slices[z])

    def mask(self, n: int, fraction: float | None = None) -> None:
        """Tell of the mask of slice `n`; `fraction` in place of its own."""
        t, z = divmod(n, SIZE_Z)
        mask = self.specimen.masks[z]
        self.masked += 1
        own = float(mask.mean()) if fraction is None else fraction
        self.hub.mask_made(
            "run-1",
            Placement(0, t, 0, z),
            n,
            mask,
            in_focus_fraction=own,
            focus_score=3 + 10 * own,
            model=MODEL,
            provider="CPUExecutionProvider",
            milliseconds=20.0,
            latency_ms=40.0,
            probability=self.specimen.probabilities[z],
            threshold=THRESHOLD,
        )

    def label(self, t: int = 0) -> None:
        self.hub.stack_labelled(StackKey("run-1", 0, t, 0), self.specimen.fractions)


@cache
def _specimen() -> Specimen:
    return Specimen()


@pytest.fixture(name="specimen")
def make_specimen() -> Specimen:
    """The one specimen of this process: nobody changes it."""
    return _specimen()


@pytest.fixture(name="daemon")
def start_daemon(specimen: Specimen) -> Iterator[Daemon]:
    daemon = Daemon(specimen)
    yield daemon
    daemon.stop()


@pytest.fixture(name="page")
def open_page(browser: Browser, daemon: Daemon) -> Iterator[Page]:
    """A page that is connected; what its console complains of fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: _note_problem(message.type, message.text, problems))
    page.goto(daemon.address)
    expect(page.locator("body")).to_have_attribute("data-connection", "open")
    yield page
    page.close()
    assert problems == []


def _note_problem(kind: str, text: str, problems: list[str]) -> None:
    # A daemon that is not there, one that cannot do something now, and the styles
    # of Plotly's maps, which the page neither needs nor lets in.
    expected = ("ERR_CONNECTION_REFUSED", "409 (Conflict)", "Applying inline style")
    if kind == "error" and not any(words in text for words in expected):
        problems.append(text)


def show(page: Page, daemon: Daemon, n: int) -> None:
    """Take slice `n` and wait until the page shows it with its mask."""
    daemon.take(n)
    expect(page.locator("#view")).to_have_attribute("data-sequence", str(n))
    daemon.mask(n)
    expect(page.locator("#view")).to_have_attribute("data-mask-sequence", str(n))


def show_stack(page: Page, daemon: Daemon) -> None:
    """Take the first stack of the run, and wait until the page shows its last mask."""
    daemon.hub.run_started(SPEC)
    for z in range(SIZE_Z - 1):
        daemon.take(z)
        daemon.mask(z)
    show(page, daemon, SIZE_Z - 1)


def pixels(page: Page, view: str = "view") -> NDArray[np.uint8]:
    """Return what a view shows of the slice, fitted, as (Y, X, 3) uint8, a quarter as wide."""
    url = page.evaluate(
        """([id, width, height]) => {
          const view = document.getElementById(id);
          const scale = Math.min(view.width / width, view.height / height);
          const [w, h] = [width * scale, height * scale];
          const small = document.createElement("canvas");
          small.width = width / 4;
          small.height = height / 4;
          const context = small.getContext("2d");
          const corner = [(view.width - w) / 2, (view.height - h) / 2];
          context.drawImage(view, ...corner, w, h, 0, 0, small.width, small.height);
          return small.toDataURL("image/png");
        }""",
        [view, SHAPE[1], SHAPE[0]],
    )
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.array(image.convert("RGB"))


def colourfulness(image: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return how far each pixel is from grey."""
    return np.asarray(np.ptp(image.astype(np.int16), axis=2), np.int16)
