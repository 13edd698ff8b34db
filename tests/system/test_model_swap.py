"""A new current model takes over between two slices; a bad one does not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepfocus_live import attach
from deepfocus_live.microscope.simulated import SimulatedMicroscope, load_simulated_microscope
from deepfocus_live.model import Registry, seal
from deepfocus_live.ring import DaemonAddress, find_daemon
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.volume import Run
from tests.system._runs import assert_masked_once, wait_until_closed


@pytest.fixture
def microscope() -> SimulatedMicroscope:
    stack = simulate_focal_stack("organoids", shape=(8, 192, 192), seed=2)
    return load_simulated_microscope(
        [stack.slices], z_um=[stack.z_um], pixel_size_um=0.65, exposure_ms=60
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The registry of the test's own daemon."""
    return Registry(tmp_path / "models")


def _add_copy(registry: Registry, folder: Path, name: str) -> None:
    """Register the shipped model under another name."""
    shipped = registry.shipped_version()
    shutil.copytree(shipped.path, folder / name)
    seal(folder / name, {**shipped.card, "name": name})
    registry.add(folder / name)


def _scan(microscope: SimulatedMicroscope, at_frame: int, act: Callable[[], object]) -> Run:
    seen = 0

    def see() -> None:
        nonlocal seen
        seen += 1
        if seen == at_frame:
            # On a busy machine masks come late: the model before must have made one.
            deadline = time.monotonic() + 60
            while not attached.status()["frames_masked"] and time.monotonic() < deadline:
                time.sleep(0.02)
            act()

    with attach(microscope.core) as attached:
        microscope.core.mda.events.frameReady.connect(see)
        microscope.core.run_mda(microscope.sequence(5), block=True)
        assert attached.wait(60)
        return wait_until_closed(Path(attached.status()["runs"][0]))


def _status() -> dict[str, object]:
    address = find_daemon()
    assert address is not None
    with address.connect() as client:
        status: dict[str, object] = client.ask({"type": "status"})["status"]
    return status


def test_new_current_model_swaps_in_between_slices_never_within_one(
    daemon: DaemonAddress, microscope: SimulatedMicroscope, registry: Registry, tmp_path: Path
) -> None:
    _add_copy(registry, tmp_path, "copy-1")
    run = _scan(microscope, 8, lambda: registry.use("copy-1"))
    assert_masked_once(run)
    masks = [line for line in run.journal if line["kind"] == "mask"]
    models = [line["model"] for line in masks]
    shipped = registry.shipped_version().name
    assert set(models) == {shipped, "copy-1"}
    # Once the new one has taken over, the old one is not asked again.
    assert models == sorted(models, key=lambda name: name == "copy-1")
    assert {line["provider"] for line in masks} == {_status()["provider"]}
    assert [line["model"] for line in run.journal if line["kind"] == "model"] == ["copy-1"]
    assert _status()["model"] == "copy-1"


def test_damaged_model_is_refused_and_the_old_one_goes_on(
    daemon: DaemonAddress, microscope: SimulatedMicroscope, registry: Registry, tmp_path: Path
) -> None:
    _add_copy(registry, tmp_path, "copy-1")
    registry.use("copy-1")
    while _status()["model"] != "copy-1":
        time.sleep(0.05)
    _add_copy(registry, tmp_path, "copy-2")

    def use_damaged() -> None:
        registry.use("copy-2")
        graph = registry.get("copy-2").onnx
        graph.chmod(0o600)
        graph.write_bytes(graph.read_bytes()[:-1000])

    run = _scan(microscope, 2, use_damaged)
    assert_masked_once(run)
    assert {line["model"] for line in run.journal if line["kind"] == "mask"} == {"copy-1"}
    warnings = _status()["warnings"]
    assert isinstance(warnings, list)
    assert any("copy-2" in warning["text"] for warning in warnings)
