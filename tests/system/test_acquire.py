"""From the C++ DemoCamera to the disk: attached in a process, by command, by a bare script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import useq
import yaml
from pymmcore_plus import CMMCorePlus

from deepfocus_live import attach, open_run
from deepfocus_live.config import Config
from deepfocus_live.microscope.acquire import plan, room_for
from deepfocus_live.ring import DaemonAddress
from tests.system._runs import (
    Witness,
    assert_masked_once,
    assert_stored_once,
    assert_valid,
    frame_lines,
    slice_of,
    wait_until_closed,
)

PLAN = {
    "axis_order": "tpcz",
    "time_plan": {"interval": 0, "loops": 2},
    "stage_positions": [{"x": x, "y": 0, "z": 0} for x in (0, 50, 100)],
    "z_plan": {"range": 8, "step": 2},
}


@pytest.mark.parametrize("sequenced", [False, True], ids=["software-timed", "hardware-sequenced"])
def test_every_frame_of_positions_and_time_points_is_on_disk(
    sequenced: bool, daemon: DaemonAddress, demo_core: CMMCorePlus, tmp_path: Path
) -> None:
    witness = Witness(demo_core)
    assert demo_core.mda.engine is not None
    demo_core.mda.engine.use_hardware_sequencing = sequenced
    sequence = useq.MDASequence.model_validate(PLAN)
    with attach(demo_core, output=tmp_path / "here") as attached:
        room = room_for(demo_core, sequence, Config(), output=tmp_path / "here")
        assert (room.folder, room.warning) == (str(tmp_path / "here"), None)
        demo_core.run_mda(sequence, block=True)
        assert attached.wait(60)
        (path,) = attached.status()["runs"]
        assert attached.status()["space"] is None
        run = wait_until_closed(Path(path))
    assert len(witness.frames) == 30
    assert run.path.parent == tmp_path / "here"
    assert [image.image.shape[:3] for image in run.images] == 3 * [(2, 1, 5)]
    assert_stored_once(run, witness.frames)
    assert_masked_once(run)
    assert_valid(run)
    heights = [line["z_um"] for line in frame_lines(run)][:5]
    assert heights == pytest.approx([-4, -2, 0, 2, 4], abs=0.01)


@pytest.mark.parametrize(
    ("given", "z_um", "warned"),
    [
        pytest.param({"z_plan": {"range": 4, "step": 2}}, (-2, 2), True, id="around-nothing"),
        pytest.param(
            {"z_plan": {"range": 4, "step": 2}, "stage_positions": [{"z": 90}, {"x": 1, "y": 1}]},
            (-2, 92),
            True,
            id="one-without",
        ),
        pytest.param(
            {"z_plan": {"range": 4, "step": 2}, "stage_positions": [{"z": 90}]},
            (88, 92),
            False,
            id="around-a-position",
        ),
        pytest.param({"z_plan": {"top": 3, "bottom": 1, "step": 1}}, (1, 3), False, id="absolute"),
        pytest.param({"time_plan": {"interval": 0, "loops": 2}}, None, False, id="no-z"),
    ],
)
def test_plan_says_where_the_stage_will_be_sent(
    given: dict[str, object], z_um: tuple[float, float] | None, warned: bool, demo_core: CMMCorePlus
) -> None:
    demo_core.setZPosition(80)
    demo_core.waitForDevice(demo_core.getFocusDevice())
    needed = plan(demo_core, useq.MDASequence.model_validate(given))
    assert needed.z_um == z_um
    assert needed.stage_z_um == pytest.approx(80, abs=0.1)
    assert (needed.z_warning is not None) == warned
    if warned:
        assert "around 0 µm, and the stage is at 80 µm" in str(needed.z_warning)


def test_two_runs_of_one_attachment_are_two_folders(
    daemon: DaemonAddress, demo_core: CMMCorePlus, tmp_path: Path
) -> None:
    witness = Witness(demo_core)
    plan = useq.MDASequence.model_validate({"z_plan": {"range": 4, "step": 1}})
    with attach(demo_core) as attached:
        assert attach(demo_core) is attached
        demo_core.run_mda(plan, block=True)
        demo_core.setProperty("Camera", "PixelType", "8bit")
        demo_core.run_mda(plan, block=True)
        assert attached.wait(60)
        first, second = attached.status()["runs"]
        wait_until_closed(Path(second))
    assert first != second
    assert_stored_once(open_run(first), witness.frames[:5])
    assert_stored_once(open_run(second), witness.frames[5:])
    assert open_run(second).spec.dtype == "uint8"


def test_frames_of_an_iterator_run_are_all_kept(
    daemon: DaemonAddress, demo_core: CMMCorePlus
) -> None:
    witness = Witness(demo_core)
    with attach(demo_core) as attached:
        # Longer than any disk lasts: only said, a program that attaches is never refused.
        endless = useq.MDASequence(
            time_plan={"interval": 0, "loops": 20_000}, z_plan={"range": 19_999, "step": 1}
        )
        assert "of 400000000 frames" in str(room_for(demo_core, endless, Config()).warning)
        demo_core.run_mda(iter([useq.MDAEvent() for _ in range(4)]), block=True)
        assert attached.wait(60)
        (path,) = attached.status()["runs"]
        run = wait_until_closed(Path(path))
    assert run.images[0].image.shape[:3] == (4, 1, 1)
    assert_stored_once(run, witness.frames)
    assert_valid(run)


def test_camera_that_changes_its_image_in_mid_run_gets_a_run_of_its_own(
    daemon: DaemonAddress, demo_core: CMMCorePlus
) -> None:
    witness = Witness(demo_core)

    def events() -> Iterator[useq.MDAEvent]:
        for n in range(6):
            if n == 3:
                demo_core.setProperty("Camera", "Binning", "2")
            yield useq.MDAEvent(index={"t": n})

    with attach(demo_core) as attached:
        demo_core.run_mda(events(), block=True)
        assert attached.wait(60)
        first, second = attached.status()["runs"]
        wait_until_closed(Path(second))
    assert_stored_once(open_run(first), witness.frames[:3])
    assert_stored_once(open_run(second), witness.frames[3:])
    assert open_run(second).spec.width_px == 256


def test_colour_camera_over_a_well_plate_is_stored_to_the_last_byte_and_masked(
    daemon: DaemonAddress, demo_core: CMMCorePlus
) -> None:
    witness = Witness(demo_core)
    demo_core.setProperty("Camera", "PixelType", "32bitRGB")
    wells = {
        # Small, because the stage takes its time.
        "plate": {"rows": 2, "columns": 3, "well_spacing": 0.02, "well_size": 0.01},
        "a1_center_xy": (0, 0),
        "selected_wells": ([0, 1], [0, 2]),
    }
    plan = {"axis_order": "tpgzc", "stage_positions": wells, "z_plan": {"range": 2, "step": 1}}
    with attach(demo_core) as attached:
        demo_core.run_mda(useq.MDASequence.model_validate(plan), block=True)
        assert attached.wait(60)
        (path,) = attached.status()["runs"]
        run = wait_until_closed(Path(path))
    assert witness.frames[0].shape == (512, 512, 3)
    assert [str(image.image.path) for image in run.images] == ["A/1/0/0", "B/3/0/0"]
    assert [line["sequence_number"] for line in frame_lines(run)] == list(range(6))
    for line in frame_lines(run):
        stored = run.images[line["image"]].read_slice(line["t"], line["c"], line["z"])
        np.testing.assert_array_equal(
            np.moveaxis(stored, 0, -1), witness.frames[line["sequence_number"]]
        )
    assert sum(line["kind"] == "mask" for line in run.journal) == 6
    assert sum(line["kind"] == "label" for line in run.journal) == 2
    assert_valid(run)


def test_masks_and_stacks_come_back_to_the_microscope(
    daemon: DaemonAddress, demo_core: CMMCorePlus
) -> None:
    masks, stacks = [], []
    with attach(demo_core) as attached:
        attached.on_mask(masks.append)
        attached.on_stack(stacks.append)
        demo_core.run_mda(useq.MDASequence.model_validate(PLAN), block=True)
        assert attached.wait(60)
        run = wait_until_closed(Path(attached.status()["runs"][0]))
        latest = attached.latest_mask()
    assert len(masks) == 30
    assert len(stacks) == 6
    assert latest is masks[-1]
    for result in masks:
        image, t, c, z = result.placement
        stored = run.images[image].in_focus[t, c, z]
        assert (result.mask == stored.astype(bool)).all()
        assert result.in_focus_fraction == pytest.approx(result.mask.mean())


def test_acquire_command_runs_a_sequence_file(
    mm_config: Path, own_environment: dict[str, str], tmp_path: Path
) -> None:
    plan = tmp_path / "three positions.yaml"
    plan.write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    settings = tmp_path / "config.yaml"
    settings.write_text(f"web: {{port: 0}}\nmodels: {tmp_path / 'models'}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "deepfocus_live", "acquire", "--mm-config", str(mm_config)),
        *("--sequence", str(plan), "--output", str(tmp_path / "out")),
        *("--config", str(settings)),
    ]
    dry = subprocess.run(
        [*command, "--dry-run"], capture_output=True, text=True, timeout=60, env=own_environment
    )
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.startswith("30 frames of 512 × 512")
    assert f"free on {tmp_path / 'out'}" in dry.stdout
    assert not (tmp_path / "out").exists()
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=own_environment
        )
    finally:
        stop = [sys.executable, "-m", "deepfocus_live", "stop"]
        subprocess.run(stop, check=True, timeout=90, env=own_environment, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert "30 frames taken, 30 on the disk (completed)." in result.stdout
    (path,) = (tmp_path / "out").iterdir()
    assert path.name.endswith("three-positions")
    run = open_run(path)
    assert run.state == "completed"
    # `stop` lets the daemon finish first: masks and labels are all there.
    assert_masked_once(run)
    assert len([line for line in run.journal if line["kind"] == "label"]) == 6
    frames = frame_lines(run)
    assert_stored_once(run, [slice_of(run, line) for line in frames])
    assert_valid(run)


def test_script_without_main_guard_loses_nothing(
    mm_config: Path, own_environment: dict[str, str], tmp_path: Path
) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text(f"web: {{port: 0}}\nmodels: {tmp_path / 'models'}\n", encoding="utf-8")
    script = tmp_path / "five_lines.py"
    script.write_text(
        "import deepfocus_live, pymmcore_plus, useq\n"
        "core = pymmcore_plus.CMMCorePlus()\n"
        f"core.loadSystemConfiguration({str(mm_config)!r})\n"
        f"deepfocus_live.attach(core, output={str(tmp_path / 'out')!r}, config={str(settings)!r})\n"
        "core.run_mda(useq.MDASequence(time_plan={'interval': 0, 'loops': 40}))\n",
        encoding="utf-8",
    )
    try:
        result = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=120,
            env=own_environment,
        )
        (path,) = (tmp_path / "out").iterdir()
        # Asked at once: the daemon may still be at work on masks, the frames must be there.
        lines = frame_lines(open_run(path))
    finally:
        stop = [sys.executable, "-m", "deepfocus_live", "stop"]
        subprocess.run(stop, check=True, timeout=90, env=own_environment, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert [line["sequence_number"] for line in lines] == list(range(40))
