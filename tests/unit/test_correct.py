"""A person's masks come back into a run, where all that reads hand-made masks finds them."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v05.bioformats2raw as bf2raw
import pytest
import tifffile
import yaozarrs
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05.labels import Labels

from deepfocus_live.cli._main import main
from deepfocus_live.errors import InputError
from deepfocus_live.export import Export
from deepfocus_live.frames import StackKey
from deepfocus_live.stacks import open_masks
from deepfocus_live.training._inputs import gather
from deepfocus_live.volume import (
    LABELS,
    RunWriter,
    correct_stack,
    find_leftovers,
    mend_files,
    open_run,
    read_ledger,
    spell_slices,
)
from tests.journal_reference import undocumented
from tests.stored_frames import QUICK, run_spec, store_frame

Command = Callable[..., tuple[int, str, str]]
Mask = NDArray[np.uint8]

SIZE = (12, 300)
SPEC = run_spec(
    height_px=SIZE[0],
    width_px=SIZE[1],  # wide enough for a pyramid
    images=[
        {"name": "here", "size_t": 1, "size_z": 4},
        {"name": "there", "position": 1, "size_t": 2, "size_z": 3},
    ],
    channels=[{"name": "BF"}, {"name": "DIC"}],
)
ONE = ("--image", "there", "--channel", "1")
"""The stack that most tests correct: image 1, t 1, c 1, of 3 slices, the last without live mask."""
OUTCOME = "image 1 (there), t 1, DIC: "


def _random(seed: int, shape: tuple[int, ...] = (3, *SIZE), states: int = 2) -> Mask:
    return np.random.default_rng(seed).integers(0, states, shape).astype(np.uint8)


LIVE = _random(0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; the last slice of the first image's stacks was never taken."""
    writer = RunWriter.create(tmp_path_factory.mktemp("runs"), SPEC, QUICK, about={})
    number = 0
    for p, c, z in [(p, c, z) for p in range(2) for c in range(2) for z in range(3)]:
        stored = store_frame(writer, number, {"t": p, "p": p, "c": c, "z": z})
        if stored.placement[0] == 1 and z < 2:
            chance = np.zeros((3, 75), np.uint8)
            writer.write_mask(stored.placement, LIVE[z], chance, sequence_number=number)
        number += 1
    writer.end("canceled")
    writer.close()
    return writer.path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `correct` in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepfocus-live", "correct", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def _tiff(run: Path, masks: NDArray[Any], name: str = "drawn.tif", **how: Any) -> Path:
    path = run.with_name(name)
    how = how or {"photometric": "minisblack"}
    tifffile.imwrite(path, masks, **how)
    return path


def _corrected(run: Path, level: int = 0, *, c: int = 1) -> Mask:
    """Return what stands in the label of the stack that most tests correct, or of its other."""
    label = run / "volume.ome.zarr/1/labels/corrected"
    array: Any = zarr.open_array(str(label / str(level)), mode="r")
    return np.asarray(array[1, c])


def _contents(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".writer.lock"
    }


def _assert_valid(run: Path, *more: str) -> None:
    """Ask both validators about the volume and all that is in it."""
    store = run / "volume.ome.zarr"
    root: Any = zarr.open_group(str(store), mode="r")
    assert bf2raw.BioFormats2Raw.from_zarr(root).image_paths == ["0", "1"]
    for image in ("", "0", "1"):
        yaozarrs.validate_zarr_store(str(store / image))
    for image, names in (("0", ()), ("1", more)):
        labels = Labels.from_zarr(root[image]["labels"]).attributes.ome.labels
        assert labels == [*LABELS, *names]
    for name in more:
        yaozarrs.validate_zarr_store(str(store / "1" / "labels" / name))


