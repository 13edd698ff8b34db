"""The page's hub, and what comes over the wire, without a browser."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed

from deepfocus_live.frames import StackKey
from deepfocus_live.web import LiveHub, unpack_message
from deepfocus_live.web._curves import StackCurves
from deepfocus_live.web._pictures import PictureMaker
from tests.page import (
    SHAPE,
    SPEC,
    Served,
    gradient,
    make_mask,
    next_event,
    next_picture,
    take,
    wait_for,
)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.start()
    yield served
    served.stop()


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
        header, parts = next_picture(viewer)
        assert (header["sequence_number"], header["z"], header["z_um"]) == (7, 3, 106.0)
        assert (header["image_name"], header["channel"], header["size_z"]) == ("A1", "BF", 5)
        assert Image.open(io.BytesIO(parts["picture"])).size == (SHAPE[1], SHAPE[0])
        assert set(parts) == {"picture"}
        assert (header["mask"], header["threshold"], header["provisional"]) == (None, None, True)
        chance = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8)
        make_mask(served.hub, 7, z=3, probability=chance, threshold=0.65)
        header, parts = next_picture(viewer, "mask")
        assert header["sequence_number"] == 7
        assert header["mask"]["in_focus_fraction"] == 0.25
        assert (header["threshold"], header["probability_factor"]) == (0.65, 4)
        assert set(parts) == {"mask", "probability"}
        drawn = Image.open(io.BytesIO(parts["probability"]))
        np.testing.assert_array_equal(np.asarray(drawn), chance)


def test_masks_are_provisional_until_their_stack_is_labelled(served: Served) -> None:
    served.hub.run_started(SPEC)
    with served.watch() as viewer:
        take(served.hub, 0)
        assert next_picture(viewer)[0]["provisional"] is True
        served.hub.stack_labelled(StackKey("run-1", 0, 0, 0), [0.1])
        place = {"run": "run-1", "image": 0, "t": 0, "c": 0}
        assert next_event(viewer, "labelled") == {"type": "labelled", **place}
        take(served.hub, 1)
        assert next_picture(viewer)[0]["provisional"] is False
    with served.watch() as late:
        points = next_event(late, "points")
        assert points["labelled"] is True


def test_mask_that_comes_before_its_slice_is_shown_with_it(served: Served) -> None:
    with served.watch() as viewer:
        make_mask(served.hub, 0)
        take(served.hub, 0)
        header, parts = next_picture(viewer)
        if header["mask"] is None:
            _, parts = next_picture(viewer, "mask")
        assert parts["mask"][:4] == b"\x89PNG"


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
