"""`compare` on the command line: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from deepfocus_live.cli._compare_figure import CURVES_PX, MASK, TRUTH, WIDTH_PX, _along, _draw_slice
from deepfocus_live.cli._compared import Compared, _overall
from deepfocus_live.evaluation import FIGURES, Scorer
from deepfocus_live.frames import Calibration
from deepfocus_live.stacks import open_masks
from tests.unit.test_cli import run
from tests.unit.test_cli_rank import no_constant
from tests.unit.test_masks import SHAPE as LABEL_SHAPE
from tests.unit.test_masks import ome_zarr, random_mask

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
Command = Callable[..., tuple[int, list[str], list[str]]]

SHAPE = (4, 30, 40)
STEP_UM = 2.5
OVERALL_KEYS = {"slices", *FIGURES, "iou_95", "f1_95", "focus_error"}
ERROR_KEYS = {"columns"} | {f"{f}_{u}" for f in ("median", "p95", "bias") for u in ("slices", "um")}


def drawn(seed: int) -> NDArray[np.uint8]:
    """Return a square in focus in the middle slices; what seeds say differs a little."""
    masks = np.zeros(SHAPE, np.uint8)
    masks[1:3, 8 + seed : 20, 10 : 24 - seed] = 1
    return masks


def tiff(path: Path, masks: NDArray[Any], *, step_um: float | None = None) -> Path:
    known = {"PhysicalSizeZ": step_um, "PhysicalSizeZUnit": "µm"} if step_um else {}
    metadata = {"axes": "ZYX", **known}
    tifffile.imwrite(path, masks, photometric="minisblack", metadata=metadata, ome=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiff(tmp_path / "masks.tif", drawn(0), step_um=STEP_UM)
    tiff(tmp_path / "truth.tif", 255 * drawn(2))
    tiff(tmp_path / "second.tif", drawn(3))
    return tmp_path


@pytest.fixture
def compare(folder: Path, monkeypatch: Patch, capsys: Capture) -> Command:
    """`compare` in the folder: exit code, and the lines of stdout and stderr."""
    monkeypatch.chdir(folder)

    def command(*words: object) -> tuple[int, list[str], list[str]]:
        line = ["compare", *map(str, words)]
        code, out, err = run(*line, monkeypatch=monkeypatch, capsys=capsys)
        return code, out.splitlines(), err.splitlines()

    return command


def document_of(said: tuple[int, list[str], list[str]]) -> dict[str, Any]:
    code, out, err = said
    assert code == 0, err
    document: dict[str, Any] = json.loads("\n".join(out), parse_constant=no_constant)
    return document


def scored(masks: NDArray[np.uint8], truth: NDArray[np.uint8]) -> dict[str, float | None]:
    """Return the figures of all slices, None for those not defined."""
    scorer = Scorer(masks.shape[1:])
    for z, planes in enumerate(zip(masks, truth, strict=True)):
        scorer.add(z, *planes)
    figures = scorer.finish().figures
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


# --- what it says -------------------------------------------------------------------------


def test_table_shows_all_slices_first_and_then_the_worst(compare: Command) -> None:
    code, out, err = compare("masks.tif", "truth.tif")
    assert (code, err) == (0, [])
    assert out[:2] == ["masks:  masks.tif", "truth:  truth.tif"]
    # 2 slices of 12 × 14 called, of 10 × 12 in focus: all misses are none.
    cells = {line[:24].strip(): line.split()[-1] for line in out[3:18]}
    assert any(line.split()[:2] == ["IoU", f"{120 / 168:.3f}"] for line in out)
    assert cells["precision"] == f"{120 / 168:.3f}"
    assert cells["recall"] == "1.000"
    assert any("focus error, median" in line and "0.00 slices, 0.00 µm" in line for line in out)
    worst = out[out.index("worst slices, most pixels wrong first:") + 1 :]
    assert len(worst) == 3  # headings, and the two slices with anything wrong
    assert [line.split()[:2] for line in worst[1:]] == [["masks", "1"], ["masks", "2"]]
    assert worst[1].split()[2:4] == [f"{100 * 48 / 1200:.2f}", "%"]
    assert len({len(line) for line in worst}) == 1  # aligned


def test_nothing_wrong_is_said(compare: Command, folder: Path) -> None:
    tiff(folder / "same.tif", drawn(0))
    _, out, _ = compare("masks.tif", "same.tif")
    assert out[-1] == "no pixel is wrong in any slice"


def test_json_is_strict_and_holds_the_figures_of_the_scorer(compare: Command) -> None:
    document = document_of(compare("masks.tif", "truth.tif", "second.tif", "--json"))
    assert document.keys() == {"masks", "truth", "truth2", "tolerance_px", "overall", "stacks"}
    assert document["truth2"] == {"path": "second.tif", "label": None}
    wanted = {
        "masks_truth": scored(drawn(0), drawn(2)),
        "masks_truth2": scored(drawn(0), drawn(3)),
        "truth_truth2": scored(drawn(2), drawn(3)),
    }
    assert document["overall"].keys() == wanted.keys()
    (stack,) = document["stacks"]
    assert (stack["name"], stack["shape"]) == ("masks", list(SHAPE))
    assert (stack["z_step_um"], stack["z_step_source"]) == (STEP_UM, "file")
    for pair, figures in wanted.items():
        overall = document["overall"][pair]
        assert overall.keys() == OVERALL_KEYS
        assert overall["focus_error"].keys() == ERROR_KEYS
        assert {name: overall[name] for name in FIGURES} == figures
        low, high = overall["iou_95"]
        assert low <= overall["iou"] <= high
        assert [one["z"] for one in stack[pair]["per_slice"]] == [0, 1, 2, 3]
        assert stack[pair]["per_slice"][0]["precision"] is None  # nothing called there
        assert stack[pair]["per_slice"][0]["iou"] == 1
        assert {**stack[pair], "per_slice": None} == {**overall, "per_slice": None}


def test_agreement_of_two_people_is_a_column_of_its_own(compare: Command) -> None:
    _, out, _ = compare("masks.tif", "truth.tif", "second.tif")
    (headings,) = (line for line in out if "masks:truth2" in line)
    assert headings.split() == ["masks:truth", "masks:truth2", "truth:truth2"]
    (kappa,) = (line for line in out if "kappa" in line)
    wanted = scored(drawn(2), drawn(3))["kappa"]
    assert kappa.split()[-1] == f"{wanted:.3f}"


@pytest.mark.parametrize(
    ("options", "step_um"),
    [
        pytest.param((), STEP_UM, id="of-the-file"),
        pytest.param(("--z-step-um", "4"), 4.0, id="given"),
    ],
)
def test_focus_error_is_told_in_um_where_the_step_is_known(
    compare: Command, folder: Path, options: tuple[str, ...], step_um: float
) -> None:
    tiff(folder / "lower.tif", np.roll(drawn(0), 1, axis=0))
    error = document_of(compare("masks.tif", "lower.tif", "--json", *options))["overall"][
        "masks_truth"
    ]["focus_error"]
    assert error["columns"] == 12 * 14
    assert (error["bias_slices"], error["p95_slices"]) == (-1, 1)
    assert (error["bias_um"], error["p95_um"]) == (-step_um, step_um)


def test_focus_error_stays_in_slices_where_no_step_is_known(compare: Command) -> None:
    code, out, _ = compare("second.tif", "truth.tif")
    assert code == 0
    assert any(line.startswith("The z-step is not known: --z-step-um") for line in out)
    assert not any("slices, " in line and "µm" in line for line in out)
    error = document_of(compare("second.tif", "truth.tif", "--json"))["overall"]["masks_truth"][
        "focus_error"
    ]
    assert (error["median_slices"], error["median_um"]) == (0, None)


def test_an_assumed_unit_is_said_and_kept_apart(compare: Command, folder: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 3.0}
    tifffile.imwrite(folder / "unitless.tif", drawn(0), imagej=True, metadata=metadata)
    code, out, err = compare("unitless.tif", "truth.tif", "--json")
    assert "µm is assumed" in err[0]
    (stack,) = document_of((code, out, err))["stacks"]
    assert (stack["z_step_um"], stack["z_step_source"]) == (3.0, "assumed")


def test_tolerance_reaches_the_boundaries(compare: Command) -> None:
    scores = [
        document_of(compare("masks.tif", "truth.tif", "--json", "--tolerance", px))["overall"][
            "masks_truth"
        ]["boundary_f1"]
        for px in (0, 1, 3)
    ]
    assert scores[0] < scores[1] < scores[2] == 1


# --- labels -------------------------------------------------------------------------------


def run_with_corrections(path: Path) -> dict[str, NDArray[np.uint8]]:
    corrected = random_mask(2, states=3)
    corrected[1] = 0
    labels = {
        "in_focus": random_mask(0),
        "weak_label": random_mask(1),
        "undecided": random_mask(4),
        "corrected": corrected,
    }
    ome_zarr(path, labels)
    return labels


def test_a_run_is_compared_with_its_own_corrections_where_there_are_some(
    compare: Command, folder: Path
) -> None:
    path = folder / "run.ome.zarr"
    labels = run_with_corrections(path)
    document = document_of(compare(path, path, "--json"))
    assert document["masks"]["label"] == "in_focus"
    assert document["truth"]["label"] == "corrected"
    said = [0, 2, 3]
    figures = scored(labels["in_focus"][said], labels["corrected"][said])
    overall = document["overall"]["masks_truth"]
    assert {name: overall[name] for name in FIGURES} == figures
    assert [one["z"] for one in document["stacks"][0]["masks_truth"]["per_slice"]] == said


def test_labels_are_chosen_for_each_of_the_three(compare: Command, folder: Path) -> None:
    path = folder / "run.ome.zarr"
    run_with_corrections(path)
    options = ["--label", "weak_label", "--truth-label", "in_focus", "--truth2-label", "undecided"]
    document = document_of(compare(path, path, path, "--json", *options))
    assert [document[which]["label"] for which in ("masks", "truth", "truth2")] == options[1::2]


def test_several_stacks_are_compared_in_order_and_pooled(compare: Command, folder: Path) -> None:
    masks = [random_mask(seed) for seed in range(4)]
    ome_zarr(folder / "a.ome.zarr", {"in_focus": masks[0]}, {"in_focus": masks[1]})
    ome_zarr(folder / "b.ome.zarr", {"in_focus": masks[2]}, {"in_focus": masks[3]})
    code, out, _ = compare("a.ome.zarr", "b.ome.zarr")
    assert code == 0
    iou = scored(np.concatenate(masks[:2]), np.concatenate(masks[2:]))["iou"]
    assert any(line.split()[:2] == ["IoU", f"{iou:.3f}"] for line in out)
    rows = [line.split() for line in out if line.startswith("  a-p")]
    each = {row[0]: row[2] for row in rows[:2]}
    assert each == {f"a-p{n}": f"{scored(masks[n], masks[2 + n])['iou']:.3f}" for n in range(2)}


def compared_in_memory(masks: NDArray[np.uint8], truth: NDArray[np.uint8], path: Path) -> Compared:
    scorer = Scorer(SHAPE[1:])
    for z, planes in enumerate(zip(masks, truth, strict=True)):
        scorer.add(z, *planes)
    opened = open_masks(path)[0]
    return Compared(opened, (opened,), (scorer.finish(),), Calibration(2.0, "file"))


def test_depths_are_pooled_in_um_only_where_every_step_is_known(folder: Path) -> None:
    known = compared_in_memory(drawn(0), np.roll(drawn(0), 1, axis=0), folder / "masks.tif")
    other = replace(known, z_step_um=Calibration(4.0, "file"))
    error = _overall([known, other], 0)["focus_error"]
    assert (error["bias_slices"], error["bias_um"], error["p95_um"]) == (-1, -3, 4)
    error = _overall([known, replace(known, z_step_um=None)], 0)["focus_error"]
    assert (error["bias_slices"], error["bias_um"], error["p95_um"]) == (-1, None, None)


# --- what it writes -----------------------------------------------------------------------


def test_csv_has_a_row_for_every_slice_and_blanks_where_nothing_is_defined(
    compare: Command, folder: Path
) -> None:
    path = folder / "run.ome.zarr"
    labels = run_with_corrections(path)
    code, out, _ = compare(path, path, path, "--truth2-label", "weak_label", "--csv", "f.csv")
    assert (code, out[-1]) == (0, "written: f.csv")
    with (folder / "f.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    prefixes = ("", "truth2_", "agreement_")
    assert list(rows[0]) == ["stack", "z", *(p + name for p in prefixes for name in FIGURES)]
    assert [(row["stack"], row["z"]) for row in rows] == [("run", str(z)) for z in range(4)]
    assert {rows[1][name] for name in FIGURES} == {""}  # nobody corrected it
    assert rows[1]["truth2_iou"] != ""
    wanted = scored(labels["in_focus"][2:3], labels["corrected"][2:3])
    assert float(rows[2]["recall"]) == wanted["recall"]


def test_a_figure_that_is_not_defined_is_blank(compare: Command, folder: Path) -> None:
    compare("masks.tif", "truth.tif", "--csv", "f.csv")
    with (folder / "f.csv").open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["iou"], first["precision"], first["false_area"]) == ("1.0", "", "0.0")


def picture(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.int64)


def pixels_like(image: NDArray[np.int64], colour: str) -> int:
    rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(image - rgb).max(axis=2) < 12).sum())


def test_figure_shows_curves_and_outlines_of_mask_and_truth(compare: Command, folder: Path) -> None:
    words = ["masks.tif", "truth.tif", "second.tif", "--figure", "f.png"]
    code, out, _ = compare(*words)
    assert (code, out[-1]) == (0, "written: f.png")
    image = picture(folder / "f.png")
    assert image.shape[1] == WIDTH_PX
    assert image.shape[0] > CURVES_PX + 300
    slices = image[CURVES_PX:]
    assert pixels_like(slices, MASK) > 300
    assert pixels_like(slices, TRUTH) > 300
    assert pixels_like(image[:CURVES_PX], "#000000") > 500
    assert pixels_like(image[:CURVES_PX], "#d55e00") > 50  # the two truths' agreement


def test_figure_of_masks_without_an_error_has_only_curves(compare: Command, folder: Path) -> None:
    tiff(folder / "same.tif", drawn(0))
    assert compare("masks.tif", "same.tif", "--figure", "f.png")[0] == 0
    assert picture(folder / "f.png").shape[0] == CURVES_PX


def test_figure_of_several_stacks(compare: Command, folder: Path) -> None:
    labels = run_with_corrections(folder / "run.ome.zarr")
    ome_zarr(folder / "two.ome.zarr", labels, labels)
    assert compare("two.ome.zarr", "two.ome.zarr", "--figure", "f.png")[0] == 0
    assert picture(folder / "f.png").shape[0] > CURVES_PX + 300


def test_outlines_are_drawn_on_the_slice_they_belong_to(folder: Path) -> None:
    labels = run_with_corrections(folder / "run.ome.zarr")
    (masks,), (truth,) = (
        open_masks(folder / "run.ome.zarr", label) for label in ("in_focus", "corrected")
    )
    scorer = Scorer(LABEL_SHAPE[1:])
    scorer.add(2, masks[2], truth[2])
    axes = Figure().subplots()
    one = Compared(masks, (truth,), (scorer.finish(),), None)
    _draw_slice(axes, one, one.comparisons[0].slices[0], named=True)
    shown, veil = (np.asarray(image.get_array()) for image in axes.images)
    assert (shown == 102).all()  # the counts of slice 2
    np.testing.assert_array_equal(veil[..., 3] > 0, labels["corrected"][2] == 2)
    assert axes.get_title(loc="left").startswith("run, z 2: ")


def test_curves_break_between_stacks_and_where_nothing_is_defined(folder: Path) -> None:
    one = compared_in_memory(drawn(0), drawn(2), folder / "masks.tif")
    curve = _along([one, one], 0, "recall")
    nan = np.nan
    np.testing.assert_array_equal(curve, [nan, 1, 1, nan, nan, nan, 1, 1, nan])


def test_files_in_the_way_are_replaced_whole(
    compare: Command, folder: Path, monkeypatch: Patch
) -> None:
    (folder / "f.csv").write_text("before", encoding="utf-8")
    assert compare("masks.tif", "truth.tif", "--csv", "f.csv")[0] == 0
    written = (folder / "f.csv").read_text(encoding="utf-8")
    assert written.startswith("stack,z,iou")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    code, _, err = compare("masks.tif", "second.tif", "--csv", "f.csv")
    assert code == 2
    assert err[-1].endswith("f.csv cannot be written (No space left on device): name another place")
    assert (folder / "f.csv").read_text(encoding="utf-8") == written
    assert not list(folder.glob(".*"))


# --- what it refuses ----------------------------------------------------------------------


def silent_run(folder: Path) -> list[object]:
    masks = {"in_focus": random_mask(0), "corrected": np.zeros(LABEL_SHAPE, np.uint8)}
    path = ome_zarr(folder / "run.ome.zarr", masks)
    return [path, path, "--truth-label", "corrected"]


def all_undecided(folder: Path) -> list[object]:
    masks = {"in_focus": random_mask(0), "corrected": np.full(LABEL_SHAPE, 2, np.uint8)}
    path = ome_zarr(folder / "run.ome.zarr", masks)
    return [path, path]


def itself(folder: Path) -> list[object]:
    path = ome_zarr(folder / "run.ome.zarr", {"in_focus": random_mask(0)})
    return [path, path]


def more_stacks(folder: Path) -> list[object]:
    mask = {"in_focus": random_mask(0)}
    return [
        ome_zarr(folder / "two.ome.zarr", mask, mask),
        ome_zarr(folder / "one.ome.zarr", mask),
    ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(
            lambda f: ["masks.tif", tiff(f / "s.tif", drawn(0)[:, 1:])],
            "masks.tif (masks) is 4 × 30 × 40, ",
            id="size",
        ),
        pytest.param(
            lambda f: ["masks.tif", "truth.tif", tiff(f / "s.tif", drawn(0)[1:])],
            "s.tif (s) 3 × 30 × 40 (Z × Y × X): give masks of the same slices",
            id="slices-of-truth2",
        ),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "--truth-label", "corrected"],
            "truth.tif: holds masks and no labels",
            id="label-of-tiff",
        ),
        pytest.param(
            lambda f: ["masks.tif", tiff(f / "s.tif", drawn(0).astype(np.float32))],
            "float32 pixels are no mask",
            id="floats",
        ),
        pytest.param(
            lambda f: [
                "masks.tif",
                tiff(f / "s.tif", 1000 + np.arange(4800).reshape(SHAPE).astype(np.uint16)),
            ],
            "slice 0 has values 1000 to 2199 and no 0: that is an image, not a mask",
            id="image",
        ),
        pytest.param(silent_run, "run.ome.zarr (corrected) says nothing where", id="silent"),
        pytest.param(all_undecided, "run.ome.zarr (corrected) says nothing where", id="undecided"),
        pytest.param(itself, "in_focus would be compared with itself", id="itself"),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "./truth.tif"],
            "would be compared with itself",
            id="truths-alike",
        ),
        pytest.param(more_stacks, "holds 2 stacks of masks, ", id="more-stacks"),
        pytest.param(lambda _: ["masks.tif", "none.tif"], "none.tif: no such file", id="missing"),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "--csv", "f.txt"], "f.txt is not a .csv", id="csv"
        ),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "--figure", "f.pdf"],
            "f.pdf is not a .png",
            id="figure",
        ),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "--figure", "no/f.png"],
            "no such folder no;",
            id="folder",
        ),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "--z-step-um", "0"], "0 is no distance", id="step"
        ),
        pytest.param(
            lambda _: ["masks.tif", "truth.tif", "--tolerance", "-1"], "'--tolerance'", id="px"
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    compare: Command, folder: Path, make: Callable[[Path], list[object]], words: str
) -> None:
    given = make(folder)
    before = set(folder.iterdir())
    code, out, err = compare(*given)
    assert (code, out) == (2, [])
    complaints = [line for line in err if line.startswith("deepfocus-live: ")]
    assert len(complaints) == 1
    assert words in complaints[0]
    assert set(folder.iterdir()) == before
