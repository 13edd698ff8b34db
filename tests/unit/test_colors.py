"""Colour cameras, and what OME metadata say of channels, lengths, places and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
import zarr
from numpy.typing import NDArray

from deepfocus_live.export import Export
from deepfocus_live.frames import ChannelSpec, ImageSpec, StackKey, luminance
from deepfocus_live.inference import as_counts
from deepfocus_live.microscope._plan import frame_header, plan_run, planes_of
from deepfocus_live.ring import MemoryRing
from deepfocus_live.stacks import open_masks, open_stacks
from deepfocus_live.volume import (
    RunWriter,
    correct_stack,
    find_owed,
    halve_mean,
    open_run,
    read_ledger,
    verify_run,
    write_levels,
)
from deepfocus_live.volume._colors import channel_colors
from tests.ome_zarr import assert_run_is_valid
from tests.stored_frames import QUICK, enter_frame, run_spec, store_frame

SIDE = (264, 64)  # so that there is a pyramid
INFO = {
    "height": SIDE[0],
    "width": SIDE[1],
    "dtype": "uint16",
    "plane_shape": (*SIDE, 3),
    "pixel_format": "RGB16",
    "camera_label": "Camera",
    "num_camera_adapter_channels": 2,
    "pixel_size_um": 0.5,
}


def _camera_images(count: int) -> list[NDArray[Any]]:
    """Return images as pymmcore-plus delivers them: (Y, X, 3), the colours behind one another."""
    planes = np.random.default_rng(1).integers(0, 65536, (count, 3, *SIDE), np.uint16)
    return [np.moveaxis(image, 0, -1) for image in planes]


def test_frames_of_a_colour_camera_come_back_exactly_and_are_judged_by_luminance(
    tmp_path: Path,
) -> None:
    sequence = useq.MDASequence.model_validate(
        {"axis_order": "zc", "channels": ["H&E", "PAS"], "z_plan": {"range": 1, "step": 1}}
    )
    spec = plan_run(sequence, {"image_infos": [INFO]})
    assert (spec.samples_per_pixel, spec.frame_bytes) == (3, 264 * 64 * 3 * 2)
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    assert_run_is_valid(writer.path)
    images = _camera_images(8)
    ring = MemoryRing.create(tmp_path / "ring", slots=2, slot_bytes=spec.frame_bytes, run_room=9)
    indices = [{**e.index, "cam": cam} for e in sequence for cam in range(2)]
    for number, (image, index) in enumerate(zip(images, indices, strict=True)):
        planes = planes_of(image)
        assert planes.flags.c_contiguous  # copied as it lies
        event = useq.MDAEvent(index=index)
        sent = frame_header(spec.run_id, number, planes, event, {}, float(number))
        ring.put(number % 2, sent.model_dump_json().encode(), planes, number)
        header, pixels = ring.get(number % 2)
        ring.acknowledge(number % 2, number)
        stored = writer.write_frame(header, pixels)
        enter_frame(writer, header, stored)
        assert stored.placement == (0, 0, 2 * index["c"] + index["cam"], index["z"])
        writer.write_pyramid(stored.placement, pixels)
        np.testing.assert_array_equal(writer.read_slice(stored.placement), planes)
    ring.close(remove=True)
    writer.end("completed")
    writer.close()

    # One file, so one sync, holds the three colours of a frame.
    volume = writer.path / "volume.ome.zarr/0"
    assert len(list(volume.glob("0/c/*/*/*/0/0"))) == len(images)
    image = open_run(writer.path).images[0]
    assert image.image.shape == (1, 12, 2, *SIDE)
    assert image.in_focus.shape == image.probability.shape[:3] + SIDE == (1, 4, 2, *SIDE)
    last = images[7]
    np.testing.assert_array_equal(image.read_slice(0, 3, 1), planes_of(last))
    for color in range(3):
        np.testing.assert_array_equal(image.image[0, 9 + color, 1], last[..., color])
    coarse = zarr.open_array(str(volume / "1"), mode="r")
    np.testing.assert_array_equal(coarse[0, 10, 1], halve_mean(last[..., 1]))
    assert verify_run(read_ledger(writer.path)).whole

    stacks = open_stacks(writer.path)
    assert [stack.channel_name for stack in stacks] == [
        f"{name} Camera {camera}" for name in ("H&E", "PAS") for camera in (1, 2)
    ]
    np.testing.assert_array_equal(stacks[3][1], as_counts(last))

    _mend_a_coarse_slice(writer.path, volume)
    mask = np.ones(SIDE, np.uint8)
    correct_stack(writer.path, StackKey(spec.run_id, 0, 0, 3), lambda _: mask, [1], about={})
    assert [mask.said(1) for mask in open_masks(writer.path, "corrected")] == [False] * 3 + [True]
    Export(writer.path, tmp_path / "out.ome.zarr", what="images").write()
    out: Any = zarr.open_group(str(tmp_path / "out.ome.zarr"), mode="r")
    np.testing.assert_array_equal(out["0"][0, 9:12, 1], planes_of(last))


def _mend_a_coarse_slice(run: Path, volume: Path) -> None:
    chunk = volume / "1/c/0/3/1/0/0"
    before = chunk.read_bytes()
    chunk.unlink()
    ledger = read_ledger(run)
    owed = find_owed(ledger, (), masked=lambda _: False, labelled=False)
    assert owed.levels == (("image", (0, 0, 3, 1)),)
    write_levels(ledger, *owed.levels[0])
    assert chunk.read_bytes() == before


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luminance_is_the_rounded_weighted_sum_and_that_of_grey_is_grey(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    colors = np.random.default_rng(2).integers(0, top, (3, 40, 50), dtype, endpoint=True)
    colors[:, 0] = top
    weights = np.array([0.299, 0.587, 0.114])
    plain = np.tensordot(weights, colors.astype(float), 1)
    got = luminance(colors)
    assert got.dtype == dtype
    assert np.abs(got - plain).max() < 0.5 + top / 2**16  # weights of 16 bits
    np.testing.assert_array_equal(luminance(np.stack([colors[1]] * 3)), colors[1])
    grey = colors[0]
    assert luminance(grey) is grey


@pytest.mark.parametrize(
    ("names", "colors"),
    [
        (["DAPI"], ["FFFFFF"]),
        (["DAPI", "GFP", "BF"], ["0080FF", "00FF00", "FFFFFF"]),
        (["Cy5", "mCherry"], ["FF00FF", "FF0000"]),
        (["GFP left", "GFP right", "what"], ["00FF00", "FF00FF", "00FFFF"]),
        ([f"n{n}" for n in range(8)], None),
    ],
)
def test_channels_have_the_colours_people_expect_and_no_two_the_same(
    names: list[str], colors: list[str] | None
) -> None:
    found = channel_colors(names)
    assert colors is None or found == colors
    assert len(set(found[:6])) == min(len(names), 6)
    assert all(int(color, 16) >= 0 and len(color) == 6 for color in found)


def test_metadata_say_lengths_places_times_and_colours(tmp_path: Path) -> None:
    spec = run_spec(
        images=[ImageSpec(name="here", size_z=3, x_um=100, y_um=-50), ImageSpec(name="there")],
        channels=[ChannelSpec(name="DAPI"), ChannelSpec(name="GFP")],
        pixel_size_um={"um": 0.5, "source": "stage"},
        z_step_um={"um": 2, "source": "stage"},
        time_step_s=30,
    )
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    store_frame(writer, 0)
    writer.close()
    volume = writer.path / "volume.ome.zarr"
    ome = _ome(volume / "0")
    (scale,) = ome["multiscales"]
    assert [axis.get("unit") for axis in scale["axes"]] == ["second", None, *["micrometer"] * 3]
    size, place = scale["datasets"][0]["coordinateTransformations"]
    assert size["scale"] == [30, 1, 2, 0.5, 0.5]
    # The stage's place is the middle of the image: 30 × 20 pixels of 0.5 µm.
    assert place["translation"] == [0, 0, 0, -50 - 0.5 * 9.5, 100 - 0.5 * 14.5]
    assert [channel["color"] for channel in ome["omero"]["channels"]] == ["0080FF", "00FF00"]
    assert _corner(volume / "0/labels/in_focus") == place["translation"]
    # A coarse pixel's middle lies between those of its four by four.
    coarse = _corner(writer.path / "probability.ome.zarr/0")
    assert np.subtract(coarse, place["translation"]).tolist() == [0, 0, 0, 0.75, 0.75]
    assert _corner(volume / "1") == [0, 0, 0, 0, 0]
    (stack,) = open_stacks(writer.path)[:1]
    assert stack.pixel_size_um is not None and stack.z_step_um is not None
    assert (stack.pixel_size_um.um, stack.z_step_um.um) == (0.5, 2)


def _ome(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_bytes())["attributes"]["ome"]


def _corner(path: Path) -> Any:
    scale = _ome(path)["multiscales"][0]
    return scale["datasets"][0]["coordinateTransformations"][1]["translation"]
