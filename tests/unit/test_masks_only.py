"""Runs that keep no pixels: what is made of a slice is made while it is in memory, or said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live.config import StorageConfig
from deepfocus_live.daemon import Recovery
from deepfocus_live.daemon._intake import Intake
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._run import ActiveRun, Look, PixelBudget, SliceJob, StackProgress
from deepfocus_live.errors import InputError
from deepfocus_live.export import Export
from deepfocus_live.focus import label_stack
from deepfocus_live.frames import Placement
from deepfocus_live.ring import MemoryRing
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.stacks import open_masks, open_stacks
from deepfocus_live.volume import (
    RunWriter,
    SpaceGauge,
    find_owed,
    open_run,
    read_journal,
    read_ledger,
    verify_run,
)
from tests.ome_zarr import assert_run_is_valid
from tests.stored_frames import QUICK, SHAPE, header_of, pixels_of, run_spec, store_frame

MASKS_ONLY = StorageConfig(mode="masks-only", durability="process")
STACK = (4, 64, 80)


@pytest.fixture(scope="module")
def slices() -> NDArray[Any]:
    return simulate_focal_stack("organoids", shape=STACK, seed=3).slices


def _create(output: Path, **changes: Any) -> RunWriter:
    return RunWriter.create(output, run_spec(**changes), MASKS_ONLY, about={})


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_run_without_pixels_is_valid_and_says_so_everywhere(tmp_path: Path) -> None:
    writer = _create(tmp_path, height_px=300, width_px=280)
    for number in range(2):
        stored = store_frame(writer, number)
        writer.write_pyramid(stored.placement, pixels_of(number, writer.spec))
    mask = np.ones((300, 280), np.uint8)
    writer.write_mask(stored.placement, mask, np.zeros((75, 70), np.uint8), sequence_number=1)
    assert store_frame(writer, 1).duplicate
    writer.end("completed")
    writer.close()
    # Whoever goes on with it is asked nothing: what the run was begun with holds.
    again = RunWriter.reopen(writer.path, QUICK)
    store_frame(again, 2)
    again.close()

    assert_run_is_valid(writer.path)
    volume = writer.path / "volume.ome.zarr/0"
    assert not list(volume.glob("[01]/c/**/0"))
    assert list(volume.glob("labels/in_focus/[01]/c/**/0"))
    lines = [line for line in read_journal(writer.path / "frames.jsonl") if "crc32" in line]
    assert [line["stored"] for line in lines] == [False] * 3
    assert len({line["crc32"] for line in lines}) == 3
    run = open_run(writer.path)
    assert not run.pixels_stored
    assert np.asarray(run.images[0].in_focus[0, 0, 1]).all()

    ledger = read_ledger(writer.path)
    found = verify_run(ledger)
    assert (found.whole, found.slices, found.pixels_stored) == (True, 3, False)
    owed = find_owed(ledger, (), masked=lambda _: True, labelled=True)
    assert owed.levels == ()
    recovery = Recovery(writer.path)
    recovery.look(lambda _: None)
    assert not recovery.owed
    (said,) = recovery.notes
    assert "2 masks and the weak labels of 1 stacks are missing for good" in said

    (stack,) = open_stacks(writer.path)
    with pytest.raises(InputError, match="were not stored"):
        stack[0]
    assert [one[1].all() for one in open_masks(writer.path, "in_focus")] == [True]
    with pytest.raises(InputError, match="has no pixels: they were not stored"):
        Export(writer.path, tmp_path / "images")
    (path,) = Export(writer.path, tmp_path / "masks", what="masks").write()
    assert path.is_file()
    kept, not_kept = (
        SpaceGauge(writer.spec, codec="lz4", pixels=pixels).forecast(tmp_path).bytes_per_frame
        for pixels in (True, False)
    )
    assert kept - not_kept > 300 * 280  # two bytes a pixel, compressed


def _label(run: ActiveRun, slices: NDArray[Any], zs: range, *, memory_mb: int) -> list[str]:
    """Have slices labelled as the daemon does, up to the run's end; return what was warned of."""
    warnings: list[str] = []
    labelled: list[StackProgress] = []
    background = Background(
        labels=True,
        memory_mb=memory_mb,
        busy=lambda: False,
        on_labelled=lambda _run, progress, _fractions: labelled.append(progress),
        warn=lambda text, **_: warnings.append(text),
    )
    budget = PixelBudget(1)  # slices that exist nowhere else are held all the same
    for z in zs:
        pixels = np.ascontiguousarray(slices[z])
        header = header_of(z, height_px=STACK[1], width_px=STACK[2])
        run.writer.write_frame(header, pixels)
        run.owe(1)
        job = SliceJob(
            run, Placement(0, 0, 0, z), z, budget=budget, pixels=pixels, header=header, users=1
        )
        assert budget.full
        background.put(job)
    run.ended = True
    run.owe(1)
    background.put(run)
    _until(lambda: run.finished)
    background.stop()
    assert not budget.full
    assert len(labelled) == (not warnings)
    return warnings


