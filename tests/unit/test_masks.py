"""In-focus masks from every source, and what their pixel values mean there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration
from deepfocus_live.stacks import MaskStack, open_masks
from deepfocus_live.volume import ImageLayout, VolumeFile

SHAPE = (4, 10, 12)
LABELS = ("in_focus", "weak_label", "undecided", "corrected")


def random_mask(seed: int, shape: tuple[int, ...] = SHAPE, states: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, states, shape).astype(np.uint8)


def read(mask: MaskStack) -> NDArray[np.uint8]:
    return np.stack(list(mask))


def ome_zarr(path: Path, *images: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Write images of random counts with these labels; one is bare, several are a collection."""
    layouts = [
        ImageLayout(
            name="specimen",
            shape=(1, 1, *SHAPE),
            dtype="uint16",
            channels=("default",),
            pixel_size_um=Calibration(0.5, "file"),
            z_step_um=Calibration(6.0, "file"),
            labels=tuple(label for label in labels if label != "corrected"),
        )
        for labels in images
    ]
    with VolumeFile(path, layouts) as file:
        for number, labels in enumerate(images):
            for z in range(SHAPE[0]):
                file.write_slice(number, z, np.full(SHAPE[1:], 100 + z + 10 * number, np.uint16))
                for label, mask in labels.items():
                    if label != "corrected":
                        file.write_label(number, label, z, mask[z])
    for number, labels in enumerate(images):
        if "corrected" in labels:
            image = path if len(images) == 1 else path / str(number)
            add_label(image / "labels" / "corrected", labels["corrected"])
    return path


def add_label(place: Path, mask: NDArray[np.uint8]) -> None:
    """Write a label as another program would: one level, its own metadata."""
    group = zarr.open_group(str(place), mode="w")
    scale: Any = {"type": "scale", "scale": [1.0, 1.0, 6.0, 0.5, 0.5]}
    group.create_array("0", data=mask[None, None])
    group.attrs["ome"] = {
        "version": "0.5",
        "image-label": {},
        "multiscales": [
            {
                "axes": [{"name": axis} for axis in "tczyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
            }
        ],
    }


# --- mask images --------------------------------------------------------------------------


def tiff(folder: Path, masks: NDArray[Any]) -> Path:
    tifffile.imwrite(folder / "m.tif", masks, photometric="minisblack")
    return folder / "m.tif"


def png_folder(folder: Path, masks: NDArray[Any]) -> Path:
    place = folder / "m"
    place.mkdir()
    for z, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8)).save(place / f"z{z}.png")
    return place


def zarr_array(folder: Path, masks: NDArray[Any]) -> Path:
    zarr.create_array(str(folder / "m.zarr"), data=masks)
    return folder / "m.zarr"


def old_zarr_array(folder: Path, masks: NDArray[Any]) -> Path:
    zarr.create_array(str(folder / "m.zarr"), data=masks[None, None], zarr_format=2)
    return folder / "m.zarr"


@pytest.mark.parametrize("write", [tiff, png_folder, zarr_array, old_zarr_array])
@pytest.mark.parametrize("value", [1, 2, 255])
def test_of_mask_images_anything_but_zero_is_in_focus(
    tmp_path: Path, write: Callable[[Path, NDArray[Any]], Path], value: int
) -> None:
    wanted = random_mask(1)
    wanted[2] = 0
    wanted[3] = 1  # all in focus is a mask too
    path = write(tmp_path, wanted * np.uint8(value))
    (mask,) = open_masks(path)
    assert (mask.name, mask.path, mask.label, mask.shape) == ("m", path, None, SHAPE)
    assert (len(mask), mask.image, mask.z_step_um) == (4, None, None)
    np.testing.assert_array_equal(read(mask), wanted)
    assert mask[-1].dtype == np.uint8
    assert all(mask.said(z) for z in range(4))  # also of the slice with nothing in focus
    mask.close()


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint16"])
def test_a_zarr_array_may_hold_any_whole_numbers(tmp_path: Path, dtype: str) -> None:
    wanted = random_mask(1)
    (mask,) = open_masks(zarr_array(tmp_path, (np.int64(1000) * wanted).astype(dtype)))
    np.testing.assert_array_equal(read(mask), wanted)


