"""Runs over a well plate: an OME-Zarr plate, found and mended like any other run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import useq

from deepfocus_live.export import Export
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.microscope._plan import frame_header, plan_run
from deepfocus_live.stacks import open_masks, open_stacks
from deepfocus_live.volume import (
    RunWriter,
    correct_stack,
    find_leftovers,
    mend_files,
    open_run,
    read_ledger,
    verify_run,
)
from tests.ome_zarr import assert_run_is_valid
from tests.stored_frames import QUICK, SAFE, enter_frame, pixels_of

SUMMARY = {
    "image_infos": [
        {
            "height": 20,
            "width": 30,
            "dtype": "uint16",
            "plane_shape": (20, 30),
            "camera_label": "Camera",
            "pixel_size_um": 0.5,
        }
    ]
}
PLATE = {
    "plate": {"rows": 2, "columns": 3, "well_spacing": 9, "well_size": 6, "name": "six wells"},
    "a1_center_xy": (100, 200),
    "selected_wells": ([0, 1], [0, 2]),
}


def _store(writer: RunWriter, number: int, event: useq.MDAEvent, pixels: Any) -> Placement:
    header = frame_header(writer.spec.run_id, number, pixels, event, {}, float(number))
    stored = writer.write_frame(header, pixels)
    enter_frame(writer, header, stored)
    return stored.placement


def _files(store: Path) -> dict[str, Any]:
    found = sorted(store.rglob("zarr.json"))
    return {str(path.relative_to(store)): json.loads(path.read_bytes()) for path in found}


def _ome(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_bytes())["attributes"]["ome"]


def test_run_over_a_plate_is_a_plate_at_every_moment_and_its_images_are_found(
    tmp_path: Path,
) -> None:
    sequence = useq.MDASequence.model_validate(
        {
            "axis_order": "tpgzc",
            "stage_positions": PLATE,
            "channels": ["DAPI", "GFP"],
            "z_plan": {"range": 2, "step": 1},
        }
    )
    spec = plan_run(sequence, SUMMARY)
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    assert_run_is_valid(writer.path)
    volume = writer.path / "volume.ome.zarr"
    assert _ome(volume)["plate"]["wells"] == [
        {"path": "A/1", "rowIndex": 0, "columnIndex": 0},
        {"path": "B/3", "rowIndex": 1, "columnIndex": 2},
    ]
    events = list(sequence)
    placed = {}
    for number, event in enumerate(events[1:], 1):  # the first is skipped
        placement = _store(writer, number, event, pixels_of(number, spec))
        placed[placement] = number
        assert placement == (event.index["p"], 0, event.index["c"], event.index["z"])
    # Nobody planned these: a tile becomes a field of its position's well, the other has none.
    for number, index in ((90, {"p": 0, "g": 1}), (91, {"p": 7})):
        event = useq.MDAEvent(index=index, x_pos=1, y_pos=2)
        placed[_store(writer, number, event, pixels_of(number, spec))] = number
    assert_run_is_valid(writer.path)
    writer.end("completed")
    writer.close()

    run, stacks = open_run(writer.path), open_stacks(writer.path)
    assert [str(image.image.path) for image in run.images] == [
        f"{place}/0" for place in ("A/1/0", "B/3/0", "A/1/1", "3")
    ]
    for placement, number in placed.items():
        image = run.images[placement.image]
        np.testing.assert_array_equal(image.read_slice(*placement[1:]), pixels_of(number, spec))
    by_place = {(stack.position, stack.channel): stack for stack in stacks}
    np.testing.assert_array_equal(by_place[1, 1][2], run.images[1].image[0, 1, 2])
    np.testing.assert_array_equal(by_place[2, 0][0], pixels_of(90, spec))
    assert verify_run(read_ledger(writer.path)).whole
    RunWriter.reopen(writer.path, QUICK).close()

    chunk = volume / "B/3/0/0/c/0/1/2/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    extra = chunk.parents[2] / "9" / "0" / "0"
    extra.parent.mkdir(parents=True)
    extra.write_bytes(b"never acknowledged")
    found = verify_run(read_ledger(writer.path))
    assert [fault.path for fault in found.faults] == [chunk]
    assert found.unnamed == (extra,)


def test_what_is_left_of_a_plate_is_mended_and_a_person_corrects_a_field(tmp_path: Path) -> None:
    sequence = useq.MDASequence(stage_positions=PLATE, z_plan={"range": 2, "step": 1})
    writer = RunWriter.create(tmp_path, plan_run(sequence, SUMMARY), SAFE, about={})
    for number, event in enumerate(sequence):
        _store(writer, number, event, pixels_of(number, writer.spec))
    writer.end("completed")
    writer.close()
    stores = [writer.path / name for name in ("volume.ome.zarr", "probability.ome.zarr")]
    before = [_files(store) for store in stores]
    for store in stores:
        for lost in ("", "A", "B/3", "OME", "A/1/0", "B/3/0/0"):
            (store / lost / "zarr.json").unlink()
    (stores[0] / "B/3/0/labels/in_focus/zarr.json").write_bytes(b"")
    ledger = read_ledger(writer.path)
    mend_files(ledger, find_leftovers(ledger))
    assert not find_leftovers(ledger)
    assert [_files(store) for store in stores] == before
    assert_run_is_valid(writer.path)

    key = StackKey(writer.spec.run_id, 1, 0, 0)
    mask = np.ones((20, 30), np.uint8)
    correct_stack(writer.path, key, lambda _: mask, [1], about={})
    assert (stores[0] / "B/3/0/labels/corrected/zarr.json").is_file()
    np.testing.assert_array_equal(open_run(writer.path).images[1].labels["corrected"][0, 0, 1], 1)
    said = [any(one.said(z) for z in range(3)) for one in open_masks(writer.path, "corrected")]
    assert said == [False, True]
    exported = Export(writer.path, tmp_path / "out", what="masks").write()
    assert [path.name.split("_")[-2] for path in exported] == ["B3f0"]
