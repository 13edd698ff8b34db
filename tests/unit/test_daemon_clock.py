"""Time that passes while nobody can do anything: sleep, clocks that are set, slow beginnings."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from deepfocus_live.daemon._clock import ClockWatch
from deepfocus_live.daemon._labels import Background
from deepfocus_live.microscope import _link
from deepfocus_live.microscope._link import DaemonLink
from deepfocus_live.ring import ControlClient


@pytest.mark.parametrize(
    ("wall_s", "steady_s", "says"),
    [
        pytest.param(1.2, 1.2, None, id="an ordinary look"),
        pytest.param(8.0, 8.0, None, id="a busy machine"),
        pytest.param(7200.0, 1.0, "7200 s without", id="slept, Linux"),
        pytest.param(7200.0, 7200.0, "7200 s without", id="slept, Windows"),
        pytest.param(-3599.0, 1.0, "set back by 3600 s", id="set back"),
        pytest.param(3601.0, 1.0, "clock was set", id="set on"),
    ],
)
def test_gap_in_the_clocks_is_said_once(wall_s: float, steady_s: float, says: str | None) -> None:
    now = {"wall": 1e9, "steady": 50.0}
    watch = ClockWatch(1.0, wall=lambda: now["wall"], steady=lambda: now["steady"])
    now["wall"] += wall_s
    now["steady"] += steady_s
    said = watch.look()
    assert said is None if says is None else says in (said or "")
    now["wall"] += 1
    now["steady"] += 1
    assert watch.look() is None


class SleepingClient:
    """A connection whose first wait is cut off by the computer's sleep."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.waits = 0

    def wait(self, timeout_s: float) -> bool:
        self.waits += 1
        return self.answers.pop(0) if self.answers else False


def test_sleep_is_not_silence_and_a_hung_daemon_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However far the clock has gone on: only waits in which it could have spoken count."""
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(hours)))
    awake = SleepingClient(False, False, True)
    DaemonLink._await_word(awake)  # type: ignore[arg-type]
    assert awake.waits == 3
    hung = SleepingClient()
    with pytest.raises(TimeoutError):
        DaemonLink._await_word(hung)  # type: ignore[arg-type]
    assert hung.waits * _link._LISTEN_S == _link.HUNG_AFTER_S


@pytest.fixture
def pair() -> Iterator[tuple[ControlClient, socket.socket]]:
    """A client whose other end is in the test's hands."""
    ours, theirs = socket.socketpair()
    client = ControlClient.__new__(ControlClient)
    client._socket, client._reading = ours, ours.dup()
    with contextlib.closing(theirs):
        yield client, theirs
    client.close()


def test_waiting_takes_nothing_and_hears_the_end(
    pair: tuple[ControlClient, socket.socket],
) -> None:
    client, theirs = pair
    assert not client.wait(0.01)
    theirs.sendall(b"ab")
    assert client.wait(1)
    assert client.wait(1)
    assert client._exactly(2, time.monotonic() + 1) == b"ab"
    theirs.close()
    assert client.wait(1)
    with pytest.raises(ConnectionError):
        client.receive(1)


def test_kernels_are_compiled_before_the_first_label_and_a_stop_does_not_wait_for_all() -> None:
    done: list[int] = []
    at_second, go_on = threading.Event(), threading.Event()

    def step(number: int) -> None:
        if number == 0:
            done.append(number)
            return
        at_second.set()
        go_on.wait(10)
        done.append(number)

    background = Background(
        labels=True,
        memory_mb=16,
        busy=lambda: False,
        on_labelled=lambda *_: None,
        warn=lambda text, **_: pytest.fail(text),
        prepare=[lambda number=number: step(number) for number in range(5)],  # type: ignore[misc]
    )
    assert at_second.wait(10)
    assert done == [0]
    threading.Timer(0.05, go_on.set).start()
    background.stop()
    assert done == [0, 1]