def test_calibration_is_that_of_the_file(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 2.5, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(tmp_path / "m.ome.tif", random_mask(1), metadata=metadata)
    with open_masks(tmp_path / "m.ome.tif")[0] as mask:
        assert mask.z_step_um == Calibration(2.5, "file")
        assert mask.pixel_size_um is None


# --- labels -------------------------------------------------------------------------------


def test_undecided_is_the_doubt_of_the_weak_label_only(tmp_path: Path) -> None:
    masks = {label: random_mask(seed) for seed, label in enumerate(LABELS[:3])}
    path = ome_zarr(tmp_path / "a.ome.zarr", masks)
    (weak,) = open_masks(path, "weak_label")
    doubted = np.where(masks["undecided"] == 1, 2, masks["weak_label"])
    np.testing.assert_array_equal(read(weak), doubted)
    (network,) = open_masks(path, "in_focus")
    np.testing.assert_array_equal(read(network), masks["in_focus"])
    (doubt,) = open_masks(path, "undecided")
    np.testing.assert_array_equal(read(doubt), masks["undecided"])


def test_a_label_knows_its_image_and_calibration(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.ome.zarr", {"in_focus": random_mask(0)})
    (mask,) = open_masks(path)
    assert (mask.name, mask.path, mask.label) == ("a", path, "in_focus")
    assert mask.z_step_um == Calibration(6.0, "file")
    assert mask.pixel_size_um == Calibration(0.5, "file")
    assert mask.image is not None
    assert (mask.image[2] == 102).all()


def test_a_slice_of_zeros_has_not_been_corrected(tmp_path: Path) -> None:
    corrected = random_mask(5, states=3)
    corrected[1] = 0
    corrected[2] = 2
    masks = {"in_focus": random_mask(0), "corrected": corrected}
    (mask,) = open_masks(ome_zarr(tmp_path / "a.ome.zarr", masks))
    assert mask.label == "corrected"
    assert [mask.said(z) for z in range(4)] == [True, False, True, True]
    np.testing.assert_array_equal(read(mask), corrected)
    with pytest.raises(IndexError, match="slices 0 to 3, not 4"):
        mask.said(4)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        pytest.param(("in_focus", "weak_label", "undecided"), "in_focus", id="network-over-rule"),
        pytest.param(("weak_label", "undecided"), "weak_label", id="rule"),
        pytest.param(("weak_label", "corrected"), "corrected", id="corrected-over-all"),
    ],
)
def test_the_best_label_is_the_default(
    tmp_path: Path, labels: tuple[str, ...], chosen: str
) -> None:
    path = ome_zarr(tmp_path / "a.ome.zarr", {label: random_mask(3) for label in labels})
    assert [mask.label for mask in open_masks(path)] == [chosen]


def test_corrections_that_say_nothing_are_no_default_but_can_be_asked_for(tmp_path: Path) -> None:
    masks = {"weak_label": random_mask(0), "corrected": np.zeros(SHAPE, np.uint8)}
    path = ome_zarr(tmp_path / "a.ome.zarr", masks)
    assert open_masks(path)[0].label == "weak_label"
    (asked,) = open_masks(path, "corrected")
    assert not any(asked.said(z) for z in range(4))
    with pytest.raises(InputError, match=r"nothing in it is corrected yet.*weak_label"):
        open_masks(path, preferred=("corrected",))


def test_preferred_labels_are_tried_in_order(tmp_path: Path) -> None:
    masks = {"in_focus": random_mask(0), "corrected": random_mask(1)}
    path = ome_zarr(tmp_path / "a.ome.zarr", masks)
    assert open_masks(path, preferred=("weak_label", "in_focus"))[0].label == "in_focus"


def test_every_image_of_a_run_has_its_own_masks(tmp_path: Path) -> None:
    images = [{"in_focus": random_mask(seed)} for seed in range(3)]
    run = tmp_path / "night"
    run.mkdir()
    ome_zarr(run / "volume.ome.zarr", *images)
    masks = open_masks(run)
    assert [mask.name for mask in masks] == ["night-p0", "night-p1", "night-p2"]
    for number, (mask, image) in enumerate(zip(masks, images, strict=True)):
        np.testing.assert_array_equal(read(mask), image["in_focus"])
        assert mask.image is not None
        assert mask.image[0][0, 0] == 100 + 10 * number


