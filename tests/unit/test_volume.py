"""Run directories: what is promised of a slice once it is acknowledged, and before, and after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.config import StorageConfig
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration, Placement, StackKey
from deepfocus_live.volume import (
    LABELS,
    PROBABILITY_SCALE,
    ImageLayout,
    Journal,
    RunWriter,
    VolumeFile,
    halve_labels,
    halve_mean,
    open_run,
    projection_layout,
    read_journal,
)
from tests.ome_zarr import assert_run_is_valid, assert_store_is_valid, sizes_in_xml
from tests.small_disk import run_on_small_disk
from tests.stored_frames import (
    QUICK,
    SAFE,
    SHAPE,
    Pixels,
    enter_frame,
    header_of,
    pixels_of,
    run_spec,
    store_frame,
)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    writer = RunWriter.create(tmp_path / "runs", run_spec(), QUICK, about={})
    yield writer
    writer.close()


def _lines(path: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_journal(path / "frames.jsonl") if line["kind"] == kind]


def _read(path: Path, placement: Placement) -> Pixels:
    return np.asarray(open_run(path).images[placement.image].image[placement[1:]])


def _at(group: zarr.Group, path: str) -> Any:
    """Return what lies below a group, whatever it is."""
    return group[path]


def _ome(group: zarr.Group) -> Any:
    return group.attrs["ome"]


def _levels(group: zarr.Group) -> list[zarr.Array[Any]]:
    datasets = _ome(group)["multiscales"][0]["datasets"]
    return [_at(group, dataset["path"]) for dataset in datasets]


# ----------------------------------------------------------- the empty run

_RUNS = [
    pytest.param({}, id="one-small-image"),
    pytest.param({"height_px": 130, "width_px": 601, "dtype": "uint8"}, id="with-pyramid"),
    pytest.param(
        {
            "images": [
                {"position": p, "tile": g, "name": f"p{p} g{g}", "size_t": 2, "size_z": 3 + p}
                for p in range(2)
                for g in range(2)
            ],
            "channels": [{"name": "DAPI left"}, {"name": "DAPI right"}],
            "cameras": ["left", "right"],
            "pixel_size_um": {"um": 0.25, "source": "stage"},
            "z_step_um": {"um": 1.5, "source": "stage"},
        },
        id="tiles-times-cameras",
    ),
]


@pytest.mark.parametrize("changes", _RUNS)
def test_run_is_valid_before_its_first_frame(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = run_spec(**changes)
    writer = RunWriter.create(tmp_path, spec, QUICK, about={"software": {"ours": "1"}})
    assert_run_is_valid(writer.path)
    run = open_run(writer.path)
    assert run.spec == spec
    assert run.record["software"] == {"ours": "1"}
    assert run.state == "open"
    assert len(run.images) == len(spec.images)
    for image, planned in zip(run.images, spec.images, strict=True):
        size = (planned.size_t, len(spec.channels), planned.size_z, spec.height_px, spec.width_px)
        assert image.image.shape == size
        assert image.image.dtype == spec.dtype
        assert image.image.chunks == (1, 1, 1, *size[3:])  # one chunk is one slice
    assert "organoid" in writer.path.name
    writer.close()


def test_labels_have_the_levels_and_shapes_of_their_image(tmp_path: Path) -> None:
    spec = run_spec(height_px=130, width_px=601)
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    volume = zarr.open_group(str(writer.path / "volume.ome.zarr"), mode="r")
    shapes = [level.shape for level in _levels(_at(volume, "0"))]
    assert shapes == [(1, 1, 3, 130, 601), (1, 1, 3, 65, 301), (1, 1, 3, 33, 151)]
    for label in LABELS:
        levels = _levels(_at(volume, f"0/labels/{label}"))
        assert [level.shape for level in levels] == shapes
        assert {str(level.dtype) for level in levels} == {"uint8"}
    chance = open_run(writer.path).images[0].probability
    assert chance.shape[3:] == (-(-130 // PROBABILITY_SCALE), -(-601 // PROBABILITY_SCALE))
    writer.close()


def test_runs_of_one_name_begun_at_once_are_folders_of_their_own(tmp_path: Path) -> None:
    spec = run_spec(name="a/b: c")
    with ThreadPoolExecutor(3) as pool:
        writers = list(
            pool.map(lambda _: RunWriter.create(tmp_path, spec, QUICK, about={}), range(6))
        )
    assert sorted(tmp_path.iterdir()) == sorted(writer.path for writer in writers)
    assert len({writer.path for writer in writers}) == 6
    for writer in writers:
        writer.close()


def test_output_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot write runs here"):
            RunWriter.create(output, run_spec(), QUICK, about={})
    assert (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------- calibration


def _scales_and_units(group: zarr.Group) -> tuple[list[list[float]], list[str | None]]:
    multiscale = _ome(group)["multiscales"][0]
    scales = [
        dataset["coordinateTransformations"][0]["scale"] for dataset in multiscale["datasets"]
    ]
    return scales, [axis.get("unit") for axis in multiscale["axes"]]


@pytest.mark.parametrize(("bits", "most"), [(12, 4095), (None, 65535)])
def test_display_range_is_what_the_camera_can_give(
    tmp_path: Path, bits: int | None, most: int
) -> None:
    spec = run_spec(bits_per_sample=bits)
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    writer.close()
    image = zarr.open_group(str(writer.path / "volume.ome.zarr"), path="0", mode="r")
    windows = [channel["window"] for channel in _ome(image)["omero"]["channels"]]
    assert {(window["start"], window["end"]) for window in windows} == {(0, most)}


def test_missing_calibration_is_said_and_not_guessed(tmp_path: Path) -> None:
    micrometer = "micrometer"
    for pixel, step, units in (
        (None, None, [None] * 5),
        (0.5, None, [None, None, None, micrometer, micrometer]),
        (None, 2.0, [None, None, micrometer, None, None]),
        (0.5, 2.0, [None, None, micrometer, micrometer, micrometer]),
    ):
        spec = run_spec(
            pixel_size_um=None if pixel is None else Calibration(pixel, "stage"),
            z_step_um=None if step is None else Calibration(step, "user"),
        )
        writer = RunWriter.create(tmp_path, spec, QUICK, about={})
        image = zarr.open_group(str(writer.path / "volume.ome.zarr" / "0"), mode="r")
        scales, found = _scales_and_units(image)
        assert found == units
        assert scales[0] == [1, 1, step or 1, pixel or 1, pixel or 1]
        ours: Any = image.attrs["deepfocus_live"]
        assert ours["calibration"] == {
            "pixel_size": None if pixel is None else {"um": pixel, "source": "stage"},
            "z_step": None if step is None else {"um": step, "source": "user"},
        }
        writer.close()


def test_coarse_pixels_lie_over_the_fine_ones_they_were_made_of(tmp_path: Path) -> None:
    spec = run_spec(height_px=600, width_px=600, pixel_size_um=Calibration(0.5, "stage"))
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    image = zarr.open_group(str(writer.path / "volume.ome.zarr" / "0"), mode="r")
    datasets = _ome(image)["multiscales"][0]["datasets"]
    sides = []
    for dataset in datasets:
        scale, shift = (t[t["type"]] for t in dataset["coordinateTransformations"])
        # The first pixel's outer edge is the same at every level.
        assert shift[4] - scale[4] / 2 == pytest.approx(-0.25)
        sides.append(scale[4])
    assert sides == [0.5, 1.0, 2.0]
    writer.close()


# ------------------------------------------------------------------ frames


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("durability", ["power-loss", "process"])
def test_pixels_come_back_exactly(tmp_path: Path, dtype: str, codec: str, durability: str) -> None:
    storage = StorageConfig.model_validate({"codec": codec, "durability": durability})
    writer = RunWriter.create(tmp_path, run_spec(dtype=dtype), storage, about={})
    for number in (2, 0, 1):
        stored = store_frame(writer, number)
        assert stored.placement == Placement(0, 0, 0, number)
        np.testing.assert_array_equal(
            writer.read_slice(stored.placement), pixels_of(number, writer.spec)
        )
    writer.close()
    image = open_run(writer.path).images[0].image
    np.testing.assert_array_equal(image[0, 0], [pixels_of(n, writer.spec) for n in range(3)])


def test_journal_has_a_line_for_each_slice_with_all_that_is_known(writer: RunWriter) -> None:
    header = header_of(1, {"t": 0, "p": 0, "z": 2}, z_um=4.5, exposure_ms=10.0, camera="Camera")
    stored = writer.write_frame(header, pixels_of(1))
    assert writer.frames_durable == 0
    assert _lines(writer.path, "frame") == []  # a chunk without a line is not there yet
    enter_frame(writer, header, stored)
    assert writer.frames_durable == 1
    (line,) = _lines(writer.path, "frame")
    assert line["sequence_number"] == 1
    assert line["index"] == {"t": 0, "p": 0, "z": 2}
    assert (line["image"], line["t"], line["c"], line["z"]) == (0, 0, 0, 2)
    assert (line["z_um"], line["exposure_ms"], line["camera"]) == (4.5, 10.0, "Camera")
    assert line["taken_at"] == 1001.0
    assert line["crc32"] == stored.crc32
    assert "x_um" not in line


def test_frame_sent_again_is_recognised_and_not_entered_twice(writer: RunWriter) -> None:
    first = store_frame(writer, 0)
    again = store_frame(writer, 0)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.placement, again.crc32) == (first.placement, first.crc32)
    assert len(_lines(writer.path, "frame")) == writer.frames_durable == 1


def test_frame_written_but_not_entered_is_written_again(writer: RunWriter) -> None:
    first = writer.write_frame(header_of(0), pixels_of(0))
    again = writer.write_frame(header_of(0), pixels_of(0))
    assert not again.duplicate
    assert again == first


def test_two_frames_with_one_index_are_both_kept(writer: RunWriter) -> None:
    # A run from an iterator may have no index at all.
    stored = [store_frame(writer, number, {}) for number in range(4)]
    assert len({frame.placement for frame in stored}) == 4
    assert stored[0].placement == Placement(0, 0, 0, 0)
    for number, frame in enumerate(stored):
        np.testing.assert_array_equal(_read(writer.path, frame.placement), pixels_of(number))
    assert_run_is_valid(writer.path)


def test_cameras_of_one_event_are_kept_apart(tmp_path: Path) -> None:
    spec = run_spec(channels=[{"name": n} for n in ("a1", "a2", "b1", "b2")], cameras=("1", "2"))
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    indices = [{"c": c, "cam": cam, "z": 0} for c in range(2) for cam in range(2)]
    placements = [store_frame(writer, n, index).placement for n, index in enumerate(indices)]
    assert [placement.c for placement in placements] == [0, 1, 2, 3]
    writer.close()


def test_black_slice_is_stored_like_any_other(writer: RunWriter) -> None:
    black = np.zeros(SHAPE, np.uint16)
    stored = writer.write_frame(header_of(0), black)
    enter_frame(writer, header_of(0), stored)
    mask, probability = black.astype(np.uint8), np.zeros((5, 8), np.uint8)
    writer.write_mask(stored.placement, mask, probability, sequence_number=0)
    for name in ("volume.ome.zarr/0/0", "volume.ome.zarr/0/labels/in_focus/0"):
        assert (writer.path / name / "c/0/0/0/0/0").is_file()
        assert not (writer.path / name / "c/0/0/1/0/0").exists()


def test_threads_may_store_side_by_side(writer: RunWriter) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store_frame(writer, n, {"t": n // 3, "z": n % 3}), range(24)))
    lines = _lines(writer.path, "frame")
    assert sorted(line["sequence_number"] for line in lines) == list(range(24))
    image = open_run(writer.path).images[0].image
    assert image.shape[:3] == (8, 1, 3)
    for number in range(24):
        np.testing.assert_array_equal(image[number // 3, 0, number % 3], pixels_of(number))


def _below_volume(path: str) -> str:
    """Return where a file lies in the volume; what is made aside counts as where it goes."""
    inside = path.rpartition("volume.ome.zarr/")[2]
    return inside.removeprefix(".").replace(".partial/", "/")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file was synced")
def test_slice_is_on_the_medium_before_its_line_and_that_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really_sync = _platform.sync_file

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        really_sync(fd)

    monkeypatch.setattr(_platform, "sync_file", watched)
    writer = RunWriter.create(tmp_path, run_spec(), SAFE, about={})

    def metadata() -> set[str]:
        return {_below_volume(str(file)) for file in writer.path.glob("volume.ome.zarr/**/*.json")}

    made = metadata()
    assert made <= set(map(_below_volume, synced))
    for number, index in enumerate([{"z": 1}, {"z": 7}, {"p": 1}]):
        synced.clear()
        header = header_of(number, index)
        stored = writer.write_frame(header, pixels_of(number))
        writer.journal_frame(header, stored, lambda _: synced.append("acknowledged"))
        while "acknowledged" not in synced:
            time.sleep(0.001)
        before = synced[: synced.index("acknowledged")]
        last_chunk = max(n for n, name in enumerate(before) if "/c/" in name)
        assert before[-1] == str(writer.path / "frames.jsonl") != before[last_chunk]
        # What says how to read the chunk must not be lost either.
        new = metadata() - made
        assert new <= set(map(_below_volume, before))
        made |= new
    writer.close()


# ------------------------------------------------------------------ growth


@pytest.mark.parametrize(
    "indices",
    [
        pytest.param([{"t": 0}, {"t": 1}, {"t": 4}], id="time"),
        pytest.param([{"z": 0}, {"z": 3}, {"z": 6}], id="z"),
        pytest.param([{"p": 0, "g": 0}, {"p": 0, "g": 1}, {"p": 3, "z": 4}], id="tiles-positions"),
    ],
)
def test_run_grows_where_the_plan_had_no_room_and_stays_valid(
    tmp_path: Path, indices: list[dict[str, int]]
) -> None:
    spec = run_spec(height_px=20, width_px=300)
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    stored = []
    for number, index in enumerate(indices):
        frame = store_frame(writer, number, index)
        pixels = pixels_of(number, spec)
        writer.write_pyramid(frame.placement, pixels)
        mask = np.ones(pixels.shape, np.uint8)
        writer.write_mask(
            frame.placement, mask, np.full((5, 75), 200, np.uint8), sequence_number=number
        )
        writer.write_weak_label(frame.placement, mask, 1 - mask)
        stored.append(frame)
    assert_run_is_valid(writer.path)
    writer.close()
    assert len({frame.placement for frame in stored}) == len(indices)
    # Another writer, and a reader, find it as it was left.
    writer = RunWriter.reopen(writer.path, QUICK)
    assert all(store_frame(writer, number, index).duplicate for number, index in enumerate(indices))
    writer.close()
    run = open_run(writer.path)
    assert sizes_in_xml(writer.path) == [image.image.shape for image in run.images]
    for number, frame in enumerate(stored):
        image, at = run.images[frame.placement.image], frame.placement[1:]
        np.testing.assert_array_equal(image.image[at], pixels_of(number, spec))
        assert np.all(np.asarray(image.in_focus[at]) == 1)
        assert np.all(np.asarray(image.labels["weak_label"][at]) == 1)
        assert np.all(np.asarray(image.labels["undecided"][at]) == 0)
        assert np.all(np.asarray(image.probability[at]) == 200)
        shapes = {label.shape for label in image.labels.values()} | {image.image.shape}
        assert len(shapes) == 1


def test_list_of_images_is_there_at_every_moment_while_positions_come(writer: RunWriter) -> None:
    listed = writer.path / "volume.ome.zarr" / "OME" / "zarr.json"
    missing, done = 0, threading.Event()

    def watch() -> None:
        nonlocal missing
        while not done.is_set():
            missing += not listed.exists()
            time.sleep(0.0002)  # leave the writer some of the interpreter

    watching = threading.Thread(target=watch)
    watching.start()
    for number in range(6):
        store_frame(writer, number, {"p": number})
    done.set()
    watching.join()
    assert missing == 0


@pytest.mark.parametrize("half_made", [False, True], ids=["made", "half-made"])
def test_position_made_by_a_writer_that_died_before_it_said_so_is_made_again(
    tmp_path: Path, half_made: bool
) -> None:
    writer = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    store_frame(writer, 0)
    _lines(writer.path, "frame")
    before = (writer.path / "frames.jsonl").read_bytes()
    store_frame(writer, 1, {"p": 1})
    writer.close()
    # Killed after the folder was made, before its line was written.
    (writer.path / "frames.jsonl").write_bytes(before)
    if half_made:
        shutil.rmtree(writer.path / "volume.ome.zarr" / "1" / "labels")
        shutil.rmtree(writer.path / "probability.ome.zarr" / "1")
    writer = RunWriter.reopen(writer.path, QUICK)
    stored = store_frame(writer, 1, {"p": 1})
    writer.close()
    np.testing.assert_array_equal(_read(writer.path, stored.placement), pixels_of(1))
    assert_run_is_valid(writer.path)


def test_run_whose_writer_died_while_it_grew_has_room_for_the_masks_too(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    store_frame(writer, 0, {"t": 3})
    writer.close()
    # Killed when the image had grown, and its mask had not yet.
    label = zarr.open_array(str(writer.path / "volume.ome.zarr/0/labels/in_focus/0"), mode="r+")
    label.resize((1, *label.shape[1:]))
    writer = RunWriter.reopen(writer.path, QUICK)
    stored = store_frame(writer, 0, {"t": 3})
    mask = np.ones(SHAPE, np.uint8)
    writer.write_mask(stored.placement, mask, np.zeros((5, 8), np.uint8), sequence_number=0)
    np.testing.assert_array_equal(writer.read_mask(stored.placement), mask)
    writer.close()


# ----------------------------------------------------------- after a death


def test_next_writer_knows_what_was_made_and_how_it_ended(writer: RunWriter) -> None:
    for number in range(2):
        store_frame(writer, number)
    placement = Placement(0, 0, 0, 1)
    probability = np.zeros((5, 8), np.uint8)
    writer.write_mask(placement, np.ones(SHAPE, np.uint8), probability, sequence_number=1)
    writer.note("label", image=0, t=0, c=0)
    writer.end("canceled")
    writer.close()
    assert open_run(writer.path).state == "canceled"
    again = RunWriter.reopen(writer.path, QUICK)
    assert again.masked_before == {1}
    assert again.labelled_before == {StackKey("abc", 0, 0, 0)}
    assert again.ended_before
    assert again.frames_durable == 2
    assert again.stack_size(StackKey("abc", 0, 0, 0)) == 3
    again.close()


def test_one_writer_at_a_time(writer: RunWriter) -> None:
    with pytest.raises(InputError, match="another process is writing"):
        RunWriter.reopen(writer.path, QUICK)
    script = (
        "import sys; from pathlib import Path; from deepfocus_live.config import StorageConfig\n"
        "from deepfocus_live.volume import RunWriter\n"
        "RunWriter.reopen(Path(sys.argv[1]), StorageConfig())"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(writer.path)], capture_output=True, text=True, timeout=60
    )
    assert other.returncode != 0
    assert "another process is writing" in other.stderr
    store_frame(writer, 0)  # and the one that there is goes on
    writer.close()
    RunWriter.reopen(writer.path, QUICK).close()


# ----------------------------------------------------------------- journal


def _append_all(path: Path, lines: list[dict[str, Any]], *, sync: bool = False) -> None:
    journal = Journal(path, sync=sync)
    for line in lines:
        journal.append(line)
    journal.close()


def test_journal_torn_anywhere_has_its_whole_lines_and_can_be_gone_on_with(
    tmp_path: Path,
) -> None:
    path = tmp_path / "frames.jsonl"
    lines = [{"kind": "frame", "n": n, "name": "größer"} for n in range(3)]
    _append_all(path, lines)
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = lines[: sum(end <= size for end in ends)]
        assert list(read_journal(path)) == kept
        _append_all(path, [{"kind": "next"}])
        assert list(read_journal(path)) == [*kept, {"kind": "next"}]


def test_long_torn_line_is_cut_off_whole(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    _append_all(path, [{"kind": "first"}])
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    _append_all(path, [{"kind": "next"}])
    assert path.read_bytes() == b'{"kind":"first"}\n{"kind":"next"}\n'


def test_missing_journal_has_no_lines(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []


@pytest.mark.parametrize("sync", [True, False])
def test_lines_of_many_threads_are_whole_and_each_is_called_back(
    tmp_path: Path, sync: bool
) -> None:
    path = tmp_path / "frames.jsonl"
    journal = Journal(path, sync=sync)
    called: list[tuple[int, BaseException | None]] = []

    def append(n: int) -> None:
        journal.append({"n": n, "load": "x" * 300}, lambda error: called.append((n, error)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(200)))
    journal.close()
    assert sorted(called) == [(n, None) for n in range(200)]
    assert sorted(line["n"] for line in read_journal(path)) == list(range(200))


def test_line_is_in_the_file_when_it_is_called_back(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    journal = Journal(path, sync=False)
    seen: list[list[dict[str, Any]]] = []
    journal.append({"n": 1}, lambda _: seen.append(list(read_journal(path))))
    journal.close()
    assert seen == [[{"n": 1}]]


# --------------------------------------------------------------- full disk


def test_journal_on_a_full_disk_refuses_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    script = """
import threading
from pathlib import Path
from deepfocus_live.volume import Journal, read_journal

