"""`rank` on the command line: the table, the JSON, the picture, and bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from deepfocus_live.focus import MEASURES, PRESETS
from deepfocus_live.simulation import simulate_focal_stack
from tests.unit.test_cli import run
from tests.unit.test_imports import _loaded_by

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

STACK_KEYS = {
    "name",
    "path",
    "shape",
    "z_um",
    "window_px",
    "stride_px",
    "noise_counts",
    "textured_share",
    "inverted",
    "at_ends",
    "recommended",
    "reason",
    "measures",
}
MEASURE_KEYS = {
    "measure",
    "best_z",
    "reliable",
    "sensitivity",
    "false_peaks",
    "noise_robustness",
    "inverted",
    "ms_per_slice",
    "mean_focus_score",
    "axial_curve",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stacks: one of a specimen with its z-step, one of noise, one too short."""
    folder = tmp_path_factory.mktemp("rank")
    specimen = simulate_focal_stack("organoids", shape=(7, 128, 128), seed=3).slices
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 6.0, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(folder / "specimen.ome.tif", specimen, metadata=metadata)
    noise = np.random.default_rng(0).normal(1000, 30, (5, 64, 64)).astype(np.uint16)
    tifffile.imwrite(folder / "noise.tif", noise, photometric="minisblack")
    tifffile.imwrite(folder / "short.tif", noise[:2], photometric="minisblack")
    return folder


def test_table_has_the_best_measure_first_and_one_recommendation(
    folder: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    paths = [str(folder / "specimen.ome.tif"), str(folder / "noise.tif")]
    code, out, _ = run("rank", *paths, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    first, second = out.strip().split("\n\n")
    title, headings, *rows, recommended = first.splitlines()
    assert title.startswith("specimen: 7 slices")
    assert headings.split()[:4] == ["measure", "best", "z", "reliable"]
    assert {row.split()[0] for row in rows} == set(MEASURES)
    assert len({len(row) for row in (headings, *rows)}) == 1  # aligned
    reliable = [float(row.split()[2]) for row in rows]
    assert reliable[0] >= max(reliable) - 0.06
    assert recommended.split()[:2] == ["recommended:", "--preset"]
    assert recommended.split()[2] in PRESETS
    assert second.splitlines()[0].startswith("noise: 5 slices, 0 % textured")
    assert second.splitlines()[1].startswith("nothing to rank: too little signal")


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_json_is_one_strict_document_with_promised_keys(
    folder: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    paths = [str(folder / "specimen.ome.tif"), str(folder / "noise.tif")]
    code, out, _ = run("rank", *paths, "--json", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    document = json.loads(out, parse_constant=no_constant)
    assert document.keys() == {"stacks"}
    specimen, noise = document["stacks"]
    for stack in (specimen, noise):
        assert stack.keys() == STACK_KEYS
        assert all(measure.keys() == MEASURE_KEYS for measure in stack["measures"])
        assert {measure["measure"] for measure in stack["measures"]} == set(MEASURES)
    assert specimen["z_um"] == [6.0 * z for z in range(7)]
    assert specimen["recommended"] in PRESETS
    assert all(0 <= measure["reliable"] <= 1 for measure in specimen["measures"])
    assert all(max(measure["axial_curve"]) == 1 for measure in specimen["measures"])
    assert noise["z_um"] is noise["recommended"] is noise["inverted"] is None
    assert all(measure["sensitivity"] is None for measure in noise["measures"])


def test_window_reaches_the_scan(folder: Path, monkeypatch: Patch, capsys: Capture) -> None:
    arguments = ["rank", str(folder / "specimen.ome.tif"), "--json", "--window", "64"]
    _, out, _ = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    (stack,) = json.loads(out)["stacks"]
    assert (stack["window_px"], stack["stride_px"]) == (64, 32)


def picture(path: Path) -> NDArray[np.uint8]:
    """Read a PNG as (Y, X, 3)."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_plot_is_one_picture_that_grows_with_the_stacks(
    folder: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    specimen, noise = str(folder / "specimen.ome.tif"), str(folder / "noise.tif")
    pictures = []
    for stacks in ([specimen], [specimen, noise, specimen]):
        plot = tmp_path / f"{len(stacks)}.png"
        arguments = ["rank", *stacks, "--plot", str(plot)]
        code, out, _ = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
        assert (code, out.splitlines()[-1]) == (0, f"written: {plot}")
        pictures.append(picture(plot))
    one, three = pictures
    assert one.shape == (420, 1200, 3)
    assert three.shape == (840, 1200, 3)
    for drawn in pictures:
        assert (drawn == 255).all(axis=2).mean() > 0.8  # mostly paper
        colourful = np.ptp(drawn.astype(int), axis=2) > 60
        assert colourful.sum() > 2000  # curves, not only axes
    assert not (np.ptp(three[:420, 650:].astype(int), axis=2) > 60).any()  # noise has no colour


def bad_plots(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return what is no place for a picture, and what must be said of it."""
    return {
        "folder": (folder / "no" / "F.png", "no such folder"),
        "suffix": (folder / "F.pdf", "is not a .png"),
        "directory": (folder / "D.png", "is a folder"),
    }


@pytest.mark.parametrize("case", ["folder", "suffix", "directory"])
def test_a_bad_plot_is_refused_before_the_work(
    case: str, folder: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    (tmp_path / "D.png").mkdir()
    plot, words = bad_plots(tmp_path)[case]
    arguments = ["rank", str(folder / "specimen.ome.tif"), "--plot", str(plot)]
    code, out, err = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert str(plot if case != "folder" else plot.parent) in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["short.tif"], "short.tif: ranking needs at least 3 slices", id="short"),
        pytest.param(["noise.tif", "--window", "33"], "33 px is odd", id="odd"),
        pytest.param(["noise.tif", "--window", "8"], "'--window'", id="narrow"),
        pytest.param(["missing.tif"], "no such file", id="missing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, folder: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    path, *options = arguments
    code, out, err = run(
        "rank", str(folder / path), *options, monkeypatch=monkeypatch, capsys=capsys
    )
    assert (code, out) == (2, "")
    complaint = [line for line in err.splitlines() if line.startswith("deepfocus-live: ")]
    assert len(complaint) == 1
    assert words in complaint[0]


@pytest.mark.parametrize("statement", ["import deepfocus_live.cli", "import deepfocus_live.focus"])
def test_drawing_is_loaded_only_to_draw(statement: str) -> None:
    assert _loaded_by(statement, ("matplotlib", "skimage")) == ""


def test_numbers_that_are_none_become_null() -> None:
    from deepfocus_live.cli import _rank

    cases: list[tuple[float, Any]] = [(math.nan, None), (0.0, 0.0), (0.5, 0.5)]
    assert [_rank._or_null(number) for number, _ in cases] == [said for _, said in cases]
