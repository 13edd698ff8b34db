"""The whole way in one command."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from deepfocus_live import open_run
from deepfocus_live.model import default_root
from deepfocus_live.simulation import simulate_focal_stack
from tests.system._runs import assert_masked_once, assert_stored_once, assert_valid


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stacks") / "specimen.ome.tif"
    stack = simulate_focal_stack("organoids", shape=(7, 192, 256), seed=1)
    tifffile.imwrite(
        path,
        stack.slices,
        ome=True,
        metadata={
            "axes": "ZYX",
            "PhysicalSizeX": 0.65,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeZ": 6.0,
            "PhysicalSizeZUnit": "µm",
        },
    )
    return path


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(f"{file} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def test_demo_stores_every_slice_with_mask_and_label(stack_file: Path, tmp_path: Path) -> None:
    # The registry folder is looked up without being made: the demo must not make it either.
    before = default_root().exists(), _fingerprint(default_root())
    result = subprocess.run(
        [
            *(sys.executable, "-m", "deepfocus_live", "demo", str(stack_file)),
            *("--stacks", "2", "--headless", "--output", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert result.returncode == 0, result.stderr
    assert "slices stored 14 of 14, masks 14, stacks labelled 2" in result.stdout
    (path,) = tmp_path.iterdir()
    run = open_run(path)
    assert run.state == "completed"
    slices = tifffile.imread(stack_file)
    assert_stored_once(run, [*slices, *slices])
    assert_masked_once(run)
    assert_valid(run)
    labels = [line for line in run.journal if line["kind"] == "label"]
    assert [(line["t"], len(line["in_focus_fraction"])) for line in labels] == [(0, 7), (1, 7)]
    weak = np.asarray(run.images[0].labels["weak_label"][...])
    shares = [share for line in labels for share in line["in_focus_fraction"]]
    np.testing.assert_allclose(weak.mean(axis=(1, 3, 4)).ravel(), shares, atol=1e-6)
    assert weak.any()
    assert run.spec.pixel_size_um is not None
    assert run.spec.pixel_size_um.um == pytest.approx(0.65)
    assert run.spec.z_step_um is not None
    assert run.spec.z_step_um.um == pytest.approx(6.0)
    after = default_root().exists(), _fingerprint(default_root())
    assert after == before, "the demo touched the user's own models"
