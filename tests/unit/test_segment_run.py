"""`segment RUN`: one model's masks of a whole run, beside the live ones."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw
from ome_zarr_models.v05.labels import Labels

from deepfocus_live.cli._main import main
from deepfocus_live.errors import InputError
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import Registry
from deepfocus_live.stacks import open_masks
from deepfocus_live.volume import (
    LABELS,
    RunWriter,
    find_leftovers,
    halve_labels,
    open_run,
    read_ledger,
    recompute_masks,
    recomputed_label,
    verify_run,
)
from tests.journal_reference import undocumented
from tests.stored_frames import QUICK, pixels_of, run_spec, store_frame

Command = Callable[..., tuple[int, str, str]]
SIZE = (70, 300)  # wide enough for a pyramid
SPEC = run_spec(
    height_px=SIZE[0],
    width_px=SIZE[1],
    images=[
        {"name": "here", "size_t": 1, "size_z": 3},
        {"name": "there", "position": 1, "size_t": 2, "size_z": 3},
    ],
    channels=[{"name": "BF"}, {"name": "DIC"}],
)
LABEL = "in_focus_v2"
FRAMES = [
    {"t": t, "p": p, "c": c, "z": z}
    for p, times in ((0, 1), (1, 2))
    for t in range(times)
    for c in range(2)
    for z in range(2)  # the last of three was never taken
]


def brightest(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Stand in for a network: in focus is what is bright."""
    return (pixels > 40000).astype(np.uint8)


def _make(output: Path, *, end: bool = True) -> Path:
    writer = RunWriter.create(output, SPEC, QUICK, about={})
    for number, index in enumerate(FRAMES):
        store_frame(writer, number, index)
    if end:
        writer.end("canceled")
    writer.close()
    return writer.path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def assert_masks_of_all(run: Path, label: str = LABEL) -> None:
    """Every slice that was taken has its mask, at every level; those that were not are blank."""
    images = open_run(run).images
    for number, index in enumerate(FRAMES):
        at = (index["t"], index["c"], index["z"])
        wanted = brightest(pixels_of(number, SPEC))
        group = zarr.open_group(str(run / f"volume.ome.zarr/{index['p']}/labels/{label}"))
        for level in range(2):
            array: Any = group[str(level)]
            np.testing.assert_array_equal(array[at], wanted)
            wanted = halve_labels(wanted)
    for image in images:
        assert image.labels[label].shape == image.image.shape
        assert not np.asarray(image.labels[label][:, :, 2]).any()


def assert_valid(run: Path, *labels: str) -> None:
    store = run / "volume.ome.zarr"
    yaozarrs.validate_zarr_store(str(store))
    for image in BioFormats2Raw.from_zarr(zarr.open_group(str(store), mode="r")).image_paths:
        yaozarrs.validate_zarr_store(str(store / image))
        group = zarr.open_group(str(store / image / "labels"), mode="r")
        assert Labels.from_zarr(group).attributes.ome.labels == [*LABELS, *labels]


def test_whole_run_gets_masks_of_one_model_beside_the_live_ones(run: Path) -> None:
    told: list[str] = []
    live = [np.asarray(image.in_focus[...]) for image in open_run(run).images]
    about = {"provider": "cpu"}
    made = recompute_masks(run, "v2", brightest, about=about, advance=told.append)
    assert (made.label, made.slices, made.made) == (LABEL, len(FRAMES), len(FRAMES))
    assert made.in_focus_fraction == pytest.approx(1 - 40000 / 65535, abs=0.01)
    assert len(told) == len(FRAMES)
    assert_masks_of_all(run)
    assert_valid(run, LABEL)
    for image, before in zip(open_run(run).images, live, strict=True):
        np.testing.assert_array_equal(image.in_focus[...], before)
    line = open_run(run).journal[-1]
    assert (line["kind"], line["label"], line["model"]) == ("recomputed", LABEL, "v2")
    assert line["slices"] == len(FRAMES) and line["provider"] == "cpu"
    assert undocumented([line]) == set()
    assert not find_leftovers(read_ledger(run))
    assert verify_run(read_ledger(run)).whole
    [first, *_] = open_masks(run, LABEL)
    np.testing.assert_array_equal(first[1], brightest(pixels_of(1, SPEC)))