journal = Journal(Path("frames.jsonl"), sync=True)

def enter(n):
    done, errors = threading.Event(), []
    journal.append({"n": n, "load": "x" * 3000}, lambda e: (errors.append(e), done.set()))
    assert done.wait(20)
    return errors[0] is None

acknowledged = [n for n in range(3) if enter(n)]
ballast = Path("ballast").open("wb", buffering=0)
try:
    while True:
        ballast.write(bytes(4096))
except OSError:
    ballast.close()
refused = []
for n in range(3, 12):
    (acknowledged if enter(n) else refused).append(n)
assert len(refused) >= 3, refused
lines = [line["n"] for line in read_journal(Path("frames.jsonl"))]
assert lines == acknowledged, (lines, acknowledged)
# Nobody waits for this one, and it must not come after those that follow it.
journal.append({"n": "note", "load": "x" * 3000})
Path("ballast").unlink()
for n in refused:
    assert enter(n)
acknowledged += ["note", *refused]
journal.close()
raw = Path("frames.jsonl").read_bytes()
assert bytes(1) not in raw
lines = [line["n"] for line in read_journal(Path("frames.jsonl"))]
assert lines == acknowledged, (lines, acknowledged)
assert raw.count(b"\\n") == len(acknowledged)
"""
    run_on_small_disk(script, tmp_path, size_kb=128)


_FILLS_UP = """
import sys
from pathlib import Path
import numpy as np
import yaozarrs
import tests.stored_frames as ours
from deepfocus_live.volume import RunWriter, open_run, read_journal

