"""`retrain` as a whole: from unannotated stacks to a registered, gated model."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import tifffile

from deepfocus_live.errors import InputError
from deepfocus_live.focus import warm_up
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import Registry
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.training import Progress, RetrainReport, retrain

ORGANOIDS = Path(__file__).parents[2].parent / "shared" / "data" / "organoid_A01.ome.tif"


@pytest.fixture(scope="module")
def stack_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    # Compiling counts as the user's time: here it would be all of it.
    warm_up()
    folder = tmp_path_factory.mktemp("stacks")
    files = []
    for seed in (1, 2):
        stack = simulate_focal_stack("organoid_layer", shape=(7, 192, 192), seed=seed)
        files.append(folder / f"stack_{seed}.tif")
        tifffile.imwrite(files[-1], stack.slices)
    return files


@pytest.fixture(scope="module")
def drifting_file(stack_files: list[Path]) -> Path:
    slices = tifffile.imread(stack_files[0])
    path = stack_files[0].with_name("drifting.tif")
    tifffile.imwrite(path, np.stack([np.roll(s, 4 * z, axis=1) for z, s in enumerate(slices)]))
    return path


def _retrain_elsewhere(files: list[Path], root: Path) -> RetrainReport:
    return retrain(files, registry=Registry(root), minutes=0.25, threads=1)


def test_retrained_model_is_registered_gated_and_in_time(
    stack_files: list[Path], drifting_file: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "models")
    told: list[Progress] = []
    report = retrain(
        [*stack_files, drifting_file],
        registry=registry,
        minutes=0.25,
        activate=True,
        threads=1,
        progress=told.append,
    )
    assert report.minutes < 2 * 0.25, "the time given is no suggestion; twice is for a busy machine"
    assert report.steps > 0
    assert report.parent == registry.shipped_version().name
    assert 0.0 <= report.iou_before <= 1.0
    assert report.passed == (
        report.iou_after >= report.iou_before and report.empty_share_after <= 0.01
    )
    assert report.activated == report.passed
    wanted = report.name if report.passed else registry.shipped_version().name
    assert registry.current().name == wanted
    version = registry.get(report.name)
    assert version.path == report.path
    assert version.card["metrics"]["iou_after"] == pytest.approx(report.iou_after, abs=1e-3)
    assert InFocusModel.load(version).infer(np.zeros((64, 64), np.uint16)).mask.shape == (64, 64)
    assert {p.stage for p in told} == {"label", "train", "export"}
    assert all(0.0 <= p.done <= 1.0 for p in told)
    assert report.left_out == ("drifting is left out: the specimen moves sideways during the scan",)
    assert version.card["trained_on"] == ["stack_1", "stack_2"]
    # What came out can be taught further.
    assert version.weights.is_file()


def test_retraining_runs_in_a_spawned_process(stack_files: list[Path], tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        report = pool.apply(_retrain_elsewhere, (stack_files, tmp_path / "models"))
    assert not report.activated
    assert "not asked" in report.reason or "refused" in report.reason
    assert Registry(tmp_path / "models").get(report.name).name == report.name


def test_stacks_without_focus_are_refused_and_nothing_is_registered(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "flat.tif", np.full((5, 128, 256), 500, np.uint16))
    registry = Registry(tmp_path / "models")
    with pytest.raises(InputError, match="nothing is in focus"):
        retrain([tmp_path / "flat.tif"], registry=registry, minutes=1)
    with pytest.raises(InputError, match="no stack was given"):
        retrain([], registry=registry, minutes=1)
    with pytest.raises(InputError, match="minutes is 0"):
        retrain([tmp_path / "flat.tif"], registry=registry, minutes=0)
    assert not registry.root.exists()


def test_nothing_is_learned_where_every_specimen_drifts(
    drifting_file: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "models")
    with pytest.raises(InputError, match="no stack is left to learn from: drifting is left out"):
        retrain([drifting_file], registry=registry, minutes=1)
    assert not registry.root.exists()


def test_too_little_time_is_refused_in_words(stack_files: list[Path], tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    with pytest.raises(InputError, match="too short"):
        retrain(stack_files, registry=registry, minutes=0.001)
    assert not registry.root.exists()


@pytest.mark.skipif(not ORGANOIDS.is_file(), reason="the real organoid stack is not here")
def test_one_real_stack_is_parted_by_region(tmp_path: Path) -> None:
    report = retrain([ORGANOIDS], registry=Registry(tmp_path / "models"), minutes=0.25)
    assert "region" in report.held_out
    assert report.iou_after >= report.iou_before
