"""What a daemon finds at its start, a camera that does not wait, cameras that fail, bad clients."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepfocus_live import attach, open_run
from deepfocus_live._platform import RUNTIME_DIR_VARIABLE
from deepfocus_live.microscope.simulated import (
    CameraFaults,
    SimulatedMicroscope,
    load_simulated_microscope,
)
from deepfocus_live.ring import (
    DaemonAddress,
    leftover_rings,
    leftover_spills,
    log_path,
    private_daemon,
)
from deepfocus_live.volume import Run
from tests import left_behind
from tests.system._runs import Witness, assert_stored_once, wait_until_closed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="stops and kills by signals")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("robust")


@pytest.fixture(scope="module")
def left_by_the_dead(folder: Path) -> Iterator[None]:
    """What a killed microscope's process left before the daemon was started."""
    runtime = folder / "runtime"
    runtime.mkdir()
    died = subprocess.run(
        [sys.executable, "-m", "tests.left_behind"],
        env={**os.environ, RUNTIME_DIR_VARIABLE: str(runtime)},
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL
    yield
    with pytest.MonkeyPatch.context() as patch:
        # Where the daemon did not do it: they are in memory, and would stay there.
        patch.setenv(RUNTIME_DIR_VARIABLE, str(runtime))
        for path in leftover_rings():
            path.unlink()


@pytest.fixture(scope="module")
def daemon(folder: Path, left_by_the_dead: None) -> Iterator[DaemonAddress]:
    """One daemon for all of these tests: none of them may harm it."""
    config = folder / "config.yaml"
    config.write_text(
        "inference: {enabled: false}\nlabels: {enabled: false}\n"
        "ring: {slots: 2}\nstorage: {durability: process}\n",
        encoding="utf-8",
    )
    with private_daemon(folder, "--config", str(config)) as address:
        # What the dead left is stored beside whatever it is asked.
        _wait_until(lambda: _ask(address, type="status")["status"]["state"] == "ready")
        yield address
        assert address.stamp.alive()
        assert leftover_rings() == []
        assert leftover_spills() == []


def _ask(daemon: DaemonAddress, **message: Any) -> dict[str, Any]:
    with daemon.connect() as client:
        return client.ask(message)


def _wait_until(done: Any, *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _new_runs(folder: Path, before: set[Path]) -> list[Run]:
    made = sorted(set((folder / "runs").iterdir()) - before)
    return [open_run(path) for path in made if path.name[0] != "."]


# --------------------------------------------------------------- leftovers


def test_what_the_dead_left_is_stored_and_freed_at_the_start(
    folder: Path, daemon: DaemonAddress
) -> None:
    assert leftover_rings() == [], "the half-made one too"
    assert leftover_spills() == []
    whole = {"both": 7, "spilled": 7, "torn": 6, "damaged": 6, "named": 4}
    runs = {run.record["spec"]["name"]: run for run in _new_runs(folder, set())}
    assert runs.keys() == whole.keys()
    for name, run in runs.items():
        assert run.state == "interrupted"
        assert_stored_once(run, [left_behind.pixels_of(name, n) for n in range(whole[name])])
    assert list((folder / "runs").glob(".*")) == []
    log = log_path().read_text(encoding="utf-8")
    assert "[damaged] frame 6 is lost" in log
    assert "left half-made" in log


# ---------------------------------------------------------------- overload


def _microscope(count: int, **options: Any) -> SimulatedMicroscope:
    rng = np.random.default_rng(0)
    stacks = [rng.integers(0, 4096, (5, 64, 80), np.uint16) for _ in range(count)]
    options = {"z_step_um": 1.0, "exposure_ms": 1.0, **options}
    return load_simulated_microscope(stacks, **options)


def test_hardware_sequence_is_not_slowed_by_a_daemon_that_stands_still(
    folder: Path, daemon: DaemonAddress, caplog: pytest.LogCaptureFixture
) -> None:
    microscope = _microscope(8)
    witness = Witness(microscope.core)
    config = folder / "config.yaml"
    with attach(microscope.core, config=config) as attached:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            microscope.core.mda.run(microscope.sequence(hardware_triggered=True))
            _wait_until(lambda: attached.status()["frames_spilled"] == 38)
            status = attached.status()
            # Two in the ring, the others on a disk: all of them safe, none of them stored.
            assert (status["frames_sent"], status["frames_durable"]) == (40, 0)
            assert status["waits"] == 0
            (spill,) = leftover_spills()
            assert spill.stat().st_size > 38 * 64 * 80 * 2
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert attached.wait(30)
        assert leftover_spills() == []
        run = wait_until_closed(Path(attached.status()["runs"][0]))
    assert len(witness.frames) == 40
    assert_stored_once(run, witness.frames)
    # In their order, but for what two store threads make of it.
    numbers = [line["sequence_number"] for line in run.journal if line["kind"] == "frame"]
    assert np.mean(np.abs(np.array(numbers) - np.arange(40))) < 5
    assert run.state == "completed"
    assert sum("faster than the disk" in r.message for r in caplog.records) == 1
    assert attached.status()["restarts"] == 0
    microscope.close()


def test_software_timed_run_waits_instead(
    folder: Path, daemon: DaemonAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "deepfocus_live._platform.available_memory_bytes", lambda: 6 * 2 * 64 * 80 * 2
    )
    microscope = _microscope(4)
    witness = Witness(microscope.core)
    with attach(microscope.core, config=folder / "config.yaml") as attached:
        os.kill(daemon.pid, signal.SIGSTOP)
        threading.Timer(0.7, partial(os.kill, daemon.pid, signal.SIGCONT)).start()
        begin = time.monotonic()
        microscope.core.mda.run(microscope.sequence())
        assert time.monotonic() - begin > 0.5
        assert attached.wait(30)
        status = attached.status()
        run = wait_until_closed(Path(status["runs"][0]))
    assert status["waits"] > 0
    assert status["frames_spilled"] == 0
    assert_stored_once(run, witness.frames)
    microscope.close()


def test_without_room_to_spill_frames_wait_in_memory(
    folder: Path, daemon: DaemonAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfocus_live.ring._spill._KEEP_FREE_BYTES", 1 << 60)
    microscope = _microscope(4)
    witness = Witness(microscope.core)
    with attach(microscope.core, config=folder / "config.yaml") as attached:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            microscope.core.mda.run(microscope.sequence(hardware_triggered=True))
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert attached.wait(30)
        status = attached.status()
        run = wait_until_closed(Path(status["runs"][0]))
    assert (status["frames_spilled"], status["waits"]) == (0, 0)
    assert_stored_once(run, witness.frames)
    microscope.close()


# ------------------------------------------------------------ camera faults


def _missed(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.journal if line["kind"] == "missed"]


@pytest.mark.parametrize("hardware", [False, True], ids=["software", "hardware"])
@pytest.mark.parametrize(
    ("faults", "lost_software", "lost_hardware"),
    [
        pytest.param(CameraFaults(dropped=frozenset({3, 6})), [3, 6], [4, 9], id="dropped"),
        pytest.param(CameraFaults(failing=frozenset({7})), [7], [7, 8, 9], id="raises"),
        pytest.param(CameraFaults(stalled_s={4: 0.3}), [], [], id="stall"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_run_with_a_faulty_camera_has_all_other_frames_and_says_which_are_missing(
    folder: Path,
    daemon: DaemonAddress,
    caplog: pytest.LogCaptureFixture,
    faults: CameraFaults,
    lost_software: list[int],
    lost_hardware: list[int],
    hardware: bool,
) -> None:
    lost = lost_hardware if hardware else lost_software
    microscope = _microscope(3, faults=faults)
    witness = Witness(microscope.core)
    sequence = microscope.sequence(3, hardware_triggered=hardware, as_="position")
    with attach(microscope.core) as attached:
        microscope.core.mda.run(sequence)
        assert attached.wait(30)
        status = attached.status()
        run = wait_until_closed(Path(status["runs"][0]))
    microscope.close()
    assert len(witness.frames) == 15 - len(lost)
    assert_stored_once(run, witness.frames)
    assert run.state == "completed"
    assert status["frames_missed"] == len(lost)
    said = [r.message for r in caplog.records if "did not deliver" in r.message]
    assert len(said) == bool(lost)
    if lost:
        (line,) = _missed(run)
        assert [5 * index["p"] + index["z"] for index in line["frames"]] == lost
        assert (line["count"], line["exact"]) == (len(lost), not hardware)
        assert ("hardware-sequenced" in said[0]) == hardware
        assert any(
            "did not deliver" in w["text"]
            for w in _ask(daemon, type="status")["status"]["warnings"]
        )
    else:
        assert _missed(run) == []


def test_image_that_changes_its_size_begins_a_run_that_misses_only_what_it_should(
    folder: Path, daemon: DaemonAddress
) -> None:
    faults = CameraFaults(roi={6: (8, 4, 32, 16)}, dropped=frozenset({2, 9}))
    microscope = _microscope(3, faults=faults)
    witness = Witness(microscope.core)
    with attach(microscope.core) as attached:
        microscope.core.mda.run(microscope.sequence(3))
        assert attached.wait(30)
        first, second = (wait_until_closed(Path(path)) for path in attached.status()["runs"])
    microscope.close()
    assert_stored_once(first, witness.frames[:5])
    assert_stored_once(second, witness.frames[5:])
    assert [frame.shape for frame in witness.frames[4:6]] == [(64, 80), (16, 32)]
    assert (first.state, second.state) == ("interrupted", "completed")
    assert [line["frames"] for line in _missed(first)] == [[{"t": 0, "z": 2}]]
    assert [line["frames"] for line in _missed(second)] == [[{"t": 1, "z": 4}]]


def test_cancelled_run_has_not_missed_what_was_not_begun(
    folder: Path, daemon: DaemonAddress
) -> None:
    microscope = _microscope(3, faults=CameraFaults(dropped=frozenset({2})))
    core = microscope.core
    witness = Witness(core)

    def cancel(event: useq.MDAEvent) -> None:
        if event.index["t"] == 1:
            core.mda.cancel()

    core.mda.events.eventStarted.connect(cancel)
    with attach(core) as attached:
        core.mda.run(microscope.sequence(3))
        assert attached.wait(30)
        run = wait_until_closed(Path(attached.status()["runs"][0]))
    microscope.close()
    assert run.state == "canceled"
    assert 4 <= len(witness.frames) <= 6
    assert [line["frames"] for line in _missed(run)] == [[{"t": 0, "z": 2}]]


# -------------------------------------------------------------- bad clients

_RUN = left_behind.spec_of("fuzz").model_dump(mode="json")
_VALID: dict[str, dict[str, Any]] = {
    "begin_run": {"spec": _RUN, "ring": "/nowhere/a.ring"},
    "end_run": {"run_id": "none", "reason": "completed", "frames": 1},
    "forecast": {"spec": _RUN},
    "frames": {"slots": [[0, 0]]},
    "live": {"ring": "/nowhere/a.ring", "slot": 0, "number": 0},
    "live_end": {},
    "status": {},
    "subscribe": {},
    "unheard-of": {"a": 1},
}
_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 2**31, 2**63, 2**80, -(2**80), 1e308, float("nan")])
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "x" * 10_000, "\0", "../..", "/dev/zero", "ä\ud800", "completed"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=6,
)


@st.composite
def _requests(draw: st.DrawFn) -> dict[str, Any]:
    """Return a message of which a part is missing, or is something else."""
    kind = draw(st.sampled_from(sorted(_VALID)))
    message: dict[str, Any] = {"type": kind, **_VALID[kind]}
    if "spec" in message and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(_RUN)))
        message["spec"] = {**_RUN, key: draw(_ANYTHING)}
    elif _VALID[kind]:
        key = draw(st.sampled_from(sorted(_VALID[kind])))
        if draw(st.booleans()):
            message[key] = draw(_ANYTHING)
        else:
            del message[key]
    return message


@pytest.fixture
def bystander(daemon: DaemonAddress) -> Iterator[Any]:
    """An acquisition that goes on all the while; what is done to others must not harm it."""
    microscope = _microscope(200, exposure_ms=20.0)
    core = microscope.core
    witness = Witness(core)
    with attach(core) as attached:
        thread = core.run_mda(microscope.sequence())
        _wait_until(lambda: len(witness.frames) > 2)
        yield
        attacked = len(witness.frames)
        _wait_until(lambda: len(witness.frames) > attacked + 2)
        core.mda.cancel()
        thread.join(20)
        assert attached.wait(30)
        status = attached.status()
        run = wait_until_closed(Path(status["runs"][0]))
    assert len(status["runs"]) == 1
    assert (status["restarts"], status["frames_refused"]) == (0, 0)
    assert_stored_once(run, witness.frames)
    microscope.close()


def test_no_message_of_wrong_shape_harms_the_daemon_or_another_client(
    daemon: DaemonAddress, bystander: None
) -> None:
    client = daemon.connect()

    @settings(
        max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(_requests())
    def attack(message: dict[str, Any]) -> None:
        client.send(message)
        assert client.ask({"type": "status"})["ok"]

    attack()
    client.close()


def test_every_part_of_every_message_is_asked_for(daemon: DaemonAddress, bystander: None) -> None:
    with daemon.connect() as client:
        for kind, parts in _VALID.items():
            for key in parts.keys() - {"frames", "a"} | ({"slots"} & parts.keys()):
                reply = client.ask({"type": kind, **{k: parts[k] for k in parts if k != key}})
                assert not reply["ok"]
                assert kind in reply["reason"]
        assert not client.ask({"type": "unheard-of"})["ok"]
        # In a wrong order: announced by one who never began a run; the end of an unknown one.
        assert "before their run" in client.ask({"type": "frames", "slots": [[0, 0]]})["reason"]
        assert client.ask({"type": "end_run", "run_id": "none", "reason": "x"})["ok"] is False
        assert client.ask({"type": "status"})["ok"]


def test_only_what_a_ring_really_carries_is_stored(folder: Path, daemon: DaemonAddress) -> None:
    ring = left_behind._ring("mine", 1)
    mine = {**_RUN, "run_id": "mine", "name": "mine"}
    with daemon.connect() as client:
        for spec, ring_path, reason in (
            (_RUN, ring.path, "carries run mine"),
            ({**_RUN, "run_id": "mine", "height_px": 10**9}, ring.path, "do not fit its slots"),
            (_RUN, "/dev/zero", "not a file"),
            (_RUN, log_path(), "not a ring"),
        ):
            message = {"type": "begin_run", "spec": spec, "ring": str(ring_path)}
            assert reason in client.ask(message)["reason"]
        assert ring.folder is None
        assert client.ask({"type": "begin_run", "spec": mine, "ring": str(ring.path)})["ok"]
        # No such slot, an empty one, another frame's number, and a thousand times nothing.
        client.send({"type": "frames", "slots": [[99, 0], [1, 0], [0, 5], [2**61, 2**61]] * 250})
        assert client.ask({"type": "status"})["status"]["waiting"]["frames"] == 0
        assert ring.waiting() == [(0, 0)]
        client.send({"type": "frames", "slots": [[0, 0]]})
        _wait_until(lambda: ring.is_free(0))
        reply = client.ask({"type": "end_run", "run_id": "mine", "reason": "completed"})
        assert (reply["ok"], reply["frames"]) == (True, 1)
    (run,) = (run for run in _new_runs(folder, set()) if run.spec.name == "mine")
    assert_stored_once(run, [left_behind.pixels_of("mine", 0)])
    ring.close(remove=True)


def test_floods_are_survived(daemon: DaemonAddress, bystander: None) -> None:
    strangers = [
        socket.create_connection(("127.0.0.1", daemon.port), timeout=5) for _ in range(400)
    ]
    # Who asks without end and never listens.
    deaf = daemon.connect()
    request = b'{"type":"unheard-of"}'
    flood = (struct.pack(">I", len(request)) + request) * 2000
    deaf._socket.settimeout(0.2)
    try:
        for _ in range(50):
            deaf._socket.sendall(flood)
    except TimeoutError:
        pass
    begin = time.monotonic()
    assert _ask(daemon, type="status")["ok"]
    assert time.monotonic() - begin < 5
    deaf.close()
    for stranger in strangers:
        stranger.close()
    log = log_path().read_text(encoding="utf-8")
    assert log.count("do not say who they are") == 1
    assert log.count("refused port") < 60
