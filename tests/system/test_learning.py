"""Learning beside an acquisition: agreement, the fine-tune, the swap when it is due."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfocus_live import attach
from deepfocus_live.learning import AgreementCounter
from deepfocus_live.microscope.simulated import SimulatedMicroscope, load_simulated_microscope
from deepfocus_live.model import Registry, seal
from deepfocus_live.ring import find_daemon, private_daemon
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.volume import Run
from tests.journal_reference import undocumented
from tests.system._runs import wait_until_closed

SHAPE = (8, 192, 192)


@pytest.fixture
def microscope() -> SimulatedMicroscope:
    stack = simulate_focal_stack("organoids", shape=SHAPE, seed=2)
    return load_simulated_microscope(
        [stack.slices], z_um=[stack.z_um], pixel_size_um=0.65, exposure_ms=20
    )


def _ask(**message: str) -> dict[str, Any]:
    address = find_daemon()
    assert address is not None
    with address.connect() as client:
        return client.ask(message)


def _learning() -> dict[str, Any]:
    return dict(_ask(type="status")["status"]["learning"])


def _until(done: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, _learning()
        time.sleep(0.1)
    return found


def _scan(microscope: SimulatedMicroscope, stacks: int) -> Run:
    with attach(microscope.core) as attached:
        microscope.core.run_mda(microscope.sequence(stacks), block=True)
        assert attached.wait(60)
        return wait_until_closed(Path(attached.status()["runs"][0]))


def _lines(run: Run, kind: str) -> list[dict[str, Any]]:
    return [line for line in run.journal if line["kind"] == kind]


def _assert_as_stored(run: Run, line: dict[str, Any]) -> None:
    """The agreement that was journalled is that of the labels and masks on the disk."""
    labels, counter = run.images[line["image"]].labels, AgreementCounter()
    for z in range(SHAPE[0]):
        at = line["t"], line["c"], z
        names = "in_focus", "weak_label", "undecided"
        mask, weak, undecided = (np.asarray(labels[name][at]) for name in names)
        counter.add(mask, weak, undecided)
    found = counter.result()
    assert found.iou is not None and found.in_focus > 0.01
    assert line["iou"] == pytest.approx(found.iou, abs=1e-4)
    assert line["decided"] == pytest.approx(found.decided, abs=1e-4)


def _last_decision() -> str:
    return str(_learning()["profiles"][0]["decision"] or "")


def test_daemon_judges_what_it_masks_and_teaches_itself_beside_the_acquisition(
    microscope: SimulatedMicroscope, tmp_path: Path
) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text("learning: {after_stacks: 2, minutes: 5}\n", encoding="utf-8")
    registry = Registry(tmp_path / "models")
    shipped = registry.shipped_version()
    shutil.copytree(shipped.path, tmp_path / "copy")
    seal(tmp_path / "copy", {**shipped.card, "name": "copy"})
    registry.add(tmp_path / "copy")
    with private_daemon(tmp_path, "--config", str(settings)):
        refused = _ask(type="retrain", profile="default")
        assert not refused["ok"] and "no stack yet" in refused["reason"]
        run = _scan(microscope, 2)
        agreements = _lines(run, "agreement")
        found = sorted((line["t"], line["models"]) for line in agreements)
        assert found == [(0, [shipped.name]), (1, [shipped.name])]
        for line in agreements:
            _assert_as_stored(run, line)
        (profile,) = _learning()["profiles"]
        assert profile["agreement_series"] == [line["iou"] for line in agreements]
        _until(lambda: _learning()["trainer"]["progress"], 40)
        assert "2 new stacks, 2 asked for" in _last_decision()
        assert _ask(type="status")["status"]["model"] == shipped.name
        # By hand: at once; and what cannot be is refused.
        assert _ask(type="use_model", profile="default", name="copy")["ok"]
        assert _ask(type="status")["status"]["model"] == "copy"
        assert "copy was made current by hand" in _last_decision()
        assert not _ask(type="use_model", profile="default", name="none")["ok"]
        assert not _ask(type="rollback", profile="nobody")["ok"]
        assert _ask(type="rollback", profile="default")["ok"]
        assert _ask(type="status")["status"]["model"] == registry.current_name() == shipped.name
    assert {line["kind"] for line in run.journal} >= {"frame", "mask", "label", "agreement", "end"}
    assert undocumented(run.journal) == set()
    # The daemon's end has ended its trainer, and the next one goes on with it.
    kept = json.loads((registry.root / "learning" / "default.json").read_text(encoding="utf-8"))
    assert kept["running"] and len(kept["lesson"]["new"]) == len(kept["earlier"]) == 2
