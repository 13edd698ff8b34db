"""What the page's actions do to the daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deepfocus_live.config import load_config
from deepfocus_live.daemon import Daemon
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._page._actions import PageActions
from deepfocus_live.errors import InputError
from deepfocus_live.model import Registry
from deepfocus_live.web import ACTIONS


def run_of(name: str = "scan", **known: Any) -> Any:
    writer = SimpleNamespace(pixels_stored=known.pop("pixels_stored", True))
    spec = SimpleNamespace(name=name)
    return SimpleNamespace(spec=spec, writer=writer, ended=known.pop("ended", False))


class Masks:
    """What of a `MaskMaker` is acted upon."""

    masks_waiting = 3

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class Models:
    """`ModelsByHand` that knows one profile."""

    def request(self, profile: str) -> str:
        return f"profile {profile}: a fine-tune begins"

    def use(self, name: str, profile: str) -> str:
        return f"{name} for {profile}"

    def rollback(self, profile: str) -> str:
        raise InputError(f"profile {profile!r} has no earlier model to go back to")


def actions_on(masks: Any, *runs: Any, **parts: Any) -> PageActions:
    given = {"models": Models(), "choose_profile": lambda name: None, **parts}
    return PageActions(load_config(), masks, runs=lambda: runs, stop=lambda: None, **given)


def test_each_action_answers_in_a_sentence() -> None:
    actions = actions_on(Masks(), run_of())
    assert set(actions.available) == set(ACTIONS)
    for outcome in (
        actions.pause_masks(),
        actions.resume_masks(),
        actions.retrain("default"),
        actions.use_model("m-2", "default"),
        actions.choose_profile("fish"),
        actions.choose_profile(None),
        actions.stop_after_run(),
    ):
        assert outcome.ok
        assert outcome.text[0].isupper() and outcome.text.endswith(".")
    with pytest.raises(InputError, match="no earlier model"):
        actions.rollback("default")


def test_masks_of_slices_that_are_only_in_memory_are_not_paused() -> None:
    masks = Masks()
    outcome = actions_on(masks, run_of(), run_of(pixels_stored=False)).pause_masks()
    assert (outcome.ok, masks.calls) == (False, [])
    assert actions_on(masks, run_of()).pause_masks().ok
    assert masks.calls == ["pause"]


def test_what_cannot_be_had_is_not_offered() -> None:
    config = load_config(inference__enabled=False)
    actions = PageActions(config, Masks(), runs=list, stop=lambda: None)  # type: ignore[arg-type]
    assert set(actions.available) == {"stop-after-run"}
    with pytest.raises(InputError):
        actions.retrain("default")


def test_paused_masks_are_all_made_after_it_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    all_made = threading.Event()

    def make(self: MaskMaker, job: Any) -> None:
        made.append(job.sequence_number)
        if len(made) == 4:
            all_made.set()

    def job(number: int) -> Any:
        spec = SimpleNamespace(run_id="abc", name="scan")
        run = SimpleNamespace(owe=lambda jobs: None, spec=spec, ended=False)
        return SimpleNamespace(sequence_number=number, run=run, done=lambda: None)

    monkeypatch.setattr(MaskMaker, "_make_mask", make)
    registry = Registry(tmp_path)
    nothing: Any = lambda *_, **__: None  # noqa: E731
    maker = MaskMaker(load_config(), registry, on_mask=nothing, on_model=nothing, warn=nothing)
    maker._threads[0].start()
    maker.pause()
    for number in range(4):
        maker.put(job(number))
    time.sleep(0.05)
    assert (made, maker.paused, maker.masks_waiting) == ([], True, 4)
    maker.resume()
    assert all_made.wait(20)
    assert made == [3, 2, 1, 0]
    maker.pause()
    maker.stop()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    made = Daemon(
        load_config(
            output=str(tmp_path / "runs"),
            models=str(tmp_path / "models"),
            web__port=0,
            inference__enabled=False,
            labels__enabled=False,
        )
    )
    made._page.start()
    yield made
    made._close_all()


def test_daemon_s_page_answers_and_stops_it(daemon: Daemon) -> None:
    with httpx.Client(base_url=daemon._page.address, verify=False) as client:
        deadline = time.monotonic() + 20
        while not daemon._page._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Only the page runs here, not the daemon's loop.
        assert client.get("/health").json()["state"] == "starting"
        assert client.get("/api/runs").json() == {"runs": []}
        [profile] = client.get("/api/models").json()["profiles"]
        assert profile["trust"]["text"] == "shipped, untested here"
        assert "deepfocus_ring_fill 0.0" in client.get("/metrics").text
        session = client.get("/api/session").json()
        token = {"X-Deepfocus-Token": session["token"]}
        answer = client.post("/api/actions/stop-after-run", json={}, headers=token)
        assert (answer.status_code, answer.json()["ok"]) == (200, True)
        assert client.get("/health").status_code == 503
    assert daemon._stop_asked.is_set()


def test_stalled_event_loop_is_no_good_health(daemon: Daemon) -> None:
    assert daemon.health().ok
    daemon._beaten_at = time.monotonic() - 60
    found = daemon.health()
    assert (found.ok, found.reason) == (False, "the event loop has not turned for 60 s")
