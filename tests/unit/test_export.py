"""`export`: known pixels and lengths come back from every kind in every format, or nothing does."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v04.image import Image
from ome_zarr_models.v04.image_label import ImageLabel
from skimage import io

from deepfocus_live.errors import InputError
from deepfocus_live.export import FORMATS, KINDS, Export, _ome_tiff
from deepfocus_live.export._missing import spell_places
from deepfocus_live.export._source import Place
from deepfocus_live.focus import Conditions, StackProjector, depth_map, label_stack
from deepfocus_live.frames import Calibration, Placement
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.stacks import open_masks, open_stacks
from deepfocus_live.volume import PROBABILITY_SCALE, ImageLayout, RunWriter, VolumeFile
from tests.stored_frames import QUICK, SHAPE, enter_frame, header_of, pixels_of, run_spec
from tests.unit.test_cli import run

T, C, Z = 2, 2, 5
PIXEL_UM, STEP_UM = 0.65, 6.0
MISSING = [(1, 0, 4), *((1, 1, z) for z in range(Z))]
"""Of the second position: the run was cancelled."""
WITHOUT_MASK = [(1, 0, 3)]


def _spec(**changes: Any) -> Any:
    images = [
        {"position": p, "name": f"well {p}", "size_t": T, "size_z": Z, "x_um": 500.0 * p}
        for p in (0, 1)
    ]
    known = {
        "images": images,
        "channels": [{"name": "BF"}, {"name": "GFP"}],
        "pixel_size_um": Calibration(PIXEL_UM, "stage"),
        "z_step_um": Calibration(STEP_UM, "stage"),
        "sequence": {"metadata": {"Specimen": "organoid <7>", "pin": "1234"}},
    }
    return run_spec(**{**known, **changes})


def _mask_of(number: int) -> NDArray[np.uint8]:
    return (pixels_of(1000 + number) > 30000).astype(np.uint8)


class Truth:
    """What a run was written from, by position, t, c and z."""

    def __init__(self) -> None:
        self.images = np.zeros((2, T, C, Z, *SHAPE), np.uint16)
        self.masks, self.weak = np.zeros((2, 2, T, C, Z, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory, truth: Truth) -> Path:
    """Two positions × two times × two channels, cancelled; one slice came without its mask."""
    writer = RunWriter.create(tmp_path_factory.mktemp("runs"), _spec(), QUICK, about={})
    chance = np.zeros([-(-side // PROBABILITY_SCALE) for side in SHAPE], np.uint8)
    for number, (p, t, c, z) in enumerate(np.ndindex(2, T, C, Z)):
        if p == 1 and (t, c, z) in MISSING:
            continue
        pixels = pixels_of(number)
        index = {"p": p, "t": t, "c": c, "z": z}
        header = header_of(
            number,
            index,
            z_um=100 + STEP_UM * z,
            x_um=500.0 * p,
            y_um=-7.0,
            exposure_ms=12.5,
        ).model_copy(update={"taken_at": 1000 + 30 * t + 0.5 * (z + Z * c) + 200 * p})
        stored = writer.write_frame(header, pixels)
        enter_frame(writer, header, stored)
        placement = Placement(p, t, c, z)
        truth.images[placement] = pixels
        truth.weak[placement] = _mask_of(number + 500)
        writer.write_weak_label(placement, truth.weak[placement], 1 - truth.weak[placement])
        if (t, c, z) not in WITHOUT_MASK:
            truth.masks[placement] = _mask_of(number)
            writer.write_mask(placement, truth.masks[placement], chance, sequence_number=number)
    for p, t, c in np.ndindex(2, T, C):
        writer.note("label", image=p, t=t, c=c)
    writer.end("canceled")
    writer.close()
    return writer.path


@pytest.fixture(scope="module")
def slices() -> NDArray[Any]:
    return simulate_focal_stack("organoids", shape=(7, 128, 160), seed=3).slices


@pytest.fixture(scope="module")
def stack_path(tmp_path_factory: pytest.TempPathFactory, slices: NDArray[Any]) -> Path:
    path = tmp_path_factory.mktemp("stack") / "deep.ome.tif"
    lengths = {"PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM, "PhysicalSizeZ": STEP_UM}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
    tifffile.imwrite(path, slices, metadata={"axes": "ZYX", **lengths, **units})
    return path


def _write(path: Path, output: Path, **wanted: Any) -> tuple[Path, ...]:
    job = Export(path, output, **wanted)
    steps: list[str] = []
    paths = job.write(steps.append)
    assert len(steps) == job.steps
    return paths


def _read(path: Path) -> NDArray[Any]:
    """Return what a file holds as (t, c, z, y, x), by libraries that are not ours."""
    if path.suffix == ".zarr":
        return np.asarray(zarr.open_array(str(path / "0"), mode="r")[...])
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        order = [series.get_axes(squeeze=False).index(axis) for axis in "TCZYX"]
        array = series.asarray(squeeze=False)
        return np.squeeze(
            array.transpose(*order, *(i for i in range(array.ndim) if i not in order)),
            tuple(range(5, array.ndim)),
        )


def _label_value(form: str) -> int:
    return 1 if form == "ome-zarr-0.4" else 255


def _expected(truth: Truth, what: str, p: int, form: str) -> dict[str, NDArray[Any]]:
    there = truth.images[p].any(axis=(-1, -2), keepdims=True)
    used = np.where(truth.masks[p].any(axis=(-1, -2), keepdims=True), truth.masks[p], truth.weak[p])
    top = _label_value(form)
    return {
        "images": {"images": truth.images[p]},
        "masks": {"masks": top * truth.masks[p]},
        "weak_label": {
            "weak_label": top * truth.weak[p],
            "undecided": top * (1 - truth.weak[p]) * there,
        },
        "in-focus-volume": {"in_focus_volume": truth.images[p] * used},
    }[what]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("what", ["images", "masks", "weak_label", "in-focus-volume"])
def test_every_slice_of_a_run_comes_back_where_it_was(
    what: str, form: str, run_path: Path, truth: Truth, tmp_path: Path
) -> None:
    paths = _write(run_path, tmp_path / "out", what=what, form=form)
    ending = {"ome-tiff": ".ome.tif", "imagej": ".tif", "ome-zarr-0.4": ".ome.zarr"}[form]
    expected = {
        f"{run_path.name}_p{p}_{kind}{ending}": values
        for p in (0, 1)
        for kind, values in _expected(truth, what, p, form).items()
    }
    assert {path.name for path in paths} == expected.keys()
    for path in paths:
        found = _read(path)
        assert found.dtype == (
            np.uint8
            if "mask" in path.name or "label" in path.name or "undecided" in path.name
            else np.uint16
        )
        np.testing.assert_array_equal(found, expected[path.name])


@pytest.mark.parametrize("form", FORMATS)
def test_calibration_and_channels_are_read_back_by_our_own_reader(
    form: str, run_path: Path, truth: Truth, tmp_path: Path
) -> None:
    first, _ = _write(run_path, tmp_path / "out", form=form)
    stacks = open_stacks(first)
    assert [(stack.time, stack.channel) for stack in stacks] == list(np.ndindex(T, C))
    for stack in stacks:
        assert stack.pixel_size_um is not None and stack.z_step_um is not None
        assert (stack.pixel_size_um.um, stack.pixel_size_um.source) == (
            pytest.approx(PIXEL_UM),
            "file",
        )
        assert (stack.z_step_um.um, stack.z_step_um.source) == (pytest.approx(STEP_UM), "file")
        if form != "imagej":  # which has no place for them but the slices' labels
            assert stack.channel_name == ("BF", "GFP")[stack.channel]
        np.testing.assert_array_equal(stack.read(), truth.images[0, stack.time, stack.channel])
        stack.close()


def test_ome_xml_says_where_and_when_each_slice_was_taken(run_path: Path, tmp_path: Path) -> None:
    _, second = _write(run_path, tmp_path / "out")
    ome_types = pytest.importorskip("ome_types")
    with tifffile.TiffFile(second) as file:
        assert file.pages.first.is_tiled and file.pages.first.compression.name == "ADOBE_DEFLATE"
        assert not file.is_bigtiff
        ome = ome_types.from_xml(file.ome_metadata)
    image = ome.images[0]
    assert image.name == "organoid well 1 images"
    assert "specimen: organoid <7>" in image.description and "1234" not in image.description
    assert "missing slices, written as 0: t1 c0 z4, t1 c1 z0-4" in image.description
    assert "pixel size: 0.65 µm (source: stage)" in image.description
    pixels = image.pixels
    assert [channel.name for channel in pixels.channels] == ["BF", "GFP"]
    assert (pixels.time_increment, pixels.time_increment_unit.value) == (30, "s")
    planes = {(p.the_t, p.the_c, p.the_z): p for p in pixels.planes}
    last = planes[1, 0, 3]
    assert (last.position_x, last.position_y, last.position_z) == (500, -7, 100 + 3 * STEP_UM)
    assert {last.position_x_unit.value, last.position_z_unit.value} == {"µm"}
    assert (last.delta_t, last.exposure_time, last.exposure_time_unit.value) == (31.5, 12.5, "ms")
    assert planes[1, 1, 3].position_z is None  # it was never taken


def test_imagej_hyperstack_says_what_fiji_asks_for(
    run_path: Path, truth: Truth, tmp_path: Path
) -> None:
    first, _ = _write(run_path, tmp_path / "out", form="imagej")
    with tifffile.TiffFile(first) as file:
        said: Any = file.imagej_metadata
        x_resolution = file.pages.first.tags["XResolution"].value
    assert (said["frames"], said["slices"], said["channels"], said["hyperstack"]) == (T, Z, C, True)
    assert (said["unit"], said["spacing"], said["finterval"]) == ("micron", STEP_UM, 30)
    assert x_resolution[1] / x_resolution[0] == pytest.approx(PIXEL_UM)
    assert said["Labels"][:3] == ["BF", "GFP", "BF"]
    # Of a few slices, so that the display is right from the start.
    low, high = said["Ranges"][2:]
    some = truth.images[0, :, 1]
    assert some.min() <= low < 2000 and 60000 < high <= some.max()
    assert (said["min"], said["max"]) == said["Ranges"][:2]
    assert "organoid well 0: images" in said["Info"]


def test_scikit_image_opens_the_tiffs(run_path: Path, truth: Truth, tmp_path: Path) -> None:
    (first, _), (second, _) = (
        _write(run_path, tmp_path / form, form=form) for form in ("ome-tiff", "imagej")
    )
    np.testing.assert_array_equal(io.imread(first), truth.images[0])
    np.testing.assert_array_equal(io.imread(second), truth.images[0].swapaxes(1, 2))


def test_everything_of_a_run_as_ome_zarr_is_valid_and_whole(
    run_path: Path, truth: Truth, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    paths = _write(run_path, out, what="everything", form="ome-zarr-0.4")
    kinds = ("images", "all_in_focus", "depth_um", "in_focus_volume")
    assert [path.name for path in paths] == [
        f"{run_path.name}_p{p}_{kind}.ome.zarr" for p in (0, 1) for kind in kinds
    ]
    for path in paths:
        yaozarrs.validate_zarr_store(str(path))
        Image.from_zarr(zarr.open_group(str(path), mode="r"))
        group: Any = zarr.open_group(str(path), mode="r")
        assert group["0"].metadata.zarr_format == 2
        assert group["0"].metadata.dimension_separator == "/"
        assert group["0"].compressors[0].codec_id == "blosc"
    images: Any = zarr.open_group(str(paths[0]), mode="r")
    scales = images.attrs["multiscales"][0]
    assert (scales["version"], [axis.get("unit") for axis in scales["axes"]]) == (
        "0.4",
        ["second", None, "micrometer", "micrometer", "micrometer"],
    )
    scale = scales["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == [30, 1, STEP_UM, PIXEL_UM, PIXEL_UM]
    assert [channel["label"] for channel in images.attrs["omero"]["channels"]] == ["BF", "GFP"]
    for name, values in (("in_focus", truth.masks[0]), ("weak_label", truth.weak[0])):
        ImageLabel.from_zarr(images[f"labels/{name}"])
        np.testing.assert_array_equal(images[f"labels/{name}/0"][...], values)
    assert open_masks(paths[0])[0].label == "in_focus"
    # The stack of which nothing had come; of the others something is there.
    sharp, depth = _read(paths[5]), _read(paths[6])
    assert not sharp[1, 1].any() and np.isnan(depth[1, 1]).all()
    assert all(sharp[tc].any() for tc in ((0, 0), (0, 1), (1, 0)))


def test_pyramid_of_an_ome_zarr_halves_images_and_labels(tmp_path: Path) -> None:
    wide = np.arange(2 * 300 * 700, dtype=np.uint16).reshape(2, 300, 700)
    tifffile.imwrite(tmp_path / "wide.tif", wide, photometric="minisblack")
    (path,) = _write(tmp_path / "wide.tif", tmp_path / "wide.ome.zarr")
    yaozarrs.validate_zarr_store(str(path))
    group: Any = zarr.open_group(str(path), mode="r")
    datasets = group.attrs["multiscales"][0]["datasets"]
    assert len(datasets) > 1
    means = wide.reshape(2, 150, 2, 350, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(group["1"][0, 0], means, atol=0.5)
    shift = datasets[1]["coordinateTransformations"][1]["translation"]
    assert shift == [0, 0, 0, 0.5, 0.5]
    assert all("unit" not in axis for axis in group.attrs["multiscales"][0]["axes"])


@pytest.mark.parametrize("what", ["everything", "all-in-focus", "depth"])
def test_stack_from_above_is_what_the_labels_of_the_stack_say(
    what: str, stack_path: Path, slices: NDArray[Any], tmp_path: Path
) -> None:
    labels = label_stack(slices, conditions=Conditions(pixel_size_um=PIXEL_UM, z_step_um=STEP_UM))
    assert labels.findings is not None and labels.findings.brightness is not None
    bright = labels.findings.brightness
    projector = StackProjector(
        shape_yx=slices.shape[1:],
        dtype=slices.dtype,
        block_px=labels.block_px,
        dark_offset=bright.dark_offset,
    )
    for z, z_slice in enumerate(slices):
        projector.add(z, z_slice, labels.scores[z], gain=float(bright.gain[z]))
    z_um = STEP_UM * np.arange(len(slices))
    depth = depth_map(labels.scores, z_um, labels.weak_label, labels.undecided).enlarge(
        labels.block_px, slices.shape[1:]
    )
    assert np.isfinite(depth).any() and np.isnan(depth).any()
    paths = _write(stack_path, tmp_path / "out", what=what)
    found = {path.name.removeprefix("deep_").partition(".")[0]: path for path in paths}
    assert (
        found.keys()
        == {
            "everything": {"images", "all_in_focus", "depth_um"},
            "all-in-focus": {"all_in_focus"},
            "depth": {"depth_um"},
        }[what]
    )
    if "all_in_focus" in found:
        np.testing.assert_array_equal(_read(found["all_in_focus"])[0, 0, 0], projector.image())
    if "depth_um" in found:
        written = _read(found["depth_um"])
        assert (written.dtype, written.shape) == (np.float32, (1, 1, 1, *slices.shape[1:]))
        np.testing.assert_array_equal(written[0, 0, 0], depth)


def test_depth_of_a_run_is_on_the_scale_of_the_stage(
    slices: NDArray[Any], stack_path: Path, tmp_path: Path
) -> None:
    spec = run_spec(
        images=[{"name": "", "size_z": len(slices) + 2}],
        height_px=slices.shape[1],
        width_px=slices.shape[2],
        dtype=slices.dtype.name,
        pixel_size_um=Calibration(PIXEL_UM, "stage"),
        z_step_um=Calibration(STEP_UM, "stage"),
    )
    writer = RunWriter.create(tmp_path / "runs", spec, QUICK, about={})
    for z, z_slice in enumerate(slices):  # the last two never come
        size = {"height_px": slices.shape[1], "width_px": slices.shape[2]}
        header = header_of(z, dtype=slices.dtype.name, z_um=40 + STEP_UM * z, **size)
        enter_frame(writer, header, writer.write_frame(header, z_slice))
    writer.close()
    job = Export(writer.path, tmp_path / "stage", what="depth")
    (of_run,) = job.write()
    (of_stack,) = _write(stack_path, tmp_path / "stack", what="depth")
    np.testing.assert_allclose(_read(of_run), 40 + _read(of_stack), atol=1e-4)
    assert job.notes == (
        "the run is still open: what it holds now is exported",
        "organoid: depth is in µm, on the scale of the slices' z positions",
    )


def test_depth_without_a_z_step_is_in_slices_and_says_so(
    slices: NDArray[Any], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", slices, photometric="minisblack")
    job = Export(tmp_path / "plain.tif", tmp_path / "out", what="depth", form="imagej")
    (path,) = job.write()
    assert path.name == "plain_depth_slices.tif"
    assert job.notes == ("plain: depth is in slices, from the first: the z-step is not known",)
    depth = _read(path)
    assert 0 <= np.nanmin(depth) and 1 < np.nanmax(depth) <= len(slices) - 1
    with tifffile.TiffFile(path) as file:
        said: Any = file.imagej_metadata
        assert "unit" not in said and said["Ranges"] == (0, len(slices) - 1)


def test_masks_corrected_by_hand_go_before_the_networks(
    slices: NDArray[Any], tmp_path: Path
) -> None:
    path = tmp_path / "in.ome.zarr"
    group: Any = zarr.open_group(str(path), mode="w", zarr_format=2)
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    scales = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs["multiscales"] = scales
    group.create_array("0", data=slices)
    network = (slices > np.median(slices)).astype(np.uint8)
    drawn = np.zeros_like(network)
    drawn[2, :9], drawn[2, 9:20] = 1, 2
    for name, values in (("in_focus", network), ("corrected", drawn)):
        label = group.create_group(f"labels/{name}")
        label.attrs.update({"multiscales": scales, "image-label": {"version": "0.4"}})
        label.create_array("0", data=values)
    (volume,) = _write(path, tmp_path / "volume.tif", what="in-focus-volume")
    used = network.copy()
    used[2] = drawn[2] == 1
    np.testing.assert_array_equal(_read(volume)[0, 0], slices * used)
    with tifffile.TiffFile(volume) as file:
        assert "corrected of 1 slices, in_focus of 6 slices" in str(file.ome_metadata)
    masks = {path.name: path for path in _write(path, tmp_path / "masks", what="masks")}
    np.testing.assert_array_equal(_read(masks["in_corrected.ome.tif"])[0, 0], drawn)
    np.testing.assert_array_equal(_read(masks["in_masks.ome.tif"])[0, 0], 255 * network)


@pytest.mark.parametrize("form", FORMATS)
def test_in_focus_volume_says_that_it_is_no_optical_sectioning(
    form: str, run_path: Path, tmp_path: Path
) -> None:
    path = _write(run_path, tmp_path / "out", what="in-focus-volume", form=form)[0]
    if form == "ome-zarr-0.4":
        said = str(zarr.open_group(str(path), mode="r").attrs["deepfocus_live"])
    else:
        with tifffile.TiffFile(path) as file:
            said = file.pages.first.description + str(file.imagej_metadata)
    assert "not optical sectioning: intensities still hold out-of-focus light" in said
    assert "weak_label of 1 slices" in said


def test_missing_slices_are_listed_in_one_line(
    run_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "out")
    code, said, err = run("export", str(run_path), out, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert err.splitlines() == [
        "the run was not completed: canceled",
        "organoid well 1: missing slices, written as 0: t1 c0 z4, t1 c1 z0-4",
    ]
    names = [f"{run_path.name}_p{p}_images.ome.tif" for p in (0, 1)]
    assert said.splitlines() == [f"written: {tmp_path / 'out' / name}" for name in names]


def test_places_are_spelled_in_groups() -> None:
    places = [Place(0, 0, 4), Place(0, 0, 3), Place(0, 1, 5), Place(1, 0, 0), Place(0, 0, 1)]
    assert spell_places(places) == "t0 c0 z1, t0 c0 z3-4, t0 c1 z5, t1 c0 z0"
    many = spell_places(Place(0, 0, 2 * z) for z in range(100))
    assert many.endswith("z78 and 60 more groups")


@pytest.mark.parametrize("form", ["ome-tiff", "imagej"])
def test_large_files_stay_readable(
    form: str, run_path: Path, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ome_tiff, "CLASSIC_LIMIT", 100)
    path = _write(run_path, tmp_path / "out", form=form)[0]
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff == (form == "ome-tiff")
        # ImageJ's own way above 4 GB: one page, all planes behind it.
        assert len(file.pages) == (T * C * Z if form == "ome-tiff" else 1)
    found = [stack.read() for stack in open_stacks(path)]
    np.testing.assert_array_equal(np.reshape(found, truth.images[0].shape), truth.images[0])


@pytest.mark.parametrize("form", FORMATS)
def test_tiles_at_the_edge_keep_their_pixels(form: str, tmp_path: Path) -> None:
    odd = np.random.default_rng(1).integers(0, 255, (2, 259, 513), np.uint8)
    tifffile.imwrite(tmp_path / "odd.tif", odd, photometric="minisblack")
    (path,) = _write(tmp_path / "odd.tif", tmp_path / "out", form=form)
    np.testing.assert_array_equal(_read(path)[0, 0], odd)


def _volume_file(path: Path, slices: NDArray[Any], masks: NDArray[np.uint8]) -> Path:
    layout = ImageLayout("", (1, 1, *slices.shape), "uint16", ("BF",), labels=("in_focus",))
    with VolumeFile(path, [layout]) as file:
        for z, (z_slice, mask) in enumerate(zip(slices, masks, strict=True)):
            file.write_slice(0, z, z_slice)
            file.write_label(0, "in_focus", z, mask)
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_no_more_than_a_few_planes_are_in_memory(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a computer with more cores, where tiles wait for each other.
    monkeypatch.setattr(tifffile.TIFF, "MAXWORKERS", 4)
    slices = np.random.default_rng(3).integers(0, 4000, (24, 512, 512), np.uint16)
    store = _volume_file(tmp_path / "in.ome.zarr", slices, np.ones(slices.shape, np.uint8))
    job = Export(store, tmp_path / "out", what="in-focus-volume", form=form)
    tracemalloc.start()
    try:
        job.write()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * slices[0].nbytes


def test_masks_alone_are_an_ome_zarr_label_with_its_pyramid(tmp_path: Path) -> None:
    masks = (np.random.default_rng(2).random((2, 300, 700)) > 0.5).astype(np.uint8)
    store = _volume_file(tmp_path / "in.ome.zarr", masks.astype(np.uint16), masks)
    (path,) = _write(store, tmp_path / "masks.ome.zarr", what="masks")
    yaozarrs.validate_zarr_store(str(path))
    group: Any = zarr.open_group(str(path), mode="r")
    ImageLabel.from_zarr(group)
    np.testing.assert_array_equal(group["1"][0, 0], masks[:, ::2, ::2])
    (mask,) = open_masks(path)
    np.testing.assert_array_equal(list(mask), masks)


Arrange = Callable[[Path], dict[str, Any]]


def _there_already(folder: Path) -> dict[str, Any]:
    (folder / "out").mkdir()
    return {}


def _nothing_to_mask(_: Path) -> dict[str, Any]:
    return {"what": "masks"}


@pytest.mark.parametrize(
    ("arrange", "output", "said"),
    [
        pytest.param(_there_already, "out", "exists already.*--overwrite", id="exists"),
        pytest.param(_nothing_to_mask, "out", "no masks: run `deepfocus-live segment`", id="mask"),
        pytest.param(
            lambda _: {"what": "in-focus-volume"}, "out", "neither masks nor weak", id="volume"
        ),
        pytest.param(lambda _: {"what": "focus"}, "out", "--what focus.*images, masks", id="what"),
        pytest.param(lambda _: {"form": "png"}, "out", "--format png.*ome-tiff", id="format"),
        pytest.param(lambda _: {"form": "imagej"}, "out.ome.zarr", "ends in .tif", id="suffix"),
        pytest.param(
            lambda _: {"what": "everything"}, "out.tif", "3 files .*name a folder", id="many"
        ),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    arrange: Arrange, output: str, said: str, stack_path: Path, tmp_path: Path
) -> None:
    wanted = arrange(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=said):
        Export(stack_path, tmp_path / output, **wanted)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_kind_on_the_command_line_is_the_users_error(
    stack_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("export", str(stack_path), str(tmp_path / "out"), "--what", "focus")
    code, _, err = run(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "focus" in err and "in-focus-volume" in err and len(err.splitlines()) == 1


def test_kinds_are_the_ones_that_the_command_takes() -> None:
    from typing import get_args

    from deepfocus_live.cli._export import What

    assert get_args(What) == (*KINDS, "everything")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_export_leaves_nothing(
    stop: Any, form: str, run_path: Path, tmp_path: Path
) -> None:
    job = Export(run_path, tmp_path / "out", form=form)
    left = job.steps - 3  # within the second file

    def advance(_: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise stop

    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        job.write(advance)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_the_files_and_nothing_else(
    stack_path: Path, slices: NDArray[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("notes", encoding="utf-8")
    (out / "deep_images.ome.tif").write_text("old", encoding="utf-8")
    for form in ("ome-tiff", "ome-zarr-0.4", "ome-zarr-0.4"):
        (path,) = _write(stack_path, out, form=form, overwrite=True)
        np.testing.assert_array_equal(_read(path)[0, 0], slices)
    assert {path.name for path in out.iterdir()} == {
        "mine.txt",
        "deep_images.ome.tif",
        "deep_images.ome.zarr",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_exported_is_never_written_over(stack_path: Path, run_path: Path) -> None:
    before = stack_path.read_bytes()
    for path, output in (
        (stack_path, stack_path),
        (run_path, run_path),
        (run_path / "volume.ome.zarr" / "0", run_path / "volume.ome.zarr" / "0"),
        (run_path / "volume.ome.zarr" / "0", run_path / "volume.ome.zarr"),
        (run_path, run_path / "sub" / "folder"),
    ):
        with pytest.raises(InputError, match="what is exported"):
            Export(path, output, overwrite=True)
    assert stack_path.read_bytes() == before


def test_folder_that_is_no_ome_zarr_is_not_replaced(stack_path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.doc").write_text("years", encoding="utf-8")
    with pytest.raises(InputError, match="is a folder and no OME-Zarr"):
        Export(stack_path, tmp_path / "mine.zarr", overwrite=True)
