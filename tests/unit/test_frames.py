"""The nouns every room shares: equal where they mean the same, and strict at the door."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deepfocus_live.frames import (
    Calibration,
    ChannelSpec,
    FrameHeader,
    FrameIndex,
    ImageSpec,
    Placement,
    RunSpec,
    StackKey,
)

_AXES = st.dictionaries(st.sampled_from("tpgczx") | st.text(min_size=1), st.integers(0, 10**6))


def _spec(**changes: Any) -> RunSpec:
    spec = {
        "run_id": "abc",
        "name": "run",
        "height_px": 20,
        "width_px": 30,
        "dtype": "uint16",
        "images": [ImageSpec(position=p, tile=g, name=f"{p}/{g}") for p in (0, 2) for g in (0, 1)],
        "channels": [ChannelSpec(name="only")],
    }
    return RunSpec.model_validate({**spec, **changes})


def _header(**changes: Any) -> FrameHeader:
    header = {
        "run_id": "abc",
        "sequence_number": 3,
        "index": {"t": 1, "p": 0, "g": 4, "z": 2, "cam": 1},
        "height_px": 20,
        "width_px": 30,
        "dtype": "uint8",
        "z_um": 0.1,
        "taken_at": 1e9,
    }
    return FrameHeader.model_validate({**header, **changes})


@given(_AXES)
def test_frame_index_is_the_axes_whatever_their_order(axes: dict[str, int]) -> None:
    index = FrameIndex(axes)
    turned = FrameIndex(dict(reversed(axes.items())))
    assert dict(index) == axes
    assert index == turned
    assert hash(index) == hash(turned)


@given(_AXES, st.data())
def test_frames_that_differ_along_one_axis_are_two(
    axes: dict[str, int], data: st.DataObject
) -> None:
    axis = data.draw(st.sampled_from([*axes, "one more"]))
    other = {**axes, axis: axes.get(axis, -1) + 1}
    assert len({FrameIndex(axes), FrameIndex(other)}) == 2


def test_tiles_of_a_grid_differ_in_g_alone() -> None:
    tiles = [FrameIndex({"t": 0, "p": 0, "g": g, "c": 0, "z": 0}) for g in range(2)]
    assert tiles[0] != tiles[1]
    spec = _spec()
    assert spec.image_number(tiles[0]) != spec.image_number(tiles[1])


@given(*[st.integers(0, 1000)] * 4)
def test_placement_is_found_again_through_its_stack(image: int, t: int, c: int, z: int) -> None:
    placement = Placement(image, t, c, z)
    key = placement.stack("abc")
    assert key == StackKey("abc", image, t, c)
    assert key.placement(z) == placement
    assert placement.stack("abc") == placement._replace(z=z + 1).stack("abc")
    assert placement.stack("abc") != placement.stack("abd")


def test_each_position_and_tile_is_an_image_of_its_own() -> None:
    spec = _spec()
    numbers = [
        spec.image_number(FrameIndex({"p": p, "g": g, "z": 5})) for p in (0, 2) for g in (0, 1)
    ]
    assert numbers == [0, 1, 2, 3]
    assert spec.image_number(FrameIndex({})) == 0
    assert spec.image_number(FrameIndex({"p": 1})) is None  # not planned
    assert spec.image_number(FrameIndex({"p": 0, "g": 2})) is None


@pytest.mark.parametrize("cameras", [(), ("one",), ("left", "right")])
def test_cameras_extend_the_channels(cameras: tuple[str, ...]) -> None:
    count = max(len(cameras), 1)
    names = [f"{c} {n}" for c in ("DAPI", "FITC", "Cy5") for n in range(count)]
    spec = _spec(channels=[ChannelSpec(name=name) for name in names], cameras=cameras)
    numbers = [
        spec.channel_number(FrameIndex({"c": c, "cam": cam}))
        for c, cam in itertools.product(range(3), range(count))
    ]
    assert numbers == list(range(len(names)))
    assert spec.channel_number(FrameIndex({})) == 0


def test_frame_bytes_are_those_of_its_pixels() -> None:
    assert _spec(dtype="uint8").frame_bytes == 20 * 30
    assert _spec(dtype="uint16").frame_bytes == 2 * 20 * 30


def test_run_and_header_come_back_from_their_json() -> None:
    spec = _spec(
        pixel_size_um=Calibration(0.1, "stage"),
        z_step_um=Calibration(1 / 3, "file"),
        sequence={"z_plan": {"range": 4}},
        software={"a": "1"},
    )
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    header = _header(x_um=None)
    assert FrameHeader.model_validate_json(header.model_dump_json(exclude_none=True)) == header


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"},
        {"images": []},
        {"channels": []},
        {"height_px": 0},
        {"colour": 1},
        {"images": [{"name": "a", "size_z": 0}]},
        {"pixel_size_um": {"um": 1.0, "source": "guessed"}},
    ],
    ids=lambda change: "-".join(change),
)
def test_run_that_cannot_be_stored_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _spec(**change)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "int16"}, {"sequence_number": -1}, {"colour": 1}, {"index": {"t": "x"}}],
    ids=lambda change: "-".join(change),
)
def test_header_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _header(**change)


def test_what_crosses_rooms_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _spec().name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        _header().sequence_number = 4
