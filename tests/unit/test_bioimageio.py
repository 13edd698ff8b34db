"""The BioImage.IO package says the truth about itself, and other programs' checks pass."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from PIL import Image

from deepfocus_live.model import Registry, export_bioimageio, open_session
from deepfocus_live.model._bioimageio import wrapped
from deepfocus_live.simulation import simulate_focal_stack

SHIPPED = Registry().shipped_version()


@pytest.fixture(scope="module")
def z_slice() -> np.ndarray:
    # Focus crosses the field: part of every crop of it is in focus.
    return simulate_focal_stack("tilted_sheet", shape=(9, 128, 160), seed=3).slices[4]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, z_slice: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("package") / "fish.zip"
    export_bioimageio(SHIPPED, path, z_slice, authors=["Ada"], spdx_license="MIT")
    return path


@pytest.fixture(scope="module")
def graph() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        wrapped(SHIPPED).SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 65, 90), (1, 127, 155)])
def test_wrapped_graph_gives_what_the_model_gives(
    graph: onnxruntime.InferenceSession, z_slice: np.ndarray, shape: tuple[int, int, int]
) -> None:
    raw = np.stack([np.roll(z_slice, 20 * n, 0) for n in range(shape[0])])
    raw = raw[:, -shape[1] :, -shape[2] :]
    mask, low = open_session(SHIPPED.onnx).run(None, {"z_slice": raw})
    [answer] = graph.run(None, {"raw": raw[:, None].astype(np.float32)})
    assert (answer.dtype, answer.shape) == (np.float32, (shape[0], 2, *shape[1:]))
    np.testing.assert_array_equal(answer[:, 0], mask)
    assert 0 < mask.mean() < 1
    side = SHIPPED.card["architecture"]["reduction"]
    full = low.repeat(side, axis=1).repeat(side, axis=2)[:, : shape[1], : shape[2]]
    np.testing.assert_allclose(answer[:, 1], full / 255.0, atol=1e-6)


def test_floats_beside_counts_are_rounded_and_kept_inside_them(
    graph: onnxruntime.InferenceSession, z_slice: np.ndarray
) -> None:
    raw = (z_slice // 50)[None, None].astype(np.float32)  # so dim that one count is much
    raw[..., :8, :8], raw[..., 8:16, :8] = 0, 65535
    wild = raw + np.random.default_rng(0).uniform(-0.4, 0.4, raw.shape).astype(np.float32)
    wild[..., :8, :8], wild[..., 8:16, :8] = -7.0, 1e6
    want, got = (graph.run(None, {"raw": given})[0] for given in (raw, wild))
    np.testing.assert_array_equal(got, want)
    assert np.ptp(want) > 0


def test_graph_asks_for_no_newer_runtime_than_it_needs() -> None:
    model = wrapped(SHIPPED)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    onnx.checker.check_model(model, full_check=True)


def test_package_lists_its_files_with_their_checksums(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        about = yaml.safe_load(archive.read("rdf.yaml"))
        tensors = [t[k] for t in about["inputs"] + about["outputs"] for k in t if "tensor" in k]
        for entry in [*tensors, *about["attachments"], about["weights"]["onnx"]]:
            data = archive.read(entry["source"])
            assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert {entry["source"] for entry in about["attachments"]} == {
            file.name for file in SHIPPED.path.iterdir()
        }
        cover = Image.open(io.BytesIO(archive.read(about["covers"][0])))
        assert "## Validation" in archive.read(about["documentation"]).decode()
    assert cover.width == 2 * cover.height * 160 // 128
    assert (about["authors"], about["license"]) == ([{"name": "Ada"}], "MIT")
    assert about["config"]["deepfocus_live"]["name"] == SHIPPED.name
    assert about["cite"][0]["doi"] == "10.1038/s41598-023-38490-2"


# In a process of its own: it leaves files open, which the test run counts as failures.
_TEST_RUN = """
import json, socket, sys

def refuse(*arguments, **named):
    raise RuntimeError(f"asked the network: {arguments}")

socket.socket.connect = socket.getaddrinfo = refuse
from bioimageio.core import test_model

summary = test_model(sys.argv[1], devices=["CPUExecutionProvider"])
details = [(d.name, d.status, [e.msg for e in d.errors]) for d in summary.details]
print(json.dumps([summary.status, details]))
"""


def test_bioimageio_core_runs_the_package_without_a_network(package: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("bioimageio") is None:
        pytest.skip("bioimageio.core is not installed")
    done = subprocess.run(
        [sys.executable, "-c", _TEST_RUN, str(package)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "BIOIMAGEIO_CACHE_PATH": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    status, details = json.loads(done.stdout.splitlines()[-1])
    failures = [d for d in details if d[1] != "passed" or d[2]]
    assert (status, failures) == ("passed", []), failures
    names = [name for name, *_ in details]
    assert any(name.startswith("Reproduce test outputs") for name in names)
    # Two batch sizes of three image sizes: the axes hold what they promise.
    assert sum("inference for inputs with" in name for name in names) == 6