def place(number):
    return {INDEX}

def fill():
    with Path("ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass

writer = RunWriter.create(Path("runs"), ours.run_spec(), ours.SAFE, about={})
number = 0
for _ in range(2):
    for _ in range(3):
        ours.store_frame(writer, number, place(number))
        number += 1
    fill()
    refused = 0
    while True:
        try:
            ours.store_frame(writer, number, place(number))
        except OSError as error:
            assert error.errno == 28, error
            refused += 1
            if refused == 3:
                Path("ballast").unlink()
        else:
            number += 1
            if refused:
                break
writer.end("completed")
writer.close()
lines = [line for line in read_journal(writer.path / "frames.jsonl") if line["kind"] == "frame"]
assert [line["sequence_number"] for line in lines] == list(range(number)), lines
images = open_run(writer.path).images
for line in lines:
    at = tuple(line[axis] for axis in "tcz")
    stored = np.asarray(images[line["image"]].image[at])
    assert np.array_equal(stored, ours.pixels_of(line["sequence_number"])), line
assert not list(writer.path.rglob("*.partial"))
yaozarrs.validate_zarr_store(str(writer.path / "volume.ome.zarr"))
"""


@pytest.mark.parametrize(
    ("index", "size_kb"),
    [
        pytest.param('{"t": 0, "z": number}', 640, id="more-slices"),
        pytest.param('{"p": number, "z": 0}', 1600, id="more-positions"),
    ],
)
def test_full_disk_refuses_frames_and_takes_them_once_there_is_room(
    tmp_path: Path, index: str, size_kb: int
) -> None:
    run_on_small_disk(_FILLS_UP.replace("{INDEX}", index), tmp_path, size_kb=size_kb)


def test_run_that_cannot_be_begun_leaves_nothing_behind(tmp_path: Path) -> None:
    script = """
from pathlib import Path
import tests.stored_frames as ours
from deepfocus_live.errors import InputError
from deepfocus_live.volume import RunWriter

try:
    RunWriter.create(Path("runs"), ours.run_spec(), ours.QUICK, about={})
except InputError as error:
    print(error)
print(sorted(path.name for path in Path("runs").iterdir()))
"""
    refused, left = run_on_small_disk(script, tmp_path, size_kb=32).splitlines()
    assert "No space left on device" in refused
    assert left == "[]"


# ---------------------------------------------------------- pyramid, labels


def _halve_plainly(image: Pixels) -> Pixels:
    """Say what `halve_mean` says, pixel by pixel."""
    padded = np.pad(image, [(0, size % 2) for size in image.shape], mode="edge").astype(int)
    height, width = padded.shape[0] // 2, padded.shape[1] // 2
    out = np.empty((height, width), image.dtype)
    for y, x in np.ndindex(out.shape):
        out[y, x] = (padded[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].sum() + 2) // 4
    return out


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
    ),
    st.sampled_from([lambda a: a, lambda a: a[::-1], lambda a: a.T]),
)
def test_fast_halving_is_the_plain_one(image: Pixels, view: Callable[[Pixels], Pixels]) -> None:
    seen = view(image)
    halved = halve_mean(seen)
    np.testing.assert_array_equal(halved, _halve_plainly(seen))
    assert halved.dtype == image.dtype
    assert halved.shape == halve_labels(seen.astype(np.uint8)).shape
    assert seen.min() <= halved.min() <= halved.max() <= seen.max()


@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements={"max_value": 1}
    )
)
def test_halved_labels_have_no_value_that_was_not_there(label: NDArray[np.uint8]) -> None:
    assert set(np.unique(halve_labels(label))) <= set(np.unique(label))


def test_pyramid_and_labels_are_stored_at_all_levels(tmp_path: Path) -> None:
    spec = run_spec(height_px=130, width_px=601, dtype="uint8")
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    pixels = pixels_of(0, spec)
    mask = (pixels > 100).astype(np.uint8)
    chance = pixels_of(1, spec)[:33, :151]
    placement = store_frame(writer, 0, {"z": 1}).placement
    writer.write_pyramid(placement, pixels)
    writer.write_mask(placement, mask, chance, sequence_number=0, model="m")
    writer.write_weak_label(placement, 1 - mask, mask)
    np.testing.assert_array_equal(writer.read_mask(placement), mask)
    writer.close()
    volume = zarr.open_group(str(writer.path / "volume.ome.zarr" / "0"), mode="r")
    for group, full, halve in (
        (volume, pixels, halve_mean),
        (_at(volume, "labels/in_focus"), mask, halve_labels),
        (_at(volume, "labels/weak_label"), 1 - mask, halve_labels),
        (_at(volume, "labels/undecided"), mask, halve_labels),
    ):
        wanted: NDArray[Any] = full
        for level in _levels(group):
            np.testing.assert_array_equal(level[0, 0, 1], wanted)
            assert not np.any(np.asarray(level[0, 0, 0]))
            wanted = halve(wanted)
    np.testing.assert_array_equal(open_run(writer.path).images[0].probability[0, 0, 1], chance)
    (line,) = _lines(writer.path, "mask")
    assert (line["sequence_number"], line["model"]) == (0, "m")


# ------------------------------------------------------------------ reading


def test_run_is_read_while_it_is_written(writer: RunWriter) -> None:
    run = open_run(writer.path)
    image = run.images[0].image
    assert not np.any(image[0, 0, 0])
    assert [line["kind"] for line in run.journal] == ["open"]
    store_frame(writer, 0)
    np.testing.assert_array_equal(image[0, 0, 0], pixels_of(0))  # read when it is indexed
    assert [line["kind"] for line in run.journal] == ["open", "frame"]
    assert run.state == "open"
    writer.end("completed")
    writer.close()
    assert run.state == "completed"


def test_reader_cannot_change_a_run(writer: RunWriter) -> None:
    image = open_run(writer.path).images[0].image
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 1


def _as_format(path: Path, number: int) -> None:
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "format": number}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda p: shutil.rmtree(p), "not a run directory", id="missing"),
        pytest.param(lambda p: (p / "run.json").unlink(), "not a run directory", id="no-record"),
        pytest.param(lambda p: (p / "run.json").write_text("{"), "damaged", id="cut-record"),
        pytest.param(lambda p: _as_format(p, 99), "update deepfocus-live", id="later-format"),
    ],
)
def test_folder_that_is_no_run_of_ours_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    writer = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    writer.close()
    spoil(writer.path)
    for path in (writer.path, str(writer.path)):
        with pytest.raises(InputError, match=says):
            open_run(path)


# -------------------------------------------------------------- volume file


def _layout(name: str = "one", *, z: int = 2, width: int = 30) -> ImageLayout:
    return ImageLayout(name, (1, 1, z, 20, width), "uint16", ("BF",), labels=LABELS)


@pytest.mark.parametrize("count", [1, 2], ids=["bare-image", "two-images"])
def test_volume_file_is_valid_and_exact(tmp_path: Path, count: int) -> None:
    path = tmp_path / "out" / "a.ome.zarr"
    spec = run_spec(width_px=300)
    layouts = [_layout(str(n), z=2 + n, width=300) for n in range(count)]
    with VolumeFile(path, layouts) as file:
        for image in range(count):
            for z in range(2 + image):
                file.write_slice(image, z, pixels_of(10 * image + z, spec))
                for label in LABELS:
                    file.write_label(image, label, z, np.ones((20, 300), np.uint8))
        assert not path.exists()
    assert_store_is_valid(path)
    assert list(path.parent.iterdir()) == [path]
    root = zarr.open_group(str(path), mode="r")
    for image in range(count):
        group = root if count == 1 else _at(root, str(image))
        for z in range(2 + image):
            wanted: Pixels = pixels_of(10 * image + z, spec)
            for level in _levels(group):
                np.testing.assert_array_equal(level[0, 0, z], wanted)
                wanted = halve_mean(wanted)
        for label in LABELS:
            for level in _levels(_at(group, f"labels/{label}")):
                assert np.all(np.asarray(level[:]) == 1)


def test_measurements_are_kept_exactly_and_never_averaged(tmp_path: Path) -> None:
    path = tmp_path / "depth.ome.zarr"
    depth = np.random.default_rng(0).normal(-40, 10, (20, 300)).astype(np.float32)
    depth[:, ::3] = np.nan
    stack = _layout(z=5, width=300)
    with VolumeFile(path, [projection_layout(stack, dtype="float32", window=(-80, 0))]) as file:
        file.write_slice(0, 0, depth)
    assert_store_is_valid(path, labels=False)
    root = zarr.open_group(str(path), mode="r")
    full, half = _levels(root)
    assert (full.shape, half.shape) == ((1, 1, 1, 20, 300), (1, 1, 1, 10, 150))
    np.testing.assert_array_equal(full[0, 0, 0], depth)
    np.testing.assert_array_equal(half[0, 0, 0], depth[::2, ::2])
    assert np.isnan(full.fill_value)
    assert "labels" not in root
    shown = _ome(root)["omero"]["channels"][0]["window"]
    assert (shown["start"], shown["end"]) == (-80, 0)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_volume_file_that_was_not_finished_leaves_nothing_behind(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.ome.zarr"
    with pytest.raises(error), VolumeFile(path, [_layout()]) as file:
        file.write_slice(0, 0, pixels_of(0))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_volume_file_replaces_another_only_when_told_and_only_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    with VolumeFile(path, [_layout()]) as file:
        file.write_slice(0, 0, pixels_of(0))
    with pytest.raises(InputError, match="--overwrite"):
        VolumeFile(path, [_layout()])

    def first() -> NDArray[Any]:
        return np.asarray(zarr.open_array(str(path / "0"), mode="r")[0, 0, 0])

    with pytest.raises(ValueError, match="changed my mind"):
        with VolumeFile(path, [_layout()], overwrite=True) as file:
            raise ValueError("changed my mind")
    np.testing.assert_array_equal(first(), pixels_of(0))
    with VolumeFile(path, [_layout()], overwrite=True) as file:
        file.write_slice(0, 0, pixels_of(1))
        np.testing.assert_array_equal(first(), pixels_of(0))
    np.testing.assert_array_equal(first(), pixels_of(1))
    assert list(tmp_path.iterdir()) == [path]


def test_volume_file_left_by_a_killed_process_is_not_in_the_way(tmp_path: Path) -> None:
    VolumeFile(tmp_path / "a.ome.zarr", [_layout(z=5)])  # never left
    with VolumeFile(tmp_path / "a.ome.zarr", [_layout()]) as file:
        file.write_slice(0, 0, pixels_of(0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_volume_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        VolumeFile(tmp_path / "file" / "a.ome.zarr", [_layout()])
    script = """
from pathlib import Path
from deepfocus_live.errors import InputError
from deepfocus_live.volume import ImageLayout, VolumeFile

try:
    VolumeFile(Path("a.ome.zarr"), [ImageLayout("one", (1, 1, 2, 20, 30), "uint16", ("BF",))])
except InputError as error:
    print(error)
print(sorted(path.name for path in Path().iterdir()))
"""
    refused, left = run_on_small_disk(script, tmp_path, size_kb=4).splitlines()
    assert "No space left on device" in refused
    assert left == "[]"