def test_masks_are_matched_to_their_time_and_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    layout = ImageLayout(
        name="a", shape=(2, 2, *SHAPE), dtype="uint8", channels=("a", "b"), labels=("in_focus",)
    )
    with VolumeFile(path, [layout]):
        pass
    wanted = random_mask(0, (2, 2, *SHAPE))
    group = zarr.open_group(str(path), mode="r+")
    group["labels/in_focus/0"][...] = wanted  # type: ignore[index]
    masks = open_masks(path)
    assert [mask.name for mask in masks] == ["a-t0-c0", "a-t0-c1", "a-t1-c0", "a-t1-c1"]
    for mask, (t, c) in zip(masks, np.ndindex(2, 2), strict=True):
        np.testing.assert_array_equal(read(mask), wanted[t, c])


def test_an_image_that_nobody_corrected_says_nothing_beside_one_that_is(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    network, corrected = random_mask(0), random_mask(1, states=3)
    ome_zarr(path, {"in_focus": network}, {"in_focus": network, "corrected": corrected})
    first, second = open_masks(path)
    assert first.label == second.label == "corrected"
    assert not any(first.said(z) for z in range(4))
    assert not read(first).any()
    np.testing.assert_array_equal(read(second), corrected)


def test_a_labels_own_folder_is_read_as_that_label(tmp_path: Path) -> None:
    corrected = random_mask(1, states=3)
    corrected[0] = 0
    path = ome_zarr(tmp_path / "a.ome.zarr", {"corrected": corrected})
    (mask,) = open_masks(path / "labels" / "corrected")
    assert (mask.label, mask.said(0), mask.said(1)) == ("corrected", False, True)
    np.testing.assert_array_equal(read(mask), corrected)


# --- bad input ----------------------------------------------------------------------------


def one_of_two_has_it(folder: Path) -> Path:
    mask = random_mask(0)
    return ome_zarr(folder / "a.ome.zarr", {"in_focus": mask}, {"weak_label": mask})


def label_of_another_size(folder: Path) -> Path:
    path = ome_zarr(folder / "a.ome.zarr", {"in_focus": random_mask(0)})
    add_label(path / "labels" / "mine", random_mask(0, (4, 10, 11)))
    return path


def labelled(folder: Path) -> Path:
    return ome_zarr(folder / "a.ome.zarr", {"in_focus": random_mask(0)})


@pytest.mark.parametrize(
    ("make", "label", "words"),
    [
        pytest.param(
            labelled, "drawn", "a.ome.zarr: has no label drawn; its labels: in_focus", id="unknown"
        ),
        pytest.param(
            lambda f: ome_zarr(f / "a.ome.zarr", {}), None, "no labels at all", id="no-labels"
        ),
        pytest.param(
            lambda f: ome_zarr(f / "a.ome.zarr", {"undecided": random_mask(0)}),
            None,
            "none of the labels corrected, in_focus, weak_label; its labels: undecided",
            id="no-default",
        ),
        pytest.param(one_of_two_has_it, "in_focus", "a-p1 has no label in_focus", id="one-of-two"),
        pytest.param(label_of_another_size, "mine", "label is 4 × 10 × 11, its image", id="size"),
        pytest.param(
            lambda f: tiff(f, random_mask(0)), "in_focus", "holds masks and no labels", id="tiff"
        ),
        pytest.param(
            lambda f: tiff(f, random_mask(0).astype(np.float32)),
            None,
            "float32 pixels are no mask; threshold",
            id="floats",
        ),
        pytest.param(
            lambda f: zarr_array(f, random_mask(0).astype(np.float64)),
            None,
            "float64 pixels are no mask; threshold",
            id="float-array",
        ),
        pytest.param(
            lambda f: zarr_array(f, random_mask(0)[0]), None, "shape (10, 12)", id="2-D-array"
        ),
        pytest.param(lambda f: f / "none.tif", None, "no such file", id="missing"),
    ],
)
def test_bad_masks_are_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], label: str | None, words: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as refused:
        open_masks(path, label)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_image_given_for_a_mask_is_refused_when_read(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(90, 4000, SHAPE).astype(np.uint16)
    (mask,) = open_masks(tiff(tmp_path, counts))
    with pytest.raises(InputError, match=r"slice 2 has values .* an image, not a mask"):
        mask[2]


def test_a_correction_with_another_value_is_refused_when_read(tmp_path: Path) -> None:
    corrected = random_mask(1)
    corrected[3, 0, 0] = 7
    (mask,) = open_masks(ome_zarr(tmp_path / "a.ome.zarr", {"corrected": corrected}))
    with pytest.raises(InputError, match="slice 3 of the label corrected has the value 7"):
        mask[3]
