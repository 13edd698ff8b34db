"""From a useq sequence to the plan of a run: what is said before, the frames then do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import useq

from deepfocus_live.errors import InputError
from deepfocus_live.frames import FrameIndex, RunSpec
from deepfocus_live.microscope._plan import frame_header, plan_run

GRID = {"rows": 2, "columns": 2, "fov_width": 10, "fov_height": 10}
STACK = {"range": 4, "step": 1}
AUTOFOCUS = {"autofocus_motor_offset": 1, "axes": ("p",)}


def _summary(**changes: Any) -> dict[str, Any]:
    info = {
        "height": 48,
        "width": 64,
        "dtype": "uint16",
        "pixel_format": "Mono16",
        "num_components": 1,
        "camera_label": "Camera",
        "num_camera_adapter_channels": 1,
        "pixel_size_um": 0.5,
    }
    return {"image_infos": [{**info, **changes}]}


def _sequence(**plan: Any) -> useq.MDASequence:
    return useq.MDASequence.model_validate(plan)


def _at(x: float, **plan: Any) -> dict[str, Any]:
    """Return a position; with a plan of its own where one is given."""
    return {"x": x, "y": 0, **({"sequence": plan} if plan else {})}


SEQUENCES = {
    "one-frame": _sequence(channels=["A"]),
    "time": _sequence(time_plan={"interval": 0, "loops": 3}),
    "time-phases": _sequence(
        time_plan=[{"interval": 0, "loops": 2}, {"interval": 0.1, "loops": 3}]
    ),
    "positions-time-channels-z": _sequence(
        stage_positions=[(0, 0), (5, 5), (9, 9)],
        time_plan={"interval": 0, "loops": 2},
        channels=["A", "B"],
        z_plan=STACK,
    ),
    "position-after-time": _sequence(
        axis_order="tpcz", stage_positions=[(0, 0), (5, 5)], time_plan={"interval": 0, "loops": 2}
    ),
    "grid": _sequence(grid_plan=GRID, z_plan=STACK),
    "grid-at-positions": _sequence(stage_positions=[(0, 0), (99, 99)], grid_plan=GRID),
    "grid-from-edges": _sequence(
        grid_plan={
            "top": 0,
            "left": 0,
            "bottom": 20,
            "right": 30,
            "fov_width": 10,
            "fov_height": 10,
        }
    ),
    "well-plate": _sequence(
        stage_positions={
            "plate": "96-well",
            "a1_center_xy": (0, 0),
            "selected_wells": ([0, 1], [0, 1]),
            "well_points_plan": {**GRID, "rows": 1},
        },
        z_plan=STACK,
    ),
    "own-z-at-one-position": _sequence(
        stage_positions=[_at(0, z_plan={"range": 2, "step": 1}), _at(1), _at(2, z_plan=STACK)],
        z_plan=STACK,
    ),
    "own-grid-at-one-position": _sequence(
        stage_positions=[_at(0, grid_plan=GRID), _at(50)], channels=["A"]
    ),
    "own-time-at-one-position": _sequence(
        stage_positions=[_at(0, time_plan={"interval": 0, "loops": 3}), _at(1)],
        time_plan={"interval": 0, "loops": 2},
    ),
    "autofocus": _sequence(
        stage_positions=[{"x": 0, "z": 0}, {"x": 1, "z": 1}],
        z_plan=STACK,
        autofocus_plan=AUTOFOCUS,
    ),
    "autofocus-and-own-z": _sequence(
        stage_positions=[{**_at(0, z_plan={"range": 2, "step": 1}), "z": 0}, {"x": 1, "z": 1}],
        z_plan=STACK,
        autofocus_plan=AUTOFOCUS,
    ),
    "channel-at-every-other-time": _sequence(
        time_plan={"interval": 0, "loops": 4},
        channels=[{"config": "A"}, {"config": "B", "acquire_every": 2}],
    ),
    "channel-without-stack": _sequence(
        z_plan=STACK, channels=[{"config": "A"}, {"config": "B", "do_stack": False}]
    ),
    "axis-order-tpgzc": _sequence(
        axis_order="tpgzc",
        time_plan={"interval": 0, "loops": 2},
        stage_positions=[(0, 0), (99, 99)],
        grid_plan=GRID,
        z_plan=STACK,
        channels=["A", "B"],
    ),
    "axis-order-zc": _sequence(axis_order="zc", z_plan=STACK, channels=["A", "B"]),
    "uneven-z": _sequence(z_plan={"relative": [0, 1, 5]}),
}


def _indices(sequence: useq.MDASequence, cameras: int) -> list[FrameIndex]:
    """Return the index of every frame that a microscope will deliver."""
    extra = [{}] if cameras == 1 else [{"cam": number} for number in range(cameras)]
    return [
        FrameIndex({**event.index, **cam})
        for event in sequence
        if isinstance(event.action, useq.AcquireImage)
        for cam in extra
    ]


def _size_of(indices: list[FrameIndex], axis: str) -> int:
    return 1 + max(index.get(axis, 0) for index in indices)


@pytest.mark.parametrize("cameras", [1, 2], ids=["one-camera", "two-cameras"])
@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_every_frame_has_the_place_that_was_planned_for_it(
    sequence: useq.MDASequence, cameras: int
) -> None:
    spec = plan_run(sequence, _summary(num_camera_adapter_channels=cameras))
    indices = _indices(sequence, cameras)
    by_image: dict[int, list[FrameIndex]] = {}
    for index in indices:
        number = spec.image_number(index)
        assert number is not None, index
        assert spec.channel_number(index) < len(spec.channels)
        by_image.setdefault(number, []).append(index)
    assert sorted(by_image) == list(range(len(spec.images)))
    for number, own in by_image.items():
        image = spec.images[number]
        assert (image.size_t, image.size_z) == (_size_of(own, "t"), _size_of(own, "z"))
    assert spec.frames_expected in (None, len(indices))
    assert len({image.name for image in spec.images}) == len(spec.images)


@pytest.mark.parametrize(
    "name", ["positions-time-channels-z", "grid", "own-z-at-one-position", "autofocus-and-own-z"]
)
def test_number_of_frames_is_known_before_the_first(name: str) -> None:
    spec = plan_run(SEQUENCES[name], _summary(num_camera_adapter_channels=2))
    assert spec.frames_expected == len(_indices(SEQUENCES[name], 2))


def test_channels_of_a_positions_own_plan_are_channels_of_the_run() -> None:
    sequence = _sequence(stage_positions=[_at(0, channels=["A", "B"]), _at(1)])
    spec = plan_run(sequence, _summary())
    for index in _indices(sequence, 1):
        assert spec.channel_number(index) < len(spec.channels)


@pytest.mark.parametrize("loops", [1, 3])
def test_run_from_an_iterator_has_one_image_and_no_expectation(loops: int) -> None:
    spec = plan_run(useq.MDASequence(), _summary())  # its stand-in knows nothing
    assert [(i.position, i.tile, i.size_t, i.size_z) for i in spec.images] == [(0, 0, 1, 1)]
    assert [channel.name for channel in spec.channels] == ["default"]
    assert spec.frames_expected is None
    assert spec.z_step_um is None


@pytest.mark.parametrize(
    ("told", "bits"),
    [
        pytest.param({"pixel_format": "Mono12"}, 12, id="12-bit"),
        pytest.param({"pixel_format": "RGB8", "dtype": "uint8"}, 8, id="colours"),
        pytest.param({"pixel_format": "Mono16", "dtype": "uint8"}, None, id="does-not-fit"),
        pytest.param({"pixel_format": ""}, None, id="not-told"),
    ],
)
def test_bits_of_a_count_are_the_cameras(told: dict[str, Any], bits: int | None) -> None:
    assert plan_run(useq.MDASequence(), _summary(**told)).bits_per_sample == bits


def test_each_run_has_an_id_of_its_own() -> None:
    assert len({plan_run(useq.MDASequence(), _summary()).run_id for _ in range(10)}) == 10


def test_cameras_extend_the_channels_and_are_named() -> None:
    sequence = _sequence(channels=[{"config": "DAPI", "exposure": 5}, "FITC"])
    one = plan_run(sequence, _summary())
    assert [(c.name, c.exposure_ms) for c in one.channels] == [("DAPI", 5), ("FITC", None)]
    two = plan_run(sequence, _summary(num_camera_adapter_channels=2, camera_label="Multi"))
    assert two.cameras == ("Multi 1", "Multi 2")
    assert [(c.name, c.camera) for c in two.channels] == [
        ("DAPI Multi 1", "Multi 1"),
        ("DAPI Multi 2", "Multi 2"),
        ("FITC Multi 1", "Multi 1"),
        ("FITC Multi 2", "Multi 2"),
    ]


# ------------------------------------------------------------- calibration


@pytest.mark.parametrize(
    ("z_plan", "step"),
    [
        pytest.param({"range": 4, "step": 0.1}, 0.1, id="range-around"),
        pytest.param({"top": 10, "bottom": 0, "step": 2.5}, 2.5, id="top-bottom"),
        pytest.param({"top": 10, "bottom": 0, "step": 2.5, "go_up": False}, 2.5, id="downwards"),
        pytest.param({"above": 1, "below": 2, "step": 0.5}, 0.5, id="above-below"),
        pytest.param({"relative": [0, 0.3, 0.6]}, 0.3, id="even-list"),
        pytest.param({"relative": [0, 1, 5]}, None, id="uneven-list"),
        pytest.param({"absolute": [7]}, None, id="one-slice"),
        pytest.param({"relative": [2, 2, 2]}, None, id="standing-still"),
        pytest.param(None, None, id="no-z"),
    ],
)
def test_z_step_is_stated_only_where_there_is_one(
    z_plan: dict[str, Any] | None, step: float | None
) -> None:
    spec = plan_run(_sequence(z_plan=z_plan), _summary())
    if step is None:
        assert spec.z_step_um is None
    else:
        assert spec.z_step_um is not None
        assert spec.z_step_um.um == pytest.approx(step)
        assert spec.z_step_um.source == "stage"


@pytest.mark.parametrize(
    ("own", "step"),
    [
        pytest.param({"range": 2, "step": 1}, 1.0, id="same-step"),
        pytest.param({"range": 4, "step": 2}, None, id="another-step"),
        pytest.param({"relative": [0, 1, 5]}, None, id="uneven"),
    ],
)
def test_z_step_of_a_run_is_stated_only_where_all_positions_share_it(
    own: dict[str, Any], step: float | None
) -> None:
    sequence = _sequence(stage_positions=[_at(0, z_plan=own), _at(1)], z_plan=STACK)
    found = plan_run(sequence, _summary()).z_step_um
    assert (found.um if found else None) == step


@pytest.mark.parametrize(("given", "known"), [(0.1, 0.1), (0, None), (None, None)])
def test_pixel_size_that_is_not_configured_is_not_known(
    given: float | None, known: float | None
) -> None:
    pixel = plan_run(useq.MDASequence(), _summary(pixel_size_um=given)).pixel_size_um
    assert (pixel.um if pixel else None) == known


@pytest.mark.parametrize("name", ["well-plate", "grid-at-positions", "grid-from-edges"])
def test_place_of_an_image_is_where_its_events_go(name: str) -> None:
    sequence = SEQUENCES[name]
    images = plan_run(sequence, _summary()).images
    places = {(image.position, image.tile): (image.x_um, image.y_um) for image in images}
    for event in sequence:
        at = event.index.get("p", 0), event.index.get("g", 0)
        assert places[at] == (event.x_pos, event.y_pos)


def test_place_of_a_tile_is_unknown_where_only_the_microscope_knows_its_positions() -> None:
    assert {(i.x_um, i.y_um) for i in _plan(grid_plan=GRID).images} == {(None, None)}


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        ({"interval": 2.5, "loops": 3}, 2.5),
        ({"duration": 10, "loops": 5}, 2.5),
        ({"interval": 0, "loops": 3}, None),
        ([{"interval": 1, "loops": 2}, {"interval": 3, "loops": 2}], None),
    ],
)
def test_time_step_is_stated_only_where_there_is_one(plan: Any, seconds: float | None) -> None:
    assert _plan(time_plan=plan).time_step_s == seconds


def test_fields_of_a_plate_are_numbered_within_their_wells_tiles_and_all() -> None:
    plate = {
        "plate": 384,
        "a1_center_xy": (0, 0),
        "selected_wells": ([15, 1], [23, 2]),
        "well_points_plan": {"num_points": 2, "random_seed": 1},
    }
    spec = _plan(stage_positions=plate, grid_plan={**GRID, "rows": 1})
    assert spec.plate is not None
    assert (len(spec.plate.rows), len(spec.plate.columns)) == (16, 24)
    wells = [(image.well, image.field) for image in spec.images]
    assert wells == [(well, field) for well in ("P/24", "B/3") for field in range(4)]
    assert _plan(stage_positions=[(0, 0)]).plate is None


def _plan(**plan: Any) -> RunSpec:
    return plan_run(_sequence(**plan), _summary())


def test_names_are_the_users_where_given() -> None:
    named = [{"x": 0, "name": "left"}, {"x": 1}]
    assert [image.name for image in _plan(stage_positions=named).images] == ["left", "position 1"]
    assert [image.name for image in _plan(stage_positions=named, grid_plan=GRID).images][:2] == [
        "left tile 0",
        "left tile 1",
    ]
    assert _plan(metadata={"name": "organoid 7"}).name == "organoid 7"


def test_plan_and_sequence_survive_their_json() -> None:
    for sequence in SEQUENCES.values():
        spec = plan_run(sequence, _summary())
        assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


# ----------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("summary", "says"),
    [
        pytest.param({}, "no camera", id="no-camera"),
        pytest.param({"image_infos": []}, "no camera", id="empty"),
        pytest.param(_summary(plane_shape=(48, 64, 4)), r"\(48, 64, 4\)", id="four-samples"),
        pytest.param(_summary(dtype="float32"), "float32", id="float"),
        pytest.param(_summary(dtype="uint32"), "uint32", id="uint32"),
    ],
)
def test_camera_whose_images_cannot_be_stored_is_refused(
    summary: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        plan_run(useq.MDASequence(), summary)


# ----------------------------------------------------------------- headers


def _first_event(**plan: Any) -> useq.MDAEvent:
    return next(iter(_sequence(**plan)))


def test_header_has_the_whole_index_and_what_was_measured() -> None:
    event = _first_event(stage_positions=[(1, 2, 3)], grid_plan=GRID, channels=["A"], z_plan=STACK)
    meta = {
        "position": {"x": 1.5, "y": 2.5, "z": 3.25},
        "exposure_ms": 12.0,
        "camera_device": "Camera",
    }
    header = frame_header("run", 4, np.zeros((3, 5), np.uint8), event, meta, 99.0)
    assert header.index == dict(event.index)
    assert set(header.index) == {"p", "g", "c", "z"}
    assert (header.x_um, header.y_um, header.z_um) == (1.5, 2.5, 3.25)
    assert (header.height_px, header.width_px, header.dtype) == (3, 5, "uint8")
    assert (header.exposure_ms, header.camera, header.taken_at) == (12.0, "Camera", 99.0)
    assert not header.hardware_triggered


def test_hardware_sequenced_frame_lies_where_it_was_asked_for() -> None:
    event = _first_event(stage_positions=[(1, 2, 30)], z_plan=STACK)
    header = frame_header(
        "run", 0, np.zeros((3, 5), np.uint16), event, {"hardware_triggered": True}, 0.0
    )
    assert header.hardware_triggered
    assert (header.x_um, header.y_um, header.z_um) == (1, 2, event.z_pos) == (1, 2, 28)


def test_frame_of_another_kind_than_ours_is_refused() -> None:
    with pytest.raises(InputError, match="float64"):
        frame_header("run", 0, np.zeros((3, 5)), useq.MDAEvent(), {}, 0.0)
