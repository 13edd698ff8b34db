"""What the page reads beside the news: slices, pixels, views of stacks, runs, figures."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.routing import Route, WebSocketRoute

from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.web import (
    ACTIONS,
    Health,
    InFocusVolume,
    LiveHub,
    NotPossibleError,
    Progress,
    Projection,
    ViewKind,
    VolumeServer,
    create_app,
    unpack_message,
)
from deepfocus_live.web._metrics import metrics_text
from deepfocus_live.web._views import scale_depth
from tests.page import SPEC, Served, Stored

_DOCS = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def idle() -> Iterator[Served]:
    """Serve for tests that only ask and leave nothing behind."""
    served = Served(runs=Listed(), views=Views(), models=lambda: {"profiles": [float("nan")]})
    served.start()
    yield served
    served.stop()


class Listed(Stored):
    """A `RunSource` of one run."""

    def list_runs(self) -> list[dict[str, Any]]:
        return [{"id": "run-1", "pixels_stored": True, "started": float("inf")}]

    def describe_run(self, run_id: str) -> dict[str, Any]:
        return {**{run["id"]: run for run in self.list_runs()}[run_id], "stacks": []}

    def store_of(self, run_id: str) -> Path:
        raise KeyError(run_id)


class Views:
    """`StackViews`: what comes of a stack is told by its t."""

    def get(self, kind: ViewKind, key: StackKey) -> Projection | InFocusVolume | Progress:
        if key.t == 1:
            return Progress(None)
        if key.t == 2:
            return Progress(1 / 3)
        if key.t == 3:
            raise NotPossibleError("2 of 5 slices of this stack are stored.")
        if key.t > 3:
            raise KeyError(str(key))
        if kind == "volume":
            voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
            return InFocusVolume(voxels, (1.0, 3.0), 2.5, 100.0, 900.0, "in_focus")
        depth = np.array([[1, 2], [np.nan, 3]], np.float32)
        image = np.linspace(100, 4000, 64 * 80).reshape(64, 80).astype(np.uint16)
        return Projection(image, depth, 40, 2, (128, 160), 1.0, 3.0, "µm", True, 0.65)


# Slices and pixels ------------------------------------------------------------


def test_earlier_slice_comes_with_its_mask(served: Served) -> None:
    served.hub.run_started(SPEC)
    answer = served.get("/api/slice?run=run-1&image=0&t=1&c=0&z=2")
    header, parts = unpack_message(answer.content)
    assert served.source.asked == [("run-1", Placement(0, 1, 0, 2))]
    assert (header["kind"], header["t"], header["z"], header["z_um"]) == ("stored", 1, 2, 4.0)
    assert header["mask"]["in_focus_fraction"] == 0.5
    assert (header["threshold"], header["probability_factor"]) == (0.65, 4)
    assert (header["provisional"], set(parts)) == (True, {"picture", "mask", "probability"})
    assert header["display"]["max_counts"] == 65535
    assert parts["picture"][:2] == b"\xff\xd8"
    assert parts["mask"][:4] == b"\x89PNG"


def test_slice_of_a_labelled_stack_comes_with_what_is_undecided(idle: Served) -> None:
    header, parts = unpack_message(idle.get("/api/slice?run=run-1&z=3").content)
    assert (header["provisional"], header["z_um"]) == (False, 50.0)
    assert parts["undecided"] == parts["mask"]


def test_contrast_by_hand_is_the_viewer_s_own(idle: Served) -> None:
    header, parts = unpack_message(idle.get("/api/slice?run=run-1&z=1&low=0&high=40000").content)
    assert header["display"] == {"low": 0, "high": 40000, "max_counts": 65535}
    picture = np.asarray(Image.open(io.BytesIO(parts["picture"])))
    assert abs(int(picture[-1, -1]) - round(4000 / 40000 * 255)) <= 2


def test_earlier_slice_without_mask_says_so(idle: Served) -> None:
    header, parts = unpack_message(idle.get("/api/slice?run=run-1&z=0").content)
    assert (header["mask"], header["threshold"], set(parts)) == (None, None, {"picture"})


@pytest.mark.parametrize(
    ("query", "code"),
    [
        pytest.param("run=run-1&z=5", 404, id="no such slice"),
        pytest.param("run=other&z=0", 404, id="no such run"),
        pytest.param("z=0", 400, id="no run"),
        pytest.param("run=run-1&z=-1", 400, id="negative"),
        pytest.param("run=run-1&z=one", 400, id="no number"),
        pytest.param("run=run-1&z=" + "9" * 30, 400, id="endless number"),
        pytest.param("run=..%2F..%2Fetc%2Fpasswd&z=0", 400, id="path"),
        pytest.param("run=" + "a" * 300, 400, id="endless name"),
        pytest.param("run=broken&z=0", 500, id="unreadable"),
        pytest.param("run=run-1&z=1&low=5", 400, id="half a contrast"),
        pytest.param("run=run-1&z=1&low=5&high=5", 400, id="contrast of nothing"),
        pytest.param("run=run-1&z=1&low=0&high=65536", 400, id="contrast beyond any camera"),
        pytest.param("run=run-1&z=1&low=0&high=nan", 400, id="contrast that is no number"),
    ],
)
def test_slice_that_is_not_there_is_an_error_in_json(idle: Served, query: str, code: int) -> None:
    answer = idle.get(f"/api/slice?{query}")
    assert answer.status_code == code
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("z", "y", "x", "expected"),
    [
        (1, 0, 0, {"counts": 100, "probability": 0.8, "in_focus": False}),
        (1, 95, 127, {"counts": 4000, "probability": 0.8, "in_focus": True}),
        (0, 0, 0, {"counts": 100, "probability": None, "in_focus": None}),
    ],
)
def test_pixel_is_told_in_camera_counts(
    idle: Served, z: int, y: int, x: int, expected: dict[str, Any]
) -> None:
    assert idle.get(f"/api/pixel?run=run-1&z={z}&y={y}&x={x}").json() == expected


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("run=run-1&z=1&y=96&x=0", 404),
        ("run=run-1&z=1&y=0&x=128", 404),
        ("run=run-1&z=1&y=-1&x=0", 400),
        ("run=run-1&z=9&y=0&x=0", 404),
        ("y=0&x=0", 400),
    ],
)
def test_pixel_that_is_not_there_is_an_error(idle: Served, query: str, code: int) -> None:
    assert idle.get(f"/api/pixel?{query}").status_code == code


# Views of stacks --------------------------------------------------------------


def test_projection_comes_as_picture_and_depth(idle: Served) -> None:
    header, parts = unpack_message(idle.get("/api/projection?run=run-1").content)
    assert (header["kind"], header["width"], header["full_width"]) == ("projection", 80, 160)
    assert Image.open(io.BytesIO(parts["picture"])).size == (80, 64)
    told = header["depth"]
    steps = np.frombuffer(parts["depth"], "<u2").reshape(told["height"], told["width"])
    um = told["low"] + (steps.astype(float) - 1) / 65534 * (told["high"] - told["low"])
    np.testing.assert_allclose(np.where(steps, um, np.nan), [[1, 2], [np.nan, 3]], atol=1e-4)
    assert (told["unit"], told["factor"], header["in_focus_part"]) == ("µm", 40, 0.75)


def test_depth_of_a_flat_stack_is_its_lowest() -> None:
    assert scale_depth(np.full((1, 2), 7, np.float32), 7, 7).tolist() == [[1, 1]]


def test_volume_comes_slice_by_slice(idle: Served) -> None:
    header, parts = unpack_message(idle.get("/api/volume?run=run-1").content)
    shape = header["depth"], header["height"], header["width"]
    assert shape == (2, 3, 4)
    assert np.frombuffer(parts["volume"], np.uint8).reshape(shape)[1, 2, 3] == 23
    assert (header["z_um"], header["voxel_um"]) == ([1.0, 3.0], {"x": 2.5, "y": 2.5})


@pytest.mark.parametrize(
    ("t", "code", "answer"),
    [
        (1, 202, {"state": "queued"}),
        (2, 202, {"state": "working", "progress": 0.333}),
        (3, 409, {"error": "2 of 5 slices of this stack are stored."}),
        (4, 404, {"error": "There is no such stack."}),
    ],
)
@pytest.mark.parametrize("kind", ["projection", "volume"])
def test_view_that_is_not_there_yet_says_why(
    idle: Served, kind: str, t: int, code: int, answer: dict[str, Any]
) -> None:
    found = idle.get(f"/api/{kind}?run=run-1&t={t}")
    assert (found.status_code, found.json()) == (code, answer)


# Runs, models, health, figures ------------------------------------------------


def test_runs_and_models_are_listed_in_plain_json(idle: Served, served: Served) -> None:
    [run] = idle.get("/api/runs").json()["runs"]
    assert run == {"id": "run-1", "pixels_stored": True, "started": None, "volume": None}
    assert idle.get("/api/run?run=run-1").json() == {**run, "stacks": []}
    assert idle.get("/api/run?run=other").status_code == 404
    assert idle.get("/api/run").status_code == 400
    assert idle.get("/api/models").json() == {"profiles": [None]}
    for path in ("runs", "run?run=run-1", "models", "projection?run=run-1"):
        assert served.get(f"/api/{path}").status_code == 404, "nobody knows"
    assert served.get("/api/session").json()["actions"] == []


def test_health_is_503_where_the_daemon_is_not_well() -> None:
    found = [Health(True, "acquiring")]
    served = Served(health=lambda: found[0])
    served.start()
    answer = served.get("/health")
    assert (answer.status_code, answer.json()) == (
        200,
        {"ok": True, "state": "acquiring", "viewers": 0},
    )
    found[0] = Health(False, "stopping", "the daemon stops")
    answer = served.get("/health")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the daemon stops")
    assert "deepfocus_up 0\n" in served.get("/metrics").text
    served.stop()


_STATUS: dict[str, Any] = {
    "version": "1",
    "model": 'odd "name"\\\n',
    "provider": "CPU",
    "state": "ready",
    "frames": {"taken": 5, "durable": 4, "masked": 3},
    "frames_per_s": 2.5,
    "waiting": {"frames": 1, "masks": 0, "slices_to_label": 7},
    "camera_to_durable_ms": {"p50": 12.0, "p99": 20.0},
    "camera_to_mask_ms": None,
    "ring_fill": 0.5,
    "disk_free_bytes": 10**12,
    "warnings": [{}, {}],
    "uptime_s": 60.0,
    "masks_paused": True,
}


def test_figures_are_in_the_form_that_prometheus_reads() -> None:
    text = metrics_text(_STATUS, healthy=True, viewers=2)
    label = r"[a-z_]+=\"([^\"\\\n]|\\.)*\""
    for line in text.splitlines():
        sample = rf"deepfocus_[a-z_]+(\{{{label}(,{label})*\}})? \S+"
        assert re.fullmatch(rf"# (HELP|TYPE) .+|{sample}", line), line
    for sample in (
        'deepfocus_frames_total{stage="durable"} 4',
        'deepfocus_latency_seconds{to="durable",quantile="0.99"} 0.02',
        "deepfocus_ring_fill 0.5",
        "deepfocus_warnings 2",
        "deepfocus_viewers 2",
        "deepfocus_masks_paused 1",
    ):
        assert f"{sample}\n" in text
    assert 'to="mask"' not in text, "what is not known is left out"
    assert metrics_text({}, healthy=False, viewers=0).startswith("# HELP deepfocus_up ")


def test_every_figure_is_documented() -> None:
    documented = set(re.findall(r"^\| `(deepfocus_[a-z_]+)` \|", _DOCS, flags=re.MULTILINE))
    text = metrics_text(_STATUS, healthy=True, viewers=0)
    assert set(re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE)) == documented


def test_every_route_and_action_is_documented_and_nothing_else() -> None:
    volumes = VolumeServer(Listed(), key=b"key")
    app = create_app(LiveHub(), Stored(), status=dict, volumes=volumes)
    routes = {re.sub(r":path", "", r.path) for r in app.routes if isinstance(r, Route)}
    routes |= {route.path for route in app.routes if isinstance(route, WebSocketRoute)}
    assert set(re.findall(r"^\| `(/[^`]*)` \|", _DOCS, flags=re.MULTILINE)) == routes
    below = _DOCS.partition("\n## Actions\n")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| `([a-z-]+)` \| `(\{.*?\})` \|", below, flags=re.MULTILINE))
    assert set(documented) == set(ACTIONS)
    for name, body in documented.items():
        assert re.findall(r'"([a-z]+)":', body) == list(ACTIONS[name])


def test_every_key_of_a_slice_is_documented(idle: Served) -> None:
    below = _DOCS.partition("\n## A slice\n")[2].partition("\n## ")[0]
    first = re.findall(r"^\| (`.+?`) \|", below, flags=re.MULTILINE)
    documented = {key for cell in first for key in re.findall(r"`([a-z_]+)`", cell)}
    header, _ = unpack_message(idle.get("/api/slice?run=run-1&z=3").content)
    live = {"number", "x_um", "y_um", "taken_at", "exposure_ms"}
    assert set(header) | live == documented