def test_masks_drawn_by_a_person_come_back_and_everything_else_stays(
    run: Path, command: Command
) -> None:
    _assert_valid(run)
    before = _contents(run)
    drawn = _random(1)
    drawn[0] = LIVE[0]
    drawn[1] = 0  # a person found nothing in focus
    path = _tiff(run, 255 * drawn)
    changed = np.count_nonzero(LIVE[1])
    code, out, err = command(run, path, *ONE, "--slices", "0-1")
    share = 100 * changed / LIVE[:2].size
    told = f"slices 0-1 corrected; {changed} pixels ({share:.2f} %) differ from the live masks\n"
    assert (code, out, err) == (0, OUTCOME + told, "")
    _assert_valid(run, "corrected")

    wanted = drawn.copy()
    wanted[1, 0, 0] = 2  # so that it is not taken for one that nobody looked at
    wanted[2] = 0
    np.testing.assert_array_equal(_corrected(run), wanted)
    np.testing.assert_array_equal(_corrected(run, 1), wanted[:, ::2, ::2])
    shown = open_run(run).images
    assert "corrected" not in shown[0].labels
    np.testing.assert_array_equal(shown[1].labels["corrected"][1, 1], wanted)

    after = _contents(run)
    new = {name for name in after if name not in before}
    assert {name.split("/c/")[0] for name in new} == {
        f"volume.ome.zarr/1/labels/corrected/{name}" for name in ("zarr.json", "0", "1")
    } | {f"volume.ome.zarr/1/labels/corrected/{n}/zarr.json" for n in range(2)}
    told_of = {"frames.jsonl", "volume.ome.zarr/1/labels/zarr.json"}
    assert {name for name in before if before[name] != after[name]} == told_of
    assert after["frames.jsonl"].startswith(before["frames.jsonl"])
    (line,) = map(json.loads, after["frames.jsonl"][len(before["frames.jsonl"]) :].splitlines())
    assert line.pop("at") > 1.7e9
    assert line == {
        "kind": "corrected",
        **{"image": 1, "t": 1, "c": 1, "slices": [0, 1]},
        **{"file": "drawn.tif", "pixels_changed": changed},
    }

    # Recovering changes nothing of it, and goes on listing it.
    listed = run / "volume.ome.zarr/1/labels/zarr.json"
    listed.unlink()
    ledger = read_ledger(run)
    mend_files(ledger, find_leftovers(ledger))
    assert json.loads(listed.read_bytes()) == json.loads(after[listed.relative_to(run).as_posix()])
    assert _contents(run).keys() == after.keys()

    # What learns from a run, and what hands it on.
    with contextlib.ExitStack() as files:
        stacks = gather([run], [], files)
        said = [[one.masks.said(z) for z in range(one.stack.shape[0])] for one in stacks]  # type: ignore[union-attr]
        assert said == [[False] * 4] * 2 + [[False] * 3] * 3 + [[True, True, False]]
    written = Export(run, run.with_name("out"), what="masks").write()
    (exported,) = (path for path in written if "corrected" in path.name)
    np.testing.assert_array_equal(tifffile.imread(exported)[1, 1], wanted)


def test_slices_corrected_before_are_kept_or_replaced_as_one_says(
    run: Path, command: Command
) -> None:
    first, second = 1 + _random(1), _random(2)
    image = run.with_name("first.zarr")
    zarr.create_array(str(image), data=first)  # every pixel is in focus
    code, out, _ = command(run, image, *ONE, "--slices", "2,0")
    assert code == 0 and out.startswith(OUTCOME + "slices 0, 2 corrected; ")
    path = _tiff(run, second)
    before = _contents(run)
    code, out, err = command(run, path, *ONE)
    assert (code, out) == (2, "")
    assert "slices 0, 2 of this stack are corrected already: give --replace" in err
    assert _contents(run) == before
    assert command(run, path, *ONE, "--slices", "1")[0] == 0
    all_in_focus = np.ones_like(second[0])
    np.testing.assert_array_equal(_corrected(run), [all_in_focus, second[1], all_in_focus])

    looked = np.zeros_like(second)
    looked[2, 3:9, :50] = 255
    where = _tiff(run, looked, "looked.tif")
    code, out, _ = command(run, path, *ONE, "--reviewed", where, "--replace")
    assert (code, out) == (0, OUTCOME + "slice 2 corrected; no live masks to compare with\n")
    assert open_run(run).journal[-1]["pixels_changed"] is None
    looked[1, 2:, 50:] = 255
    _tiff(run, looked, "looked.tif")
    assert command(run, path, *ONE, "--reviewed", where, "--replace")[0] == 0
    np.testing.assert_array_equal(_corrected(run)[0], all_in_focus)
    np.testing.assert_array_equal(_corrected(run)[1:], np.where(looked > 0, second, 2)[1:])
    changed = np.count_nonzero((second[1] != LIVE[1]) & (looked[1] > 0))
    line = open_run(run).journal[-1]
    assert (line["slices"], line["reviewed"]) == ([1, 2], "looked.tif")
    assert line["pixels_changed"] == changed
    assert undocumented(open_run(run).journal) == set()

    # Doubts, and what is not said, come along from a label that was corrected elsewhere.
    other = run.with_name("other")
    shutil.copytree(run, other)
    shutil.rmtree(other / "volume.ome.zarr/1/labels/corrected")
    assert command(other, run, *ONE)[0] == 0
    np.testing.assert_array_equal(_corrected(other), _corrected(run))


def _planes(run: Path) -> Path:
    """All planes of the image in order, as napari saves a layer of labels."""
    return _tiff(run, np.stack([_random(seed) for seed in (5, 6, 7, 8)]).reshape(2, 2, 3, *SIZE))


def _hyperstack(run: Path) -> Path:
    channels = np.stack([_random(seed) for seed in (5, 6, 7, 8)]).reshape(2, 2, 3, *SIZE)
    planes = 255 * channels.swapaxes(1, 2)
    return _tiff(run, planes, imagej=True, metadata={"axes": "TZCYX"})


@pytest.mark.parametrize("save", [_planes, _hyperstack])
def test_masks_of_a_whole_image_give_those_of_the_stack(
    run: Path, command: Command, save: Callable[[Path], Path]
) -> None:
    assert command(run, save(run), "--image", "1", "--channel", "BF")[0] == 0
    np.testing.assert_array_equal(_corrected(run, c=0), _random(7))


