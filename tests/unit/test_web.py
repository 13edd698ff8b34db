"""The page's hub and server, without a browser."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from deepfocus_live.frames import (
    Calibration,
    ChannelSpec,
    FrameHeader,
    ImageSpec,
    Placement,
    RunSpec,
    StackKey,
)
from deepfocus_live.web import SERVER_OPTIONS, LiveHub, create_app, pack_message, unpack_message
from deepfocus_live.web._contrast import SteadyContrast
from deepfocus_live.web._curves import StackCurves
from deepfocus_live.web._encode import encode_mask
from deepfocus_live.web._pictures import PictureMaker
from deepfocus_live.web._shrink import shrink_factor, shrink_mask, shrink_slice

SHAPE = (96, 128)
SPEC = RunSpec(
    run_id="run-1",
    name="blurred discs",
    height_px=SHAPE[0],
    width_px=SHAPE[1],
    dtype="uint16",
    images=(ImageSpec(name="A1", size_t=2, size_z=5),),
    channels=(ChannelSpec(name="BF"),),
    z_step_um=Calibration(um=2.0, source="stage"),
)


def flat(counts: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint16]:
    return np.full(shape, counts, np.uint16)


def gradient() -> NDArray[np.uint16]:
    return np.linspace(100, 4000, SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.uint16)


def take(hub: LiveHub, n: int, z_slice: NDArray[Any] | None = None, *, z: int = 0) -> None:
    """Tell the hub of slice number `n`."""
    header = FrameHeader(
        run_id="run-1",
        sequence_number=n,
        index={"z": z},
        height_px=SHAPE[0],
        width_px=SHAPE[1],
        dtype="uint16",
        z_um=100.0 + 2 * z,
        taken_at=time.time(),
    )
    hub.slice_taken(Placement(0, 0, 0, z), header, gradient() if z_slice is None else z_slice)


def make_mask(hub: LiveHub, n: int, *, z: int = 0, score: float | None = 1.0) -> None:
    """Tell the hub of the mask of slice number `n`."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[: SHAPE[0] // 4] = 1
    hub.mask_made(
        "run-1",
        Placement(0, 0, 0, z),
        n,
        mask,
        in_focus_fraction=0.25,
        focus_score=score,
        model="v1",
        provider="CPU",
        milliseconds=5.0,
        latency_ms=30.0,
    )


