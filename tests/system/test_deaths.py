"""Nothing is lost, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import useq
from pymmcore_plus import CMMCorePlus

from deepfocus_live import attach, open_run
from deepfocus_live.ring import DaemonAddress, find_daemon, leftover_rings
from tests.system._runs import (
    Witness,
    assert_masked_once,
    assert_stored_once,
    assert_valid,
    frame_lines,
    slice_of,
    wait_until_closed,
)

SCAN = useq.MDASequence.model_validate(
    {"time_plan": {"interval": 0, "loops": 8}, "z_plan": {"range": 9, "step": 1}}
)


def _when(core: CMMCorePlus, count: int, act: object) -> None:
    """Call `act` when `count` frames have been delivered."""
    seen = 0

    def see() -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            act()  # type: ignore[operator]

    # Kept alive by the core: signals hold their listeners weakly.
    core.__dict__.setdefault("_test_listeners", []).append(see)
    core.mda.events.frameReady.connect(see)


@pytest.mark.parametrize("at_frame", [3, 40])
def test_killed_daemon_stores_every_frame_exactly_once(
    at_frame: int, daemon: DaemonAddress, demo_core: CMMCorePlus
) -> None:
    witness = Witness(demo_core)
    _when(demo_core, at_frame, lambda: os.kill(daemon.pid, signal.SIGKILL))
    with attach(demo_core) as attached:
        demo_core.run_mda(SCAN, block=True)
        assert attached.wait(90)
        status = attached.status()
        run = wait_until_closed(Path(status["runs"][0]))
    assert status["restarts"] == 1
    assert status["pid"] != daemon.pid
    assert len(witness.frames) == 80
    assert_stored_once(run, witness.frames)
    assert_masked_once(run)
    assert_valid(run)
    assert run.state == "completed"
    labels = [line["t"] for line in run.journal if line["kind"] == "label"]
    assert sorted(set(labels)) == list(range(8))


def test_hung_daemon_is_replaced(
    daemon: DaemonAddress, demo_core: CMMCorePlus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfocus_live.microscope._link.HUNG_AFTER_S", 2.5)
    witness = Witness(demo_core)
    _when(demo_core, 10, lambda: os.kill(daemon.pid, signal.SIGSTOP))
    with attach(demo_core) as attached:
        demo_core.run_mda(SCAN, block=True)
        assert attached.wait(90)
        status = attached.status()
        run = wait_until_closed(Path(status["runs"][0]))
    assert not daemon.stamp.alive()
    assert status["restarts"] == 1
    assert_stored_once(run, witness.frames)


def test_killed_microscope_leaves_a_readable_run_and_no_ring(
    daemon: DaemonAddress, mm_config: Path, own_environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "microscope.py"
    script.write_text(
        "import os, signal, deepfocus_live, pymmcore_plus, useq\n"
        "core = pymmcore_plus.CMMCorePlus()\n"
        f"core.loadSystemConfiguration({str(mm_config)!r})\n"
        "attached = deepfocus_live.attach(core)\n"
        "seen = 0\n"
        "def die_later():\n"
        "    global seen\n"
        "    seen += 1\n"
        "    if seen == 30:\n"
        "        sent = str(attached.status()['frames_sent'])\n"
        f"        open({str(tmp_path / 'sent')!r}, 'w').write(sent)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "core.mda.events.frameReady.connect(die_later)\n"
        "core.run_mda(useq.MDASequence(time_plan={'interval': 0.01, 'loops': 100}), block=True)\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        [sys.executable, str(script)], timeout=60, env=own_environment, capture_output=True
    )
    assert result.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while leftover_rings() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not leftover_rings()
    (path,) = (tmp_path / "runs").iterdir()
    run = wait_until_closed(path)
    assert run.state == "interrupted"
    lines = frame_lines(run)
    sent = int((tmp_path / "sent").read_text())
    assert 0 < sent <= len(lines) <= 30, "what was in the ring is on the disk"
    assert_stored_once(run, [slice_of(run, line) for line in lines])
    assert_masked_once(run)
    assert_valid(run)


def _runs_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("[!.]*") if path.is_dir()]


def test_frames_left_by_a_dead_microscope_and_a_dead_daemon_are_stored_by_the_next(
    daemon: DaemonAddress,
    demo_core: CMMCorePlus,
    mm_config: Path,
    own_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    script = tmp_path / "microscope.py"
    script.write_text(
        "import os, signal, sys, time, deepfocus_live, pymmcore_plus, useq\n"
        "from deepfocus_live.ring import find_daemon\n"
        "core = pymmcore_plus.CMMCorePlus()\n"
        f"core.loadSystemConfiguration({str(mm_config)!r})\n"
        "attached = deepfocus_live.attach(core)\n"
        "seen = 0\n"
        "def both_die():\n"
        "    global seen\n"
        "    seen += 1\n"
        "    if seen == 20:\n"
        # Stopped, the daemon takes nothing more; what comes now is in the ring alone.
        "        os.kill(find_daemon().pid, signal.SIGSTOP)\n"
        "    if seen == 40:\n"
        "        time.sleep(0.5)\n"
        "        os.kill(find_daemon().pid, signal.SIGKILL)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "core.mda.events.frameReady.connect(both_die)\n"
        "core.run_mda(useq.MDASequence(time_plan={'interval': 0.01, 'loops': 100}), block=True)\n",
        encoding="utf-8",
    )
    subprocess.run([sys.executable, str(script)], timeout=60, env=own_environment)
    # A process that was killed while it was stopped takes a moment to go.
    deadline = time.monotonic() + 20
    while find_daemon() is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert find_daemon() is None
    assert len(leftover_rings()) == 1
    made = _runs_in(tmp_path / "runs")
    before = {line["sequence_number"] for path in made for line in frame_lines(open_run(path))}
    settings = tmp_path / "config.yaml"
    folders = f"models: {tmp_path / 'models'}\noutput: {tmp_path / 'runs'}\n"
    settings.write_text(folders, encoding="utf-8")
    with attach(demo_core, config=settings):
        # The daemon that died may not have got as far as the run's folder.
        deadline = time.monotonic() + 60
        while not (made := _runs_in(tmp_path / "runs")) and time.monotonic() < deadline:
            time.sleep(0.05)
        [path] = made
        run = wait_until_closed(path)
    stored = frame_lines(run)
    assert len(stored) == 40
    assert before < {line["sequence_number"] for line in stored}
    assert_stored_once(run, [slice_of(run, line) for line in stored])
    assert_masked_once(run)
    assert run.state == "interrupted"


def test_stop_waits_for_the_acquisition(daemon: DaemonAddress, demo_core: CMMCorePlus) -> None:
    witness = Witness(demo_core)

    def ask_to_stop() -> None:
        with daemon.connect() as client:
            while client.ask({"type": "status"})["status"]["state"] != "acquiring":
                time.sleep(0.01)
            assert client.ask({"type": "stop"})["acquiring"]

    _when(demo_core, 20, ask_to_stop)
    with attach(demo_core) as attached:
        demo_core.run_mda(SCAN, block=True)
        assert attached.wait(60)
        (path,) = attached.status()["runs"]
        assert daemon.stamp.wait(60)
        assert attached.status()["restarts"] == 0
    run = open_run(path)
    assert_stored_once(run, witness.frames)
    assert_masked_once(run)