def test_killed_one_leaves_a_valid_run_and_goes_on_with_the_next_image(run: Path) -> None:
    class KilledError(BaseException):
        pass

    seen = 0

    def killed_in_the_second_image(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        nonlocal seen
        seen += 1
        if seen == 6:
            raise KilledError
        return brightest(pixels)

    with pytest.raises(KilledError):
        recompute_masks(run, "v2", killed_in_the_second_image)
    yaozarrs.validate_zarr_store(str(run / "volume.ome.zarr"))
    assert not find_leftovers(read_ledger(run))
    assert open_run(run).journal[-1]["kind"] == "end"
    # A killed process could not clean up, and a label may have its name without being listed.
    aside = run / "volume.ome.zarr/.1.partial"
    shutil.copytree(run / f"volume.ome.zarr/0/labels/{LABEL}", aside)
    listed = run / "volume.ome.zarr/0/labels/zarr.json"
    fields = json.loads(listed.read_text("utf-8"))
    fields["attributes"]["ome"]["labels"] = list(LABELS)
    listed.write_text(json.dumps(fields), "utf-8")
    made = recompute_masks(run, "v2", brightest)
    assert made.made == len(FRAMES) - 4, "what was whole is not made again"
    assert_masks_of_all(run)
    assert_valid(run, LABEL)
    assert not aside.exists()


def test_done_again_nothing_is_made_and_another_model_gets_a_label_of_its_own(run: Path) -> None:
    recompute_masks(run, "v2", brightest)
    journal = (run / "frames.jsonl").read_bytes()
    again = recompute_masks(run, "v2", lambda pixels: 1 - brightest(pixels))
    assert (again.slices, again.made, again.in_focus_fraction) == (len(FRAMES), 0, None)
    assert (run / "frames.jsonl").read_bytes() == journal
    assert_masks_of_all(run)
    recompute_masks(run, "a b/c", brightest)
    assert_masks_of_all(run, "in_focus_a-b-c")
    assert_valid(run, LABEL, "in_focus_a-b-c")


@pytest.mark.parametrize(
    ("name", "label"),
    [("shipped-3", "in_focus_shipped-3"), ("../x", "in_focus_x"), ("", "in_focus_model")],
)
def test_label_has_the_name_of_the_version(name: str, label: str) -> None:
    assert recomputed_label(name) == label


def test_run_that_is_not_finished_or_kept_no_pixels_is_refused(run: Path, tmp_path: Path) -> None:
    open_one = _make(tmp_path, end=False)
    masks_only = Path(shutil.copytree(run, tmp_path / "masks_only"))
    record = masks_only / "run.json"
    said = record.read_text("utf-8").replace('"pixels_stored": true', '"pixels_stored": false')
    record.write_text(said, "utf-8")
    for path, says in {
        open_one: "has not ended",
        masks_only: "were not stored",
        tmp_path: "not a run directory",
    }.items():
        with pytest.raises(InputError, match=says) as refused:
            recompute_masks(path, "v2", brightest)
        assert "\n" not in str(refused.value)
        assert not list(path.rglob(f"*{LABEL}*")) or path == tmp_path
    writer = RunWriter.reopen(run, QUICK)
    try:
        with pytest.raises(InputError, match="another process is writing this run"):
            recompute_masks(run, "v2", brightest)
    finally:
        writer.close()


# --- the command ----------------------------------------------------------------------------


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepfocus-live", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_command_segments_a_run_and_compare_takes_its_masks(
    run: Path, tmp_path: Path, command: Command
) -> None:
    models = ("--models", tmp_path / "models")
    version = Registry(tmp_path / "models").shipped_version()
    label = f"in_focus_{version.name}"
    code, out, err = command("segment", run, "--model", version.name, "--provider", "cpu", *models)
    assert code == 0, err
    assert f"written: the label {label}" in out and f"{len(FRAMES)} slices" in out
    network = InFocusModel.load(version, provider="cpu")
    stored = np.asarray(open_run(run).images[1].labels[label][1, 1, 0])
    np.testing.assert_array_equal(stored, network.infer(pixels_of(10, SPEC)).mask)
    code, out, err = command("segment", run, "--provider", "cpu", *models)
    assert code == 0 and f"{label} is there already" in out
    code, out, err = command("compare", run, run, "--label", label, "--truth-label", "in_focus")
    assert code == 0 and "IoU" in out, err


BAD = [
    pytest.param(("--overwrite",), "--overwrite is for -o", id="overwrite"),
    pytest.param(("--model", "none-such"), "no model is called", id="unknown-model"),
]


@pytest.mark.parametrize(("more", "says"), BAD)
def test_bad_command_is_refused_in_one_line(
    run: Path, tmp_path: Path, command: Command, more: tuple[str, ...], says: str
) -> None:
    code, out, err = command("segment", run, "--models", tmp_path / "models", *more)
    assert code == 2 and says in err and out == ""
    assert open_run(run).journal[-1]["kind"] == "end"


def test_stack_that_is_no_run_needs_an_output(tmp_path: Path, command: Command) -> None:
    code, _, err = command("segment", tmp_path / "stack.tif")
    assert code == 2 and "-o OUT.ome.zarr" in err