class Stored:
    """A `SliceSource` with one slice."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Placement]] = []

    def read_slice(
        self, run_id: str, placement: Placement
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        self.asked.append((run_id, placement))
        if run_id == "broken":
            raise OSError("the disk is gone")
        if run_id != "run-1" or placement.z > 4:
            raise KeyError(run_id)
        mask = np.ones(SHAPE, np.uint8) if placement.z else None
        return gradient(), mask


class Served:
    """The application served by uvicorn on a thread, as the daemon does it."""

    def __init__(self) -> None:
        self.hub = LiveHub()
        self.source = Stored()
        self.status: Callable[[], dict[str, object]] = lambda: {"state": "ready", "bad": np.nan}
        app = create_app(self.hub, self.source, status=lambda: self.status())
        config = uvicorn.Config(app, port=0, log_config=None, **SERVER_OPTIONS)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self._server.started)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self.hub.close()

    def get(self, path: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=names)

    def watch(self, **settings: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/ws", compression=None, **settings)


def wait_for(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "This did not happen in time."
        time.sleep(0.005)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def idle() -> Iterator[Served]:
    """Serve for tests that only ask and leave nothing behind."""
    served = Served()
    served.start()
    yield served
    served.stop()


def next_picture(
    viewer: ClientConnection, kind: str = "picture"
) -> tuple[dict[str, Any], bytes, bytes]:
    """Return the next binary message of a kind, confirming pictures as the page does."""
    while True:
        message = viewer.recv(10)
        if isinstance(message, str):
            continue
        header, picture, mask = unpack_message(message)
        if header["kind"] == "picture":
            viewer.send(json.dumps({"drawn": header["number"]}))
        if header["kind"] == kind:
            return header, picture, mask


def next_event(viewer: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message = viewer.recv(10)
        if isinstance(message, str) and (event := json.loads(message))["type"] == kind:
            return dict(event)


# The binary format -----------------------------------------------------------


@given(st.binary(max_size=50), st.binary(max_size=50), st.dictionaries(st.text(), st.integers()))
def test_message_unpacks_to_what_was_packed(
    picture: bytes, mask: bytes, header: dict[str, int]
) -> None:
    read, *parts = unpack_message(pack_message(header, picture, mask))
    assert parts == [picture, mask]
    assert read == {**header, "picture_bytes": len(picture), "mask_bytes": len(mask)}


def test_message_begins_with_the_big_endian_length_of_its_header() -> None:
    message = pack_message({"kind": "mask"})
    assert int.from_bytes(message[:4], "big") == len(message) - 4


def test_cut_message_is_refused() -> None:
    with pytest.raises(ValueError, match="its header says"):
        unpack_message(pack_message({}, b"picture")[:-1])


# Pictures --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [
        pytest.param(1024, 1344, 1, id="a little over is left alone"),
        pytest.param(2048, 2048, 2, id="sCMOS"),
        pytest.param(5120, 5120, 5, id="large sCMOS"),
        pytest.param(64, 64, 1, id="small"),
        pytest.param(2, 9000, 2, id="a line"),
    ],
)
def test_long_side_comes_near_1024(height: int, width: int, factor: int) -> None:
    assert shrink_factor(height, width) == factor


@given(st.integers(1, 5), st.integers(5, 300), st.integers(5, 40), st.integers(0, 2**32 - 1))
def test_banded_shrinking_equals_plain_block_means(
    factor: int, height: int, width: int, seed: int
) -> None:
    z_slice = np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16)
    got = shrink_slice(z_slice, factor=factor, low=0, high=65535)
    rows, columns = height // factor, width // factor
    cut = z_slice[: rows * factor, : columns * factor].astype(np.int64)
    sums = cut.reshape(rows, factor, columns, factor).sum((1, 3))
    counts = (sums // factor**2).astype(np.float32)
    np.testing.assert_array_equal(got, (counts * np.float32(255 / 65535)).round())
    assert shrink_mask(z_slice, factor=factor).shape == got.shape


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (64, 61)])
def test_mask_is_clear_where_it_is_zero_and_white_elsewhere(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).integers(0, 2, shape, np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(encode_mask(mask))).convert("RGBA"))
    np.testing.assert_array_equal(drawn[..., 3], 255 * mask)
    np.testing.assert_array_equal(drawn[..., 0], 255 * mask)


def test_contrast_only_widens_within_a_stack_and_starts_anew_after_it() -> None:
    contrast = SteadyContrast()
    first, second, third = (StackKey("run-1", 0, t, 0) for t in range(3))
    dull = contrast.follow(first, np.array([[100, 200]], np.uint16))
    bright = contrast.follow(first, np.array([[50, 900]], np.uint16))
    again = contrast.follow(first, np.array([[100, 200]], np.uint16))
    assert bright.low < dull.low
    assert bright.high > dull.high
    assert again == bright
    dimmed = contrast.follow(second, np.array([[100, 200]], np.uint16))
    assert dimmed == bright, "the stack before says what is to come"
    assert contrast.follow(third, np.array([[100, 200]], np.uint16)).high < bright.high


def test_flat_slice_has_a_contrast() -> None:
    low, high = SteadyContrast().follow(StackKey("run-1", 0, 0, 0), flat(7))
    assert low < high


# The hub ---------------------------------------------------------------------


def test_hub_without_viewers_encodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PictureMaker, "_work", lambda self: pytest.fail("something was encoded"))
    hub = LiveHub()
    hub.run_started(SPEC)
    for n in range(100):
        take(hub, n, z=n % 5)
        make_mask(hub, n, z=n % 5)
    hub.close()


def test_hub_keeps_the_newest_slice_only() -> None:
    hub = LiveHub()
    before, newest = gradient(), gradient()
    take(hub, 0, before)
    take(hub, 1, newest)
    assert hub._maker._newest is not None
    assert hub._maker._newest.z_slice is newest
    for n in range(50):
        make_mask(hub, n)
    assert len(hub._maker._masks) <= 4
    hub.close()


def test_curves_are_bounded_over_stacks_and_slices() -> None:
    curves = StackCurves()
    for n in range(10_000):
        curves.point(StackKey("endless", 0, 0, 0), n, n)
    for t in range(1000):
        curves.point(StackKey("long", 0, t, 0), 0, t)
    assert len(curves) <= 24
    for n in range(10_000):
        curves.point(StackKey("endless", 0, 0, 0), n, n)
    [curve] = [c for c in curves.changed_since(9_000) if c.key.run_id == "endless"]
    assert len(curve.points) <= 4096
    assert 9_999 in curve.points


def test_viewer_that_does_not_confirm_gets_two_pictures_and_later_the_newest() -> None:
    async def scenario() -> None:
        hub = LiveHub(pictures_per_second=1000)
        viewer = hub.join()
        seen: list[dict[str, Any]] = []

        async def take_and_look(n: int) -> None:
            take(hub, n)
            while not any(p.frame.sequence_number == n for p in hub._maker.pictures()):
                await asyncio.sleep(0.001)
            news = [m for m in hub.news(viewer) if isinstance(m, bytes)]
            seen.extend(unpack_message(message)[0] for message in news)

        for n in range(20):
            await take_and_look(n)
        assert [header["sequence_number"] for header in seen] == [0, 1]
        viewer.confirm(seen[0]["number"])
        [late] = [unpack_message(m)[0] for m in hub.news(viewer) if isinstance(m, bytes)]
        assert late["sequence_number"] == 19
        hub.leave(viewer)
        hub.close()

    asyncio.run(scenario())


def test_one_slice_that_cannot_be_drawn_does_not_end_the_pictures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        hub = LiveHub(pictures_per_second=1000)
        hub.join()
        take(hub, 0, np.zeros((0, 0), np.uint16))
        await asyncio.sleep(0.05)
        take(hub, 1)
        while not hub._maker.pictures():
            await asyncio.sleep(0.001)
        hub.close()

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert "was not made" in caplog.text


def test_hub_survives_a_server_whose_loop_has_ended() -> None:
    hub = LiveHub()

    async def join() -> None:
        hub.join()

    asyncio.run(join())
    take(hub, 0)
    hub.note("warning", "nobody is there")
    hub.close()
    take(hub, 1)


# Over the wire ---------------------------------------------------------------


def test_viewer_sees_run_slice_and_mask(served: Served) -> None:
    with served.watch() as viewer:
        served.hub.run_started(SPEC)
        assert next_event(viewer, "run")["name"] == "blurred discs"
        take(served.hub, 7, z=3)
        header, picture, mask = next_picture(viewer)
        assert (header["sequence_number"], header["z"], header["z_um"]) == (7, 3, 106.0)
        assert (header["image_name"], header["channel"], header["size_z"]) == ("A1", "BF", 5)
        assert Image.open(io.BytesIO(picture)).size == (SHAPE[1], SHAPE[0])
        assert mask == b""
        make_mask(served.hub, 7, z=3)
        header, picture, mask = next_picture(viewer, "mask")
        assert header["sequence_number"] == 7
        assert header["mask"]["in_focus_fraction"] == 0.25
        assert (picture, mask[:4]) == (b"", b"\x89PNG")


def test_mask_that_comes_before_its_slice_is_shown_with_it(served: Served) -> None:
    with served.watch() as viewer:
        make_mask(served.hub, 0)
        take(served.hub, 0)
        header, _, mask = next_picture(viewer)
        if header["mask"] is None:
            _, _, mask = next_picture(viewer, "mask")
        assert mask[:4] == b"\x89PNG"


def test_late_viewer_is_told_everything_that_is_present(served: Served) -> None:
    served.hub.run_started(SPEC)
    for z in range(3):
        take(served.hub, z, z=z)
        make_mask(served.hub, z, z=z)
    served.hub.stack_labelled(StackKey("run-1", 0, 0, 0), [0.1, None, 0.3])
    served.hub.note("warning", "stage did not settle")
    with served.watch() as viewer:
        points = next_event(viewer, "points")
        assert [row[0] for row in points["points"]] == [0, 1, 2]
        assert [row[3] for row in points["points"]] == [0.25] * 3
        assert [row[5] for row in points["points"]] == [0.1, None, 0.3]
        assert next_event(viewer, "notes")["notes"][0]["text"] == "stage did not settle"
        assert next_picture(viewer)[0]["sequence_number"] == 2


def test_fast_camera_ends_on_its_newest_slice(served: Served) -> None:
    with served.watch() as viewer:
        for n in range(300):
            take(served.hub, n)
            time.sleep(0.001)
        numbers = [next_picture(viewer)[0]["sequence_number"]]
        while numbers[-1] < 299:
            numbers.append(next_picture(viewer)[0]["sequence_number"])
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 100


def test_number_that_json_lacks_is_sent_as_unknown(served: Served) -> None:
    with served.watch() as viewer:
        make_mask(served.hub, 0, score=float("nan"))
        assert next_event(viewer, "points")["points"][0][4] is None
        assert next_event(viewer, "status")["status"] == {"state": "ready", "bad": None}


def test_status_that_fails_is_shown_as_such(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("no such run")

    served.status = fail
    answer = served.get("/api/status").json()
    assert answer == {
        "state": "unknown",
        "warnings": [{"text": "No status: no such run", "count": 1}],
    }
    assert "could not be made" in caplog.text


def test_run_that_ended_stays_in_view_as_ended(served: Served) -> None:
    with served.watch() as viewer:
        served.hub.run_started(SPEC)
        assert next_event(viewer, "run")["ended"] is False
        served.hub.run_ended("another")
        served.hub.run_ended("run-1")
        assert next_event(viewer, "run")["ended"] is True


def test_viewer_that_leaves_is_forgotten(served: Served) -> None:
    with served.watch() as viewer:
        next_event(viewer, "status")
        assert served.hub.viewers == 1
    wait_for(lambda: served.hub.viewers == 0)


@pytest.mark.parametrize("text", ["no json", "[]", '{"drawn":"1"}', '{"drawn":1}' + " " * 300])
def test_viewer_that_sends_anything_but_confirmations_is_cut_off(served: Served, text: str) -> None:
    with served.watch() as viewer:
        viewer.send(text)
        with pytest.raises(ConnectionClosed):
            while True:
                viewer.recv(10)


# Earlier slices --------------------------------------------------------------


def test_earlier_slice_comes_with_its_mask(served: Served) -> None:
    served.hub.run_started(SPEC)
    answer = served.get("/api/slice?run=run-1&image=0&t=1&c=0&z=2")
    header, picture, mask = unpack_message(answer.content)
    assert served.source.asked == [("run-1", Placement(0, 1, 0, 2))]
    assert (header["kind"], header["t"], header["z"], header["z_um"]) == ("stored", 1, 2, 4.0)
    assert header["mask"]["in_focus_fraction"] == 1.0
    assert picture[:2] == b"\xff\xd8"
    assert mask[:4] == b"\x89PNG"


def test_earlier_slice_without_mask_says_so(idle: Served) -> None:
    header, _, mask = unpack_message(idle.get("/api/slice?run=run-1&z=0").content)
    assert (header["mask"], mask) == (None, b"")


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
    ],
)
def test_slice_that_is_not_there_is_an_error_in_json(idle: Served, query: str, code: int) -> None:
    answer = idle.get(f"/api/slice?{query}")
    assert answer.status_code == code
    assert set(answer.json()) == {"error"}


# Safety ----------------------------------------------------------------------


def test_page_may_load_nothing_from_elsewhere(idle: Served) -> None:
    page = idle.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_unchanged_file_is_not_sent_again(idle: Served) -> None:
    first = idle.get("/static/main.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = idle.get("/static/main.js", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/..%2F_app.py", "/static/%2Fetc%2Fpasswd", "/other"]
)
def test_only_the_pages_own_files_are_served(idle: Served, path: str) -> None:
    assert idle.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/status", "/api/slice?run=run-1&z=0", "/health"])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"host": "evil.example"}, id="rebound name"),
        pytest.param({"host": "127.0.0.1.evil.example:80"}, id="lookalike"),
        pytest.param({"host": ""}, id="no name"),
        pytest.param({"origin": "http://evil.example"}, id="foreign page"),
        pytest.param({"origin": "http://127.0.0.1:1"}, id="another local page"),
        pytest.param({"origin": "null"}, id="sandboxed page"),
    ],
)
def test_foreign_host_or_origin_is_refused(
    idle: Served, path: str, headers: dict[str, str]
) -> None:
    assert idle.get(path, **headers).status_code == 403


def test_other_site_may_link_here_but_not_load_from_here(idle: Served) -> None:
    assert idle.get("/", sec_fetch_site="cross-site").status_code == 200
    assert idle.get("/api/status", sec_fetch_site="cross-site").status_code == 403
    assert idle.get("/static/main.js", sec_fetch_site="same-site").status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "file://", "http://[broken"])
def test_websocket_of_another_page_is_refused(idle: Served, origin: str) -> None:
    with pytest.raises(InvalidStatus, match="403"), idle.watch(origin=origin):
        pass
    assert idle.hub.viewers == 0


def test_websocket_of_the_page_itself_is_accepted(idle: Served) -> None:
    with idle.watch(origin=f"http://127.0.0.1:{idle.port}") as viewer:
        assert next_event(viewer, "status")["status"]["state"] == "ready"


def test_host_that_was_bound_on_purpose_is_accepted() -> None:
    async def ask(host: str) -> int:
        app = create_app(LiveHub(), Stored(), status=dict, allowed_hosts=["Scope-3.lab"])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return (await client.get("/health")).status_code

    assert asyncio.run(ask("scope-3.lab:8765")) == 200
    assert asyncio.run(ask("[::1]:8765")) == 200
    assert asyncio.run(ask("scope-4.lab:8765")) == 403
