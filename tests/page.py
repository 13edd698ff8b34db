"""The page's server without a browser, for its tests: a run, its slices, and who serves them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from deepfocus_live.frames import (
    Calibration,
    ChannelSpec,
    FrameHeader,
    ImageSpec,
    Placement,
    RunSpec,
)
from deepfocus_live.web import SERVER_OPTIONS, LiveHub, StoredSlice, create_app, unpack_message

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


def make_mask(
    hub: LiveHub, n: int, *, z: int = 0, score: float | None = 1.0, **probability: Any
) -> None:
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
        **probability,
    )


class Stored:
    """A `SliceSource` with one slice."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Placement]] = []

    def read_slice(self, run_id: str, placement: Placement) -> StoredSlice:
        self.asked.append((run_id, placement))
        if run_id == "broken":
            raise OSError("the disk is gone")
        if run_id != "run-1" or placement.z > 4:
            raise KeyError(run_id)
        if not placement.z:
            return StoredSlice(gradient())
        mask = np.zeros(SHAPE, np.uint8)
        mask[:, SHAPE[1] // 2 :] = 1
        return StoredSlice(
            gradient(),
            mask,
            probability=np.full((SHAPE[0] // 4, SHAPE[1] // 4), 204, np.uint8),
            threshold=0.65,
            undecided=mask if placement.z == 3 else None,
            labelled=placement.z == 3,
            z_um=50.0 if placement.z == 3 else None,
        )


class Served:
    """The application served by uvicorn on a thread, as the daemon does it."""

    def __init__(self, **parts: Any) -> None:
        self.hub = LiveHub()
        self.source = Stored()
        self.status: Callable[[], dict[str, object]] = lambda: {"state": "ready", "bad": np.nan}
        app = create_app(self.hub, self.source, status=lambda: self.status(), **parts)
        config = uvicorn.Config(app, port=0, log_config=None, **SERVER_OPTIONS)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        # One for all that is asked: each would read the system's certificates.
        self._client = httpx.Client(verify=False)

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self._server.started)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join(10)
        self.hub.close()

    def ask(self, method: str, path: str, content: bytes = b"", **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.port}{path}"
        answer = self._client.request(method, url, content=content, headers=names)
        self._client.cookies.clear()
        return answer

    def post(self, path: str, content: bytes = b"{}", **headers: str) -> httpx.Response:
        return self.ask("POST", path, content, **headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", path, **headers)

    def watch(self, **settings: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/ws", compression=None, **settings)


def wait_for(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "This did not happen in time."
        time.sleep(0.005)


def next_picture(
    viewer: ClientConnection, kind: str = "picture"
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the next binary message of a kind, confirming pictures as the page does."""
    while True:
        message = viewer.recv(10)
        if isinstance(message, str):
            continue
        header, parts = unpack_message(message)
        if header["kind"] == "picture":
            viewer.send(json.dumps({"drawn": header["number"]}))
        if header["kind"] == kind:
            return header, parts


def next_event(viewer: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message = viewer.recv(10)
        if isinstance(message, str) and (event := json.loads(message))["type"] == kind:
            return dict(event)
