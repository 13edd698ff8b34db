"""A real core runs real sequences on the simulated microscope; it must play the stacks exactly."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
import useq
from numpy.typing import DTypeLike, NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.microscope.simulated import SimulatedMicroscope, load_simulated_microscope

SHARED = Path(__file__).parents[2].parent / "shared"
HARDWARE_OR_SOFTWARE = pytest.mark.parametrize(
    "hardware_triggered",
    [pytest.param(False, id="software"), pytest.param(True, id="hardware")],
)


def make_stacks(
    n: int = 2, shape: tuple[int, int, int] = (5, 64, 80), dtype: DTypeLike = np.uint16
) -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    high = np.iinfo(np.dtype(dtype)).max
    return [rng.integers(0, high, shape, dtype=dtype, endpoint=True) for _ in range(n)]


@contextmanager
def simulated(*args: Any, **options: Any) -> Iterator[SimulatedMicroscope]:
    options = {"z_step_um": 2.0, "exposure_ms": 0.0} | options
    microscope = load_simulated_microscope(*args, **options)
    try:
        yield microscope
    finally:
        microscope.close()


Frame = tuple[NDArray[Any], useq.MDAEvent, dict[str, Any]]


def play(microscope: SimulatedMicroscope, sequence: useq.MDASequence) -> list[Frame]:
    """Run the sequence to its end and return what it delivered."""
    frames: list[Frame] = []

    def keep(image: NDArray[Any], event: useq.MDAEvent, meta: dict[str, Any]) -> None:
        frames.append((image, event, meta))

    microscope.core.mda.events.frameReady.connect(keep)
    try:
        microscope.core.mda.run(sequence)
    finally:
        microscope.core.mda.events.frameReady.disconnect(keep)
    return frames


def images(frames: list[Frame]) -> NDArray[Any]:
    return np.stack([image for image, _, _ in frames])


@HARDWARE_OR_SOFTWARE
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiffs_pixels_come_back_exactly_and_in_order(
    tmp_path: Path, hardware_triggered: bool, dtype: DTypeLike
) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", make_stacks(1, dtype=dtype)[0])
    stack = tifffile.imread(tmp_path / "stack.tif")
    with simulated([stack]) as microscope:
        frames = play(microscope, microscope.sequence(hardware_triggered=hardware_triggered))
    assert images(frames).dtype == stack.dtype
    np.testing.assert_array_equal(images(frames), stack)
    assert [event.index["z"] for _, event, _ in frames] == list(range(5))
    assert [event.z_pos for _, event, _ in frames] == [0.0, 2.0, 4.0, 6.0, 8.0]
    # The engine says it of hardware-sequenced frames only.
    assert all(meta.get("hardware_triggered", False) == hardware_triggered for *_, meta in frames)


@HARDWARE_OR_SOFTWARE
def test_an_organoid_stack_comes_back_exactly(hardware_triggered: bool) -> None:
    path = SHARED / "data" / "organoid_A01.ome.tif"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the repository")
    stack = tifffile.imread(path)
    with simulated([stack], z_step_um=200.576, pixel_size_um=4.3229) as microscope:
        frames = play(microscope, microscope.sequence(hardware_triggered=hardware_triggered))
    np.testing.assert_array_equal(images(frames), stack)


@HARDWARE_OR_SOFTWARE
@pytest.mark.parametrize("as_", ["time", "position"])
def test_the_next_time_point_or_position_plays_the_next_stack(
    as_: Literal["time", "position"], hardware_triggered: bool
) -> None:
    stacks = make_stacks(2)
    with simulated(stacks) as microscope:
        sequence = microscope.sequence(3, as_=as_, hardware_triggered=hardware_triggered)
        frames = play(microscope, sequence)
    # A third scan of two stacks begins again at the first.
    np.testing.assert_array_equal(images(frames), np.concatenate([*stacks, stacks[0]]))
    axis = as_[0]
    assert [event.index[axis] for _, event, _ in frames] == [0] * 5 + [1] * 5 + [2] * 5


def test_time_points_with_an_interval_play_the_next_stack_and_wait() -> None:
    stacks = make_stacks(2)
    with simulated(stacks) as microscope:
        sequence = microscope.sequence(hardware_triggered=True, interval_s=0.3)
        begin = time.perf_counter()
        frames = play(microscope, sequence)
        assert time.perf_counter() - begin >= 0.3
    np.testing.assert_array_equal(images(frames), np.concatenate(stacks))


def test_a_second_run_begins_again_with_the_first_stack() -> None:
    stacks = make_stacks(2)
    with simulated(stacks) as microscope:
        play(microscope, microscope.sequence(2))
        frames = play(microscope, microscope.sequence(1))
    np.testing.assert_array_equal(images(frames), stacks[0])


@HARDWARE_OR_SOFTWARE
def test_after_a_cancelled_run_the_next_one_begins_at_the_beginning(
    hardware_triggered: bool,
) -> None:
    stacks = make_stacks(2)
    with simulated(stacks, exposure_ms=5.0) as microscope:
        mda = microscope.core.mda
        sequence = microscope.sequence(hardware_triggered=hardware_triggered)
        delivered: list[useq.MDAEvent] = []

        def cancel_in_the_second_stack(image: NDArray[Any], event: useq.MDAEvent) -> None:
            delivered.append(event)
            if event.index["t"] == 1:
                mda.cancel()

        mda.events.frameReady.connect(cancel_in_the_second_stack)
        mda.run(sequence)
        mda.events.frameReady.disconnect(cancel_in_the_second_stack)
        assert 5 < len(delivered) < 10
        np.testing.assert_array_equal(images(play(microscope, sequence)), np.concatenate(stacks))


@HARDWARE_OR_SOFTWARE
def test_positions_play_stacks_with_different_numbers_of_slices(hardware_triggered: bool) -> None:
    stacks = [*make_stacks(1, (3, 64, 64)), *make_stacks(1, (6, 64, 64))]
    with simulated(stacks) as microscope:
        sequence = microscope.sequence(as_="position", hardware_triggered=hardware_triggered)
        frames = play(microscope, sequence)
    np.testing.assert_array_equal(images(frames), np.concatenate(stacks))


def test_positions_and_time_points_together_play_stack_p_plus_t() -> None:
    stacks = make_stacks(4, (2, 64, 64))
    with simulated(stacks) as microscope:
        x = [microscope.field_position_um(field)[0] for field in range(3)]
        sequence = useq.MDASequence(
            axis_order=("t", "p", "z"),
            time_plan=useq.TIntervalLoops(interval=timedelta(0), loops=2),
            stage_positions=tuple(useq.Position(x=each, y=0.0) for each in x),
            z_plan=useq.ZAbsolutePositions(absolute=[0.0, 2.0]),
        )
        frames = play(microscope, sequence)
    assert len(frames) == 12
    for image, event, _ in frames:
        number = event.index["t"] + event.index["p"]
        np.testing.assert_array_equal(image, stacks[number][event.index["z"]])


def test_a_grid_of_tiles_stays_on_its_positions_stack() -> None:
    stacks = make_stacks(2, (2, 64, 64))
    with simulated(stacks, pixel_size_um=0.5) as microscope:
        x, y = microscope.field_position_um(1)
        sequence = useq.MDASequence(
            axis_order=("p", "g", "z"),
            stage_positions=(useq.Position(x=x, y=y),),
            grid_plan=useq.GridRowsColumns(rows=3, columns=3),
            z_plan=useq.ZAbsolutePositions(absolute=[0.0, 2.0]),
        )
        frames = play(microscope, sequence)
    assert len({(event.x_pos, event.y_pos) for _, event, _ in frames}) == 9
    np.testing.assert_array_equal(images(frames), np.concatenate([stacks[1]] * 9))


def test_a_snap_shows_the_plane_nearest_to_the_stage() -> None:
    (stack,) = make_stacks(1)
    with simulated([stack], z_um=[[10.0, 11.0, 13.0, 17.0, 30.0]], z_step_um=None) as microscope:
        core = microscope.core
        for z_um, plane in [(-50, 0), (10.4, 0), (10.6, 1), (16, 3), (24, 4), (1000, 4)]:
            core.setPosition(z_um)
            np.testing.assert_array_equal(core.snap(), stack[plane])


def test_live_mode_shows_the_current_plane() -> None:
    (stack,) = make_stacks(1)
    with simulated([stack], exposure_ms=2.0) as microscope:
        core = microscope.core
        core.setPosition(4.0)
        core.startContinuousSequenceAcquisition()
        deadline = time.monotonic() + 10
        while core.getRemainingImageCount() < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        np.testing.assert_array_equal(core.getLastImage(), stack[2])
        core.stopSequenceAcquisition()


@HARDWARE_OR_SOFTWARE
def test_an_image_takes_at_least_its_exposure(hardware_triggered: bool) -> None:
    (stack,) = make_stacks(1)
    with simulated([stack], exposure_ms=1.0) as microscope:
        microscope.core.setExposure(40.0)
        begin = time.perf_counter()
        frames = play(microscope, microscope.sequence(hardware_triggered=hardware_triggered))
        took_s = time.perf_counter() - begin
    assert took_s >= 5 * 0.040
    assert all(meta["exposure_ms"] == 40.0 for _, _, meta in frames)
    # In time only: a longer exposure does not change a pixel.
    np.testing.assert_array_equal(images(frames), stack)


def test_the_stage_is_put_back_after_a_run_as_on_a_real_stand() -> None:
    (stack,) = make_stacks(1)
    with simulated([stack]) as microscope:
        microscope.core.setPosition(6.0)
        play(microscope, microscope.sequence(hardware_triggered=True))
        assert microscope.core.getPosition() == 6.0
        np.testing.assert_array_equal(microscope.core.snap(), stack[3])


def test_the_core_reports_pixel_size_pixel_type_and_size() -> None:
    with simulated(make_stacks(1, dtype=np.uint8), pixel_size_um=0.65) as microscope:
        core = microscope.core
        assert core.getPixelSizeUm() == pytest.approx(0.65)
        assert core.getPixelSizeAffine()[0] == pytest.approx(0.65)
        assert core.getBytesPerPixel() == 1
        assert (core.getImageHeight(), core.getImageWidth()) == (64, 80)
    with simulated(make_stacks(1)) as microscope:
        assert microscope.core.getPixelSizeUm() == 0.0
        assert microscope.core.getBytesPerPixel() == 2


def test_a_region_of_interest_shows_its_part_of_the_plane() -> None:
    (stack,) = make_stacks(1)
    with simulated([stack]) as microscope:
        microscope.core.setROI(10, 20, 32, 16)
        np.testing.assert_array_equal(microscope.core.snap(), stack[0, 20:36, 10:42])


def test_a_core_is_loaded_anew_with_other_stacks() -> None:
    first, second = make_stacks(2)
    with simulated([first], pixel_size_um=0.5) as microscope:
        again = load_simulated_microscope(
            [second], z_step_um=1.0, pixel_size_um=0.25, core=microscope.core
        )
        assert again.core is microscope.core
        assert again.core.getPixelSizeUm() == 0.25
        np.testing.assert_array_equal(images(play(again, again.sequence())), second)


def test_frames_are_not_overwritten_by_later_frames() -> None:
    (stack,) = make_stacks(1)
    with simulated([stack]) as microscope:
        sequence = microscope.sequence(4)
        frames = play(microscope, sequence)
        before = images(frames)
        play(microscope, sequence)
    np.testing.assert_array_equal(images(frames), before)


class LazyStack:
    """Gives planes on demand and counts how often it is asked."""

    def __init__(self, stack: NDArray[Any]) -> None:
        self.stack = stack
        self.asked: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stack.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stack.dtype

    def __getitem__(self, z: int, /) -> NDArray[Any]:
        self.asked.append(z)
        plane: NDArray[Any] = self.stack[z]
        return plane


def test_a_lazily_read_stack_is_asked_for_one_plane_at_a_time() -> None:
    lazy = LazyStack(make_stacks(1)[0].astype(">u2"))
    with simulated([lazy]) as microscope:
        assert lazy.asked == []
        frames = play(microscope, microscope.sequence())
        microscope.core.snap()
        microscope.core.snap()
    np.testing.assert_array_equal(images(frames), lazy.stack)
    assert images(frames).dtype == np.uint16
    # The last two snaps see the stage back at plane 0: read once, then held.
    assert lazy.asked == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("stacks", "options", "message"),
    [
        pytest.param([], {}, "no stack to play", id="none"),
        pytest.param(make_stacks(1)[0], {}, "stack 0 is 64 x 80 uint16: .* three axes", id="2-D"),
        pytest.param([np.zeros((0, 64, 64), np.uint8)], {}, "none of them empty", id="no-slice"),
        pytest.param([np.zeros((2, 64, 64), np.float32)], {}, "float32: .* convert it", id="float"),
        pytest.param(
            [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 65), np.uint8)],
            {},
            "stack 1 is 2 x 64 x 65 uint8, stack 0 is 2 x 64 x 64 uint8: .* crop",
            id="other-size",
        ),
        pytest.param(
            [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 64), np.uint16)],
            {},
            "stack 1 is .* one camera",
            id="other-dtype",
        ),
        pytest.param(make_stacks(), {"z_step_um": None}, "give either", id="no-z"),
        pytest.param(make_stacks(), {"z_um": [[0] * 5] * 2}, "give either", id="two-z"),
        pytest.param(make_stacks(), {"z_step_um": 0.0}, "z-step .* above 0", id="z-step-0"),
        pytest.param(
            make_stacks(),
            {"z_step_um": None, "z_um": [[0, 1, 2]]},
            "given for 1 stacks, but there are 2",
            id="z-lists",
        ),
        pytest.param(
            make_stacks(1),
            {"z_step_um": None, "z_um": [[0, 1, 2]]},
            "stack 0 has 5 slices",
            id="z-count",
        ),
        pytest.param(make_stacks(), {"pixel_size_um": -1.0}, "pixel size", id="pixel-size"),
        pytest.param(make_stacks(), {"exposure_ms": float("nan")}, "exposure", id="exposure"),
    ],
)
def test_input_that_cannot_be_played_is_refused_in_one_line(
    stacks: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        load_simulated_microscope(stacks, **({"z_step_um": 2.0} | options))
    assert "\n" not in str(refusal.value)


def test_stacks_of_different_depth_are_refused_as_time_points() -> None:
    stacks = [*make_stacks(1, (3, 64, 64)), *make_stacks(1, (6, 64, 64))]
    with simulated(stacks) as microscope:
        with pytest.raises(InputError, match="play them as positions"):
            microscope.sequence(as_="time")
        with pytest.raises(InputError, match="give 1 or more"):
            microscope.sequence(0)


def test_importing_the_simulated_microscope_loads_nothing_heavy() -> None:
    code = (
        "import sys, deepfocus_live.microscope.simulated;"
        "print(sorted({'torch', 'numba', 'onnxruntime', 'zarr', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
