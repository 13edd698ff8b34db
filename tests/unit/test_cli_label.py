"""`label` on the command line: what it writes, what it says, and what it takes into account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from deepfocus_live.focus import (
    PRESETS,
    Conditions,
    ScanPreset,
    StackLabels,
    depth_map,
    label_stack,
)
from deepfocus_live.simulation import simulate_focal_stack
from tests.unit.test_cli import run

Command = Callable[..., tuple[list[str], str]]

SHAPE = (7, 128, 160)
PIXEL_UM, STEP_UM = 0.65, 6.0
KNOWN = Conditions(pixel_size_um=PIXEL_UM, z_step_um=STEP_UM)


@pytest.fixture(scope="module")
def slices() -> NDArray[Any]:
    return simulate_focal_stack("organoids", shape=SHAPE, seed=3).slices


@pytest.fixture(scope="module")
def folder(slices: NDArray[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same slices with a calibration, without one, without its unit, and drifting."""
    folder = tmp_path_factory.mktemp("label")
    metadata = {
        "axes": "ZYX",
        **{f"PhysicalSize{axis}": PIXEL_UM for axis in "XY"},
        "PhysicalSizeZ": STEP_UM,
        **{f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"},
    }
    tifffile.imwrite(folder / "known.ome.tif", slices, metadata=metadata)
    tifffile.imwrite(folder / "plain.tif", slices, photometric="minisblack")
    spaced = {"axes": "ZYX", "spacing": STEP_UM}
    tifffile.imwrite(folder / "unitless.tif", slices, imagej=True, metadata=spaced)
    drifting = np.stack([np.roll(plane, 4 * z, axis=1) for z, plane in enumerate(slices)])
    tifffile.imwrite(folder / "drifting.tif", drifting, photometric="minisblack")
    return folder


@pytest.fixture
def label(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """`label` of stacks of the folder, into `out.ome.zarr`: what it says on stdout and stderr."""

    def command(*words: object) -> tuple[list[str], str]:
        paths = [
            str(folder / str(word)) if (folder / str(word)).is_file() else str(word)
            for word in words
        ]
        output = str(tmp_path / "out.ome.zarr")
        code, out, err = run("label", *paths, "-o", output, monkeypatch=monkeypatch, capsys=capsys)
        assert code == 0, err
        return out.splitlines(), err

    return command


def stored(path: Path) -> NDArray[Any]:
    """Return the full resolution of an image or label."""
    return np.asarray(zarr.open_array(str(path / "0"), mode="r")[0, 0])


def assert_written(output: Path, labels: StackLabels) -> None:
    """The file says of every pixel what the labels say."""
    for z in range(len(labels.arrived)):
        weak, undecided = (stored(output / "labels" / n)[z] for n in ("weak_label", "undecided"))
        np.testing.assert_array_equal(weak, labels.weak_label_slice(z))
        np.testing.assert_array_equal(undecided, labels.undecided_slice(z))


def test_default_labels_know_the_stack_s_calibration_and_say_what_is_undecided(
    label: Command, slices: NDArray[Any], tmp_path: Path
) -> None:
    (line, *_, last), _ = label("known.ome.tif")
    output = tmp_path / "out.ome.zarr"
    assert_written(output, label_stack(slices, conditions=KNOWN))
    weak, undecided = (stored(output / "labels" / n) for n in ("weak_label", "undecided"))
    assert line == (
        f"known: 7 slices, {100 * weak.mean():.1f} % in focus, "
        f"{100 * undecided.mean():.1f} % undecided, best z {weak.mean(axis=(1, 2)).argmax()}"
    )
    assert weak.any() and undecided.any()
    assert last == f"written: {output}"
    np.testing.assert_array_equal(stored(output), slices)


def test_notes_stand_below_the_stack_that_they_are_about(label: Command) -> None:
    out, _ = label("drifting.tif", "plain.tif")
    about: dict[str, list[str]] = {}
    name = ""
    for line in out[:-1]:
        if line.startswith("  "):
            about[name].append(line)
        else:
            name = line.partition(":")[0]
            about[name] = []
    assert list(about) == ["drifting", "plain"]
    assert [note for note in about["drifting"] if "moves sideways" in note]
    assert [note for note in about["plain"] if "moves sideways" in note] == []


def test_measure_takes_the_place_of_the_preset_s_own(
    label: Command, slices: NDArray[Any], tmp_path: Path
) -> None:
    label("plain.tif", "--preset", "axial", "--measure", "tenengrad")
    axial = PRESETS["axial"]
    assert isinstance(axial, ScanPreset)
    assert_written(tmp_path / "out.ome.zarr", label_stack(slices, axial.measured_by("tenengrad")))


def test_presets_that_correct_for_nothing_take_no_conditions(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("label", str(folder / "plain.tif"), "-o", str(tmp_path / "out.ome.zarr"))
    flags = ("--preset", "axial", "--dark-offset", "100")
    code, _, err = run(*words, *flags, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "axial takes no account of optics" in err
    assert not (tmp_path / "out.ome.zarr").exists()


def test_optics_set_the_windows_and_judge_the_z_step(
    label: Command, slices: NDArray[Any], tmp_path: Path
) -> None:
    optics = ("--numerical-aperture", 0.5, "--wavelength-nm", 480, "--window-um", 20)
    out, _ = label("known.ome.tif", *optics)
    assert [line for line in out if line.startswith("  z-step 6.0 µm is above the depth of field")]
    conditions = Conditions(
        pixel_size_um=PIXEL_UM,
        z_step_um=STEP_UM,
        numerical_aperture=0.5,
        wavelength_um=0.48,
        window_um=20.0,
    )
    labels = label_stack(slices, conditions=conditions)
    assert labels.block_px > label_stack(slices).block_px
    assert_written(tmp_path / "out.ome.zarr", labels)


def test_calibration_without_a_unit_is_used_and_said(label: Command, tmp_path: Path) -> None:
    _, err = label("unitless.tif", "--projection")
    assert "unitless: lengths are given without a unit: µm is assumed" in err
    depth = stored(tmp_path / "out_depth_um.ome.zarr")
    assert STEP_UM * (SHAPE[0] - 2) < np.nanmax(depth) <= STEP_UM * (SHAPE[0] - 1)


def test_flat_field_is_divided_by_once_its_dark_offset_is_off(
    label: Command, slices: NDArray[Any], tmp_path: Path
) -> None:
    light = np.linspace(0.3, 1.0, SHAPE[2]) * np.ones(SHAPE[1:])
    dim = (100 + light * slices).astype(np.uint16)
    tifffile.imwrite(tmp_path / "dim.tif", dim, photometric="minisblack")
    tifffile.imwrite(tmp_path / "field.tif", (100 + 2000 * light).astype(np.uint16))
    given = ("--dark-offset", 100, "--flat-field", tmp_path / "field.tif")
    label(tmp_path / "dim.tif", *given)
    field = (100 + 2000 * light).astype(np.uint16).astype(np.float32) - 100
    conditions = Conditions(dark_offset=100.0, flat_field=field)
    assert_written(tmp_path / "out.ome.zarr", label_stack(dim, conditions=conditions))


def test_projection_shows_what_is_sharp_and_how_deep_it_lies(
    label: Command, slices: NDArray[Any], tmp_path: Path
) -> None:
    out, _ = label("known.ome.tif", "--projection")
    sharp, deep = (tmp_path / f"out_{name}.ome.zarr" for name in ("all_in_focus", "depth_um"))
    assert out[-2:] == [f"written: {sharp}", f"written: {deep}"]
    for path in (sharp, deep):
        yaozarrs.validate_zarr_store(str(path))
        Image.from_zarr(zarr.open_group(str(path), mode="r"))
    image, depth = stored(sharp)[0], stored(deep)[0]
    assert (image.dtype, depth.dtype) == (np.uint16, np.float32)
    labels = label_stack(slices, conditions=KNOWN)
    z_um = STEP_UM * np.arange(len(slices), dtype=np.float64)
    wanted = depth_map(labels.scores, z_um, labels.weak_label, labels.undecided)
    np.testing.assert_array_equal(depth, wanted.enlarge(labels.block_px, SHAPE[1:]))
    assert np.isnan(depth).any() and np.isfinite(depth).any()
    # Where one slice is in focus beyond doubt, that is what is seen from above.
    weak = stored(tmp_path / "out.ome.zarr" / "labels" / "weak_label").astype(bool)
    only = weak.sum(axis=0) == 1
    best = np.take_along_axis(slices, weak.argmax(axis=0)[np.newaxis], 0)[0]
    error = np.abs(image.astype(float) - best)[only]
    blurred = np.abs(slices.mean(axis=0) - best)[only]
    assert error.mean() < 0.1 * blurred.mean()


def test_projection_counts_slices_where_z_is_unknown_and_keeps_stacks_apart(
    label: Command, tmp_path: Path
) -> None:
    out, _ = label("plain.tif", "known.ome.tif", "--projection")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "out.ome.zarr",
        "out_all_in_focus.ome.zarr",
        "out_depth_slices.ome.zarr",
    }
    for path in tmp_path.iterdir():
        yaozarrs.validate_zarr_store(str(path))
        root = zarr.open_group(str(path), mode="r")
        for number in "01":
            Image.from_zarr(root[number])  # type: ignore[arg-type]
    ImageLabel.from_zarr(zarr.open_group(str(tmp_path / "out.ome.zarr/1/labels/weak_label")))
    plain, known = (stored(tmp_path / "out_depth_slices.ome.zarr" / n) for n in "01")
    np.testing.assert_array_equal(plain, known)
    assert 0 <= np.nanmin(plain) < np.nanmax(plain) <= 6
    assert out[-1].endswith("out_depth_slices.ome.zarr")