def test_slices_that_were_never_taken_are_not_corrected(run: Path, command: Command) -> None:
    path = _tiff(run, _random(1, (4, *SIZE)))
    code, out, _ = command(run, path, "--image", "0", "--channel", "BF")
    assert (code, out.split("; ")[0]) == (0, "image 0 (here), t 0, BF: slices 0-2 corrected")
    code, _, err = command(run, path, "--image", "0", "--channel", "DIC", "--slices", "2-3")
    assert code == 2 and "has no slice 3 in this stack" in err


def _no_end(run: Path) -> None:
    lines = (run / "frames.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run / "frames.jsonl").write_text("".join(x for x in lines if '"end"' not in x), "utf-8")


def _foreign(run: Path) -> None:
    label = run / "volume.ome.zarr/1/labels/corrected"
    shutil.copytree(run / "volume.ome.zarr/1/labels/in_focus", label)
    shutil.rmtree(label / "0")
    shape = (1, 2, 3, *SIZE)
    zarr.create_array(str(label / "0"), shape=shape, chunks=shape, dtype="uint8")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(_no_end, "`deepfocus-live recover run` first", id="no-end"),
        pytest.param(_foreign, "of another program", id="foreign-label"),
    ],
)
def test_run_that_is_not_as_it_must_be_is_refused(
    run: Path, command: Command, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(run)
    before = _contents(run)
    code, _, err = command(run, _tiff(run, LIVE), *ONE)
    assert code == 2 and says in err
    assert _contents(run) == before


_REFUSED: list[Any] = [
    pytest.param((4, *SIZE), ONE, "masks are 4 × 12 × 300, the stack is 3 × 12 × 3", id="slices"),
    pytest.param((3, 12, 299), ONE, "masks are 3 × 12 × 299, the stack is 3 × 12 × 3", id="size"),
    pytest.param(LIVE.shape, (*ONE, "--slices", "1-3"), "has slices 0 to 2", id="beyond"),
    pytest.param(LIVE.shape, (*ONE, "--slices", "2-1"), "name slices as 3,5-9", id="turned"),
    pytest.param(
        LIVE.shape, (*ONE, "--slices", "1", "--reviewed", "x"), "give one of them", id="both"
    ),
    pytest.param(LIVE.shape, (), "any of 4 stacks, from image 0 (here), t 0, BF", id="which"),
    pytest.param(LIVE.shape, ("--image", "1"), "say which with --channel.", id="which-channel"),
    pytest.param(LIVE.shape, (*ONE, "--t", "0"), "has no such stack", id="no-stack"),
    pytest.param(None, ONE, "no such file", id="no-masks"),
]


@pytest.mark.parametrize(("shape", "options", "says"), _REFUSED)
def test_what_cannot_be_is_refused_in_one_line(
    finished: Path,
    tmp_path: Path,
    command: Command,
    shape: tuple[int, ...] | None,
    options: tuple[str, ...],
    says: str,
) -> None:
    masks = tmp_path / "drawn.tif"
    if shape is not None:
        tifffile.imwrite(masks, np.zeros(shape, np.uint8), photometric="minisblack")
    code, out, err = command(finished, masks, *options)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line
    assert not (finished / "volume.ome.zarr/1/labels/corrected").exists()


def test_run_that_a_process_has_open_is_refused(tmp_path: Path, command: Command) -> None:
    spec = run_spec(height_px=SIZE[0], width_px=SIZE[1])
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    try:
        store_frame(writer, 0)
        writer.end("completed")  # and yet it may be about to write masks
        masks = _tiff(writer.path, _random(1))
        code, _, err = command(writer.path, masks)
        assert code == 2 and "another process is writing this run" in err
    finally:
        writer.close()
    assert command(writer.path, masks)[0] == 0
    # A program goes on with it where it was: what a person drew is none of its business.
    again = RunWriter.reopen(writer.path, QUICK)
    again.close()
    assert again.frames_durable == 1
    assert [mask.said(0) for mask in open_masks(writer.path, "corrected")] == [True]


@pytest.mark.parametrize("refused", ["slice", "line"])
def test_label_is_as_it_was_when_the_disk_refuses(
    run: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    key = StackKey(SPEC.run_id, 1, 1, 1)

    def correct(seed: int, slices: list[int]) -> None:
        drawn = _random(seed)
        correct_stack(run, key, lambda z: drawn[z], slices, about={}, overwrite=True)

    correct(1, [0])
    before = _contents(run)
    disk_full = OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if refused == "line":
            patch.setattr("deepfocus_live.volume._journal.Journal._write", lambda *_: disk_full)
        else:
            # The last slice's last level.
            target = run / "volume.ome.zarr/1/labels/corrected/1/c/1/1/2"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"")  # a file where a folder must be
        with pytest.raises(InputError, match=r"run: cannot be corrected: .*as they were"):
            correct(2, [0, 1, 2])
    if refused == "slice":
        target.unlink()
    assert _contents(run) == before


def test_slices_are_spelled_as_a_person_writes_them() -> None:
    assert spell_slices([9, 3, 5, 6, 7]) == "3, 5-7, 9"
    assert spell_slices([0, 1]) == "0-1"
    assert spell_slices([]) == ""
