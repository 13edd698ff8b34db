"""The daemon's labels: with the profile's words, and what they say of a stack is written down."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live.config import Config, InferenceConfig
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._run import ActiveRun, Look, PixelBudget, SliceJob, StackProgress
from deepfocus_live.daemon._runs import OpenRuns
from deepfocus_live.focus import Conditions, label_stack
from deepfocus_live.frames import Calibration, Placement, RunSpec
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.volume import RunWriter, open_run
from tests.stored_frames import QUICK, header_of, run_spec

SHAPE = (5, 128, 160)
CONDITIONS = Conditions(numerical_aperture=0.5, pixel_size_um=0.65, z_step_um=6.0)


@pytest.fixture(scope="module")
def still() -> NDArray[Any]:
    return simulate_focal_stack("organoids", shape=SHAPE, seed=3).slices


@pytest.fixture(scope="module")
def drifting(still: NDArray[Any]) -> NDArray[Any]:
    return np.stack([np.roll(plane, 6 * z, axis=1) for z, plane in enumerate(still)])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ActiveRun]:
    """A run of one stack that waits for its slices."""
    spec = run_spec(
        height_px=SHAPE[1],
        width_px=SHAPE[2],
        images=[{"name": "here", "size_t": 2, "size_z": SHAPE[0]}],
    )
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    yield ActiveRun(writer, Look("consensus", CONDITIONS))
    writer.close()


def labelled(
    run: ActiveRun, *stacks: NDArray[Any], memory_mb: int = 16, times: int = 0, ends_after: int = -1
) -> list[bool]:
    """Have stacks labelled, one a time point; return whether each may be learned from.

    The run ends after the last slice, and after slice `ends_after`; labels are waited for until
    there were `times`, one a stack by default.
    """
    told: list[bool] = []

    def tell(_run: ActiveRun, progress: StackProgress, _shares: list[float | None]) -> None:
        told.append(progress.trainable)

    background = Background(
        labels=True,
        memory_mb=memory_mb,
        busy=lambda: False,
        on_labelled=tell,
        warn=lambda text, **_: pytest.fail(text),
    )
    budget = PixelBudget(1 << 20)
    for t, stack in enumerate(stacks):
        for z, pixels in enumerate(stack):
            number = t * len(stack) + z
            run.writer.write_frame(_header(number, t, z), np.ascontiguousarray(pixels))
            placement = Placement(0, t, 0, z)
            run.owe(1)
            background.put(SliceJob(run, placement, number, budget=budget, pixels=pixels))
            if z == ends_after:
                run.owe(1)
                background.put(run)
    run.owe(1)
    background.put(run)
    deadline = time.monotonic() + 60
    while len(told) < (times or len(stacks)) and time.monotonic() < deadline:
        time.sleep(0.01)
    background.stop()
    return told


def _header(number: int, t: int, z: int) -> Any:
    return header_of(
        number, {"t": t, "z": z}, height_px=SHAPE[1], width_px=SHAPE[2], dtype="uint16"
    )


def test_a_run_s_end_waits_for_the_slices_that_are_being_stored(run: ActiveRun) -> None:
    ends: list[str] = []
    assert run.claim(6)
    assert run.claim(7)
    run.end(lambda: ends.append("end"))
    run.release(6)
    assert (run.ended, run.finished, ends) == (True, False, [])
    run.release(7)
    assert ends == ["end"]
    assert run.claim(8)
    run.release(8)
    assert ends == ["end"], "an end is told once"


def test_a_run_that_has_nothing_in_flight_ends_at_once(run: ActiveRun) -> None:
    ends: list[str] = []
    run.end(lambda: ends.append("end"))
    assert ends == ["end"]


def test_notes_and_what_may_be_learned_go_to_the_journal_and_the_log(
    run: ActiveRun,
    still: NDArray[Any],
    drifting: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert labelled(run, still, drifting) == [True, False]
    run.writer.close()
    lines = [line for line in open_run(run.writer.path).journal if line["kind"] == "label"]
    assert [(line["t"], line["preset"], line["trainable"]) for line in lines] == [
        (0, "consensus", True),
        (1, "consensus", False),
    ]
    for line, slices in zip(lines, (still, drifting), strict=True):
        labels = label_stack(slices, conditions=CONDITIONS)
        assert line["notes"] == list(labels.notes)
        assert any(note.startswith("z-step 6.0 µm is above") for note in line["notes"])
        np.testing.assert_allclose(line["in_focus_fraction"], labels.focus_curve, atol=1e-6)
        for note in line["notes"]:
            assert f"image 0, t {line['t']}, c 0: {note}" in caplog.messages


def test_stacks_beyond_the_memory_are_read_again_and_labelled_alike(
    run: ActiveRun, still: NDArray[Any]
) -> None:
    assert labelled(run, still, still[::-1], memory_mb=0) == [True, True]
    run.writer.close()
    image = open_run(run.writer.path).images[0]
    for t, slices in enumerate((still, still[::-1])):
        want = label_stack(slices, conditions=CONDITIONS)
        assert want.weak_label.any()
        for z in range(len(slices)):
            got = np.asarray(image.labels["weak_label"][t, 0, z])
            np.testing.assert_array_equal(got, want.weak_label_slice(z))


@pytest.mark.parametrize(
    ("planned", "ends_after", "times"),
    [
        pytest.param(SHAPE[0], 3, 2, id="ended-and-resumed"),
        pytest.param(3, -1, 2, id="longer-than-planned"),
        pytest.param(1, -1, 2, id="not-planned"),
        pytest.param(9, -1, 1, id="shorter-than-planned"),
    ],
)
def test_a_stack_is_judged_whole_however_long_it_was_planned(
    tmp_path: Path, still: NDArray[Any], planned: int, ends_after: int, times: int
) -> None:
    spec = run_spec(
        height_px=SHAPE[1],
        width_px=SHAPE[2],
        images=[{"name": "here", "size_t": 1, "size_z": planned}],
    )
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    run = ActiveRun(writer, Look("consensus", CONDITIONS))
    labelled(run, still, times=times, ends_after=ends_after)
    writer.close()
    image = open_run(writer.path).images[0]
    want = label_stack(still, conditions=CONDITIONS)
    assert want.weak_label.any()
    for z in range(len(still)):
        got = np.asarray(image.labels["weak_label"][0, 0, z])
        np.testing.assert_array_equal(got, want.weak_label_slice(z))


def open_runs(conditions: Conditions, warnings: list[str]) -> OpenRuns:
    """Return what opens runs; who works on them is not asked here."""
    nobody = cast("Any", None)
    return OpenRuns(
        Config(inference=InferenceConfig(enabled=False)),
        conditions={"default": conditions},
        intake=nobody,
        masks=nobody,
        background=nobody,
        budget=nobody,
        on_opened=nobody,
        on_ended=nobody,
        on_closed=nobody,
        warn=lambda text, **_: warnings.append(text),
    )


def test_run_is_labelled_with_its_profile_s_words_and_its_own_calibration() -> None:
    warnings: list[str] = []
    flat = np.ones((20, 30), np.float32)
    runs = open_runs(Conditions(numerical_aperture=0.5, flat_field=flat), warnings)
    spec = run_spec(pixel_size_um=Calibration(0.3, "stage"), z_step_um=Calibration(2.0, "stage"))
    (look,) = runs._looks(spec)
    conditions = look.conditions
    assert conditions is not None
    assert (conditions.pixel_size_um, conditions.z_step_um) == (0.3, 2.0)
    assert (conditions.numerical_aperture, conditions.flat_field is flat) == (0.5, True)
    again = runs._looks(run_spec())[0].conditions
    assert again is not None
    assert again.pixel_size_um is None
    assert warnings == []


def test_flat_field_of_another_size_costs_no_run() -> None:
    warnings: list[str] = []
    runs = open_runs(Conditions(flat_field=np.ones((8, 8), np.float32)), warnings)
    spec: RunSpec = run_spec()
    conditions = runs._looks(spec)[0].conditions
    assert conditions is not None
    assert conditions.flat_field is None
    (said,) = warnings
    assert "8 × 8, slices are 20 × 30 pixels" in said