def test_labels_are_made_from_memory_and_given_up_aloud_where_it_does_not_suffice(
    tmp_path: Path, slices: NDArray[Any]
) -> None:
    images = [{"name": "here", "size_t": 1, "size_z": STACK[0]}]
    shape = {"height_px": STACK[1], "width_px": STACK[2], "images": images}
    writer = _create(tmp_path, **shape)
    assert _label(ActiveRun(writer, Look("axial")), slices, range(4), memory_mb=16) == []
    writer.close()
    want = label_stack(slices, preset="axial")
    got = open_run(writer.path).images[0].labels["weak_label"]
    assert want.weak_label.any()
    for z in range(len(slices)):
        np.testing.assert_array_equal(got[0, 0, z], want.weak_label_slice(z))

    writer = _create(tmp_path, **shape)
    (said,) = _label(ActiveRun(writer, Look("axial")), slices, range(4), memory_mb=0)
    assert "without weak labels" in said and "labels.memory_mb" in said
    writer.close()
    assert not np.any(open_run(writer.path).images[0].labels["weak_label"][...])
    kinds = [line["kind"] for line in read_journal(writer.path / "frames.jsonl")]
    assert kinds.count("no_label") == 1 and "label" not in kinds


def test_stack_whose_first_slices_died_with_a_daemon_is_not_judged_by_the_rest(
    tmp_path: Path, slices: NDArray[Any]
) -> None:
    images = [{"name": "here", "size_t": 1, "size_z": STACK[0]}]
    writer = _create(tmp_path, height_px=STACK[1], width_px=STACK[2], images=images)
    for number in range(2):
        store_frame_of(writer, number, slices)
    writer.close()
    writer = RunWriter.reopen(writer.path, MASKS_ONLY)
    (said,) = _label(ActiveRun(writer, Look("axial")), slices, range(2, 4), memory_mb=16)
    assert "without weak labels" in said
    writer.close()
    assert not np.any(open_run(writer.path).images[0].labels["weak_label"][...])


def store_frame_of(writer: RunWriter, number: int, slices: NDArray[Any]) -> None:
    header = header_of(number, height_px=STACK[1], width_px=STACK[2])
    stored = writer.write_frame(header, np.ascontiguousarray(slices[number]))
    writer.journal_frame(header, stored, lambda _: None)


def test_frames_stay_in_the_ring_while_memory_is_full_and_none_goes_without_its_mask(
    tmp_path: Path,
) -> None:
    writer = _create(tmp_path)
    store_frame(writer, 0)  # in the journal, not acknowledged: its daemon was killed
    writer.close()
    writer = RunWriter.reopen(writer.path, MASKS_ONLY)
    run, full, told = ActiveRun(writer, Look("axial")), [True], []
    intake = Intake(
        MASKS_ONLY,
        on_stored=lambda _run, header, _stored, _pixels: told.append(header.sequence_number),
        on_trouble=lambda _run, text: pytest.fail(str(text)),
        warn=lambda text, **_: pytest.fail(text),
        memory_full=lambda: full[0],
    )
    ring = MemoryRing.create(tmp_path / "ring", slots=4, slot_bytes=2 * 20 * 30, run_room=9)
    assert SHAPE == (20, 30)
    for number in range(3):
        ring.put(number, header_of(number).model_dump_json().encode(), pixels_of(number), number)
        intake.store(run, ring, number, number, None)
    time.sleep(0.1)
    assert len(ring.waiting()) == 3 and told == []
    full[0] = False
    _until(lambda: not ring.waiting() and len(told) == 3)
    assert sorted(told) == [0, 1, 2]
    intake.stop()
    # Sent again by a microscope that lost its connection: already on its way to its mask.
    assert not run.found_again(0)
    ring.close(remove=True)
    writer.close()
