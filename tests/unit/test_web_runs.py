"""The runs that the page can look at: open ones, and all that lie in the output folder."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live.daemon._model_list import Thresholds, list_models, trust_in
from deepfocus_live.daemon._page._catalog import RunCatalog
from deepfocus_live.daemon._page._earlier_runs import EarlierRuns
from deepfocus_live.daemon._page._run_history import RunHistory
from deepfocus_live.daemon._page._stack_views import PageViews
from deepfocus_live.daemon._page._view_making import make_projection, make_volume
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.model import Registry
from deepfocus_live.volume import RunWriter
from deepfocus_live.web import InFocusVolume, NotPossibleError, Progress, Projection
from tests.stored_frames import QUICK, SHAPE, enter_frame, header_of, pixels_of, run_spec

_SIZE_Z = 5
_STACK = StackKey("abc", 0, 0, 0)


class Live:
    """`KnownPaths` of runs that the test opened itself."""

    def __init__(self) -> None:
        self.known: dict[str, Path] = {}
        self.open: dict[str, bool] = {}

    def paths(self) -> dict[str, Path]:
        return self.known

    def still_open(self) -> dict[str, bool]:
        return self.open


def write_run(output: Path, *, slices: int = 3, **changes: Any) -> RunWriter:
    """Return a new run with some slices, each z at 10 µm more."""
    writer = RunWriter.create(output, run_spec(**changes), QUICK, about={})
    for z in range(slices):
        add_slice(writer, z, pixels_of(z, writer.spec))
    return writer


def add_slice(writer: RunWriter, z: int, pixels: NDArray[Any]) -> None:
    shape = {"height_px": pixels.shape[-2], "width_px": pixels.shape[-1]}
    header = header_of(z, z_um=10.0 * z, samples_per_pixel=writer.spec.samples_per_pixel, **shape)
    stored = writer.write_frame(header, pixels)
    enter_frame(writer, header, stored)


def add_mask(writer: RunWriter, z: int, mask: NDArray[np.uint8], model: str = "m-1") -> None:
    chance = np.full([-(-side // 4) for side in mask.shape], 100 + z, np.uint8)
    writer.write_mask(
        Placement(0, 0, 0, z),
        mask,
        chance,
        sequence_number=z,
        model=model,
        in_focus_fraction=float(mask.mean()),
        focus_score=0.1 * z,
    )


def add_labels(writer: RunWriter, zs: int) -> None:
    blank = np.zeros((writer.spec.height_px, writer.spec.width_px), np.uint8)
    for z in range(zs):
        writer.write_weak_label(Placement(0, 0, 0, z), blank, blank + 1)
    writer.note("label", image=0, t=0, c=0, in_focus_fraction=[0.5] * zs)


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def catalog_of(output: Path, live: Live | None = None) -> RunCatalog:
    return RunCatalog(output, live or Live(), threshold={"m-1": 0.65}.get)


def test_run_of_an_earlier_daemon_is_listed_and_read_back(tmp_path: Path) -> None:
    writer = write_run(tmp_path)
    half = np.zeros(SHAPE, np.uint8)
    half[:10] = 1
    add_mask(writer, 1, half)
    add_labels(writer, 3)
    writer.end("completed")
    writer.close()
    catalog = catalog_of(tmp_path)
    [run] = catalog.list_runs()
    assert (run["id"], run["name"], run["state"], run["here"]) == (
        "abc",
        "organoid",
        "completed",
        False,
    )
    assert run["images"] == [{"name": "here", "size_t": 1, "size_z": 3}]
    assert run["channels"] == [{"name": "BF", "profile": "default"}]
    assert abs(run["started"] - time.time()) < 60
    read = catalog.read_slice("abc", Placement(0, 0, 0, 1))
    np.testing.assert_array_equal(read.pixels, pixels_of(1))
    assert read.mask is not None and read.probability is not None and read.undecided is not None
    np.testing.assert_array_equal(read.mask, half)
    assert (read.threshold, read.labelled, read.z_um, read.sequence_number) == (0.65, True, 10.0, 1)
    assert read.probability.shape == (5, 8) and read.probability[0, 0] == 101
    assert read.undecided.all()
    without = catalog.read_slice("abc", Placement(0, 0, 0, 2))
    assert (without.mask, without.probability, without.threshold) == (None, None, None)


def test_run_tells_what_its_journal_says_of_each_stack(tmp_path: Path) -> None:
    writer = write_run(tmp_path)
    for z, rows in enumerate((2, 10)):
        mask = np.zeros(SHAPE, np.uint8)
        mask[:rows] = 1
        add_mask(writer, z, mask)
    writer.note("agreement", image=0, t=0, c=0, iou=0.8, decided=0.9, models=["m-1"])
    writer.note("agreement", image=0, t=1, c=0, iou=None, decided=0.0, models=["m-1", "m-2"])
    writer.close()
    found = catalog_of(tmp_path).describe_run("abc")
    assert (found["state"], found["frames"]) == ("open", 3)
    [stack] = found["stacks"]
    assert (stack["z"], stack["z_um"]) == ([0, 1, 2], [0.0, 10.0, 20.0])
    assert stack["in_focus_fraction"] == [0.1, 0.5, None]
    assert stack["focus_score"] == [0.0, 0.1, None]
    assert stack["labelled_fraction"] == [None] * 3
    assert (stack["labelled"], stack["best_z"]) == (False, 1)
    assert [one["model"] for one in found["agreement"]] == ["m-1", None]
    assert found["agreement"][0] == {
        "image": 0, "t": 0, "c": 0, "iou": 0.8, "decided": 0.9, "model": "m-1",
    }  # fmt: skip


def test_open_run_is_read_as_it_grows(tmp_path: Path) -> None:
    live = Live()
    elsewhere = tmp_path / "elsewhere"
    writer = write_run(elsewhere, slices=1)
    live.known, live.open = {"abc": writer.path}, {"abc": True}
    catalog = catalog_of(tmp_path / "runs", live)
    assert [run["state"] for run in catalog.list_runs()] == ["open"]
    with pytest.raises(KeyError):
        catalog.read_slice("abc", Placement(0, 0, 0, 1))
    add_slice(writer, 1, pixels_of(1))
    np.testing.assert_array_equal(
        catalog.read_slice("abc", Placement(0, 0, 0, 1)).pixels, pixels_of(1)
    )
    assert catalog.read_slice("abc", Placement(0, 0, 0, 1)).mask is None
    add_mask(writer, 1, np.ones(SHAPE, np.uint8))
    until(lambda: catalog.read_slice("abc", Placement(0, 0, 0, 1)).mask is not None)
    mask = catalog.read_slice("abc", Placement(0, 0, 0, 1)).mask
    assert mask is not None and mask.all()
    # A time point that nobody had planned: the arrays have grown since they were opened.
    header = header_of(7, {"z": 0, "t": 3})
    enter_frame(writer, header, writer.write_frame(header, pixels_of(7)))
    np.testing.assert_array_equal(
        catalog.read_slice("abc", Placement(0, 3, 0, 0)).pixels, pixels_of(7)
    )
    writer.close()


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "/", "abc/..", "abc\x00", "organoid", "../abc", "C:\\abc"]
)
def test_id_is_looked_up_and_never_made_a_path_of(tmp_path: Path, run_id: str) -> None:
    write_run(tmp_path, slices=1).close()
    with pytest.raises(KeyError):
        catalog_of(tmp_path).read_slice(run_id, Placement(0, 0, 0, 0))


def test_what_is_no_run_is_passed_over_and_of_a_copy_the_newest_is_taken(tmp_path: Path) -> None:
    first = write_run(tmp_path, slices=1)
    first.close()
    for name, text in (("broken", "{"), ("later", '{"format": 99}'), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "file").write_text("x")
    shutil.copytree(first.path, tmp_path / "copy")
    record = json.loads((tmp_path / "copy/run.json").read_text())
    (tmp_path / "copy/run.json").write_text(json.dumps(record))
    [run] = EarlierRuns(tmp_path).all().values()
    assert run.path.name == "copy"
    assert EarlierRuns(tmp_path / "nowhere").all() == {}


def test_unchanged_runs_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write_run(tmp_path, slices=1)
    catalog = catalog_of(tmp_path)
    catalog.list_runs()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read again"))
        catalog.list_runs()
    writer.end("canceled")
    writer.close()
    assert [run["state"] for run in catalog.list_runs()] == ["canceled"]


def test_history_passes_over_torn_and_damaged_lines_and_goes_on_after_them(tmp_path: Path) -> None:
    writer = write_run(tmp_path, slices=2)
    writer.close()
    journal = writer.path / "frames.jsonl"
    history = RunHistory(writer.path, writer.spec).look()
    with journal.open("ab") as file:
        file.write(b'no json\n{"kind":"mask","sequence_number":9,"in_focus_fraction":1}\n[]\n')
        file.write(b'{"kind":"mask","sequence_number":1,"in_focus_fraction":0.5,')
    assert set(history.look().masks) == set()
    with journal.open("ab") as file:
        file.write(b'"model":"m"}\n')
    assert history.look().masks[Placement(0, 0, 0, 1)].in_focus_fraction == 0.5
    assert len(history.frames) == 2


def test_run_without_pixels_has_no_pictures(tmp_path: Path) -> None:
    storage = QUICK.model_copy(update={"mode": "masks-only"})
    writer = RunWriter.create(tmp_path, run_spec(), storage, about={})
    header = header_of(0)
    enter_frame(writer, header, writer.write_frame(header, pixels_of(0)))
    writer.close()
    catalog = catalog_of(tmp_path)
    assert catalog.list_runs()[0]["pixels_stored"] is False
    with pytest.raises(NotPossibleError, match="masks only"):
        catalog.read_slice("abc", Placement(0, 0, 0, 0))
    with pytest.raises(NotPossibleError, match="masks only"):
        PageViews(catalog, lambda: False).get("volume", _STACK)


# Views of stacks --------------------------------------------------------------

_SIDE = 96


def tilted_stack(samples: int = 1) -> list[NDArray[np.uint16]]:
    """Return slices: the left half is sharp at z 1, the right half at z 3."""
    rng = np.random.default_rng(3)
    texture = rng.integers(500, 3500, (_SIDE, _SIDE)).astype(float)
    slices = []
    for z in range(_SIZE_Z):
        z_slice = np.full((_SIDE, _SIDE), 2000.0)
        for half, best in ((np.s_[:, : _SIDE // 2], 1), (np.s_[:, _SIDE // 2 :], 3)):
            z_slice[half] += (texture[half] - 2000) * 0.15 ** abs(z - best)
        noisy = rng.normal(z_slice, 8).astype(np.uint16)
        slices.append(noisy if samples == 1 else np.stack([noisy, noisy // 2, noisy // 4]))
    return slices


def tilted_run(output: Path, samples: int = 1) -> RunWriter:
    image = {"name": "here", "size_t": 1, "size_z": _SIZE_Z}
    writer = RunWriter.create(
        output,
        run_spec(
            height_px=_SIDE, width_px=_SIDE, images=[image], samples_per_pixel=samples,
            pixel_size_um={"um": 0.5, "source": "user"},
        ),
        QUICK,
        about={"profile": {"name": "default", "label_preset": "axial"}},
    )  # fmt: skip
    for z, z_slice in enumerate(tilted_stack(samples)):
        add_slice(writer, z, z_slice)
        mask = np.zeros((_SIDE, _SIDE), np.uint8)
        mask[:, (0 if z == 1 else _SIDE // 2) : (_SIDE // 2 if z == 1 else _SIDE)] = z in (1, 3)
        add_mask(writer, z, mask)
    return writer


def test_projection_takes_each_half_from_its_own_slice(tmp_path: Path) -> None:
    writer = tilted_run(tmp_path)
    writer.close()
    told: list[float] = []
    seen = make_projection(writer.path, _STACK, 1, told.append)
    slices = tilted_stack()
    left, right = np.s_[20:-20, 8:30], np.s_[20:-20, 66:88]
    for half, best in ((left, 1), (right, 3)):
        off = np.abs(seen.image[half].astype(int) - slices[best][half]).mean()
        assert off < 60, "the middle slice is 600 counts off"
    depth = seen.depth
    assert depth.shape == (_SIDE // 4, _SIDE // 4)
    assert np.nanmedian(depth[5:-5, 2:7]) == pytest.approx(10, abs=3)
    assert np.nanmedian(depth[5:-5, 17:22]) == pytest.approx(30, abs=3)
    assert (seen.unit, seen.measured, seen.low, seen.high) == ("µm", True, 0.0, 40.0)
    assert (seen.factor, seen.pixel_um, seen.full_shape) == (1, 0.5, (_SIDE, _SIDE))
    assert told == sorted(told) and told[-1] == 1.0


def test_projection_of_large_slices_is_binned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfocus_live.daemon._page._view_making._LONG_SIDE_PX", 50)
    writer = tilted_run(tmp_path, samples=3)
    writer.close()
    seen = make_projection(writer.path, _STACK, 3, lambda part: None)
    assert (seen.image.shape, seen.factor, seen.pixel_um) == ((3, 48, 48), 2, 1.0)
    assert seen.full_shape == (_SIDE, _SIDE)
    red, green, _ = (float(plane.mean()) for plane in seen.image)
    assert green == pytest.approx(red / 2, rel=0.05)
    volume = make_volume(writer.path, _STACK, 3, lambda part: None)
    inside = np.percentile(tilted_stack()[1][:, :48], 99.5)
    seen_as = 0.299 + 0.587 / 2 + 0.114 / 4
    assert volume.high == pytest.approx(seen_as * inside, rel=0.05), "as bright as it looks"


def test_volume_holds_what_is_in_focus_and_nothing_else(tmp_path: Path) -> None:
    writer = tilted_run(tmp_path)
    writer.close()
    volume = make_volume(writer.path, _STACK, 1, lambda part: None)
    assert volume.voxels.shape == (_SIZE_Z, _SIDE, _SIDE)
    there = volume.voxels > 0
    assert there[1, :, : _SIDE // 2].all() and there[3, :, _SIDE // 2 :].all()
    assert there.sum() == _SIDE * _SIDE
    assert (volume.z_um, volume.voxel_um, volume.mask) == ((0, 10, 20, 30, 40), 0.5, "in_focus")
    slices = tilted_stack()
    counts = volume.low + (volume.voxels[1, :, :40] - 1.0) / 254 * (volume.high - volume.low)
    inside = (slices[1][:, :40] > volume.low) & (slices[1][:, :40] < volume.high)
    off = np.abs(counts - slices[1][:, :40])[inside]
    assert off.max() < 2 * (volume.high - volume.low) / 254


def test_volume_is_small_and_voxels_need_their_share_in_focus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfocus_live.daemon._page._view_making._MOST_VOXELS", 24)
    monkeypatch.setattr("deepfocus_live.daemon._page._view_making._MOST_LAYERS", 3)
    writer = tilted_run(tmp_path)
    single = np.zeros((_SIDE, _SIDE), np.uint8)
    single[40, 80] = 1
    add_mask(writer, 0, single)
    writer.close()
    volume = make_volume(writer.path, _STACK, 1, lambda part: None)
    assert volume.voxels.shape == (3, 24, 24)
    assert volume.z_um == (5.0, 25.0, 40.0)
    assert volume.voxels[0, 10, 10] > 0, "slice 1's"
    assert volume.voxels[0, 10, 20] == 0, "a single pixel of slice 0"
    assert not volume.voxels[2].any()


def wait_for(views: PageViews, kind: Any) -> Any:
    until(lambda: not isinstance(views.get(kind, _STACK), Progress))
    return views.get(kind, _STACK)


def test_views_are_made_once_one_at_a_time_and_anew_when_more_has_come(tmp_path: Path) -> None:
    live, made, gate = Live(), list[str](), threading.Event()
    writer = write_run(tmp_path, slices=2)
    live.known, live.open = {"abc": writer.path}, {"abc": True}
    at_once = threading.Semaphore(1)

    def projection(path: Path, key: StackKey, samples: int, step: Any) -> Projection:
        assert at_once.acquire(blocking=False)
        step(0.25)
        gate.wait(20)
        at_once.release()
        made.append("projection")
        blank = np.zeros((2, 2), np.uint16)
        flat = np.zeros((1, 1), np.float32)
        return Projection(blank, flat, 2, 1, (2, 2), 0, 1, "µm", True, None)

    def volume(path: Path, key: StackKey, samples: int, step: Any) -> InFocusVolume:
        raise RuntimeError("a bug")

    makers: Any = {"projection": projection, "volume": volume}
    catalog = catalog_of(tmp_path, live)
    views = PageViews(catalog, lambda: False, makers)
    with pytest.raises(NotPossibleError, match="2 of 3 slices"):
        views.get("projection", _STACK)
    with pytest.raises(KeyError):
        views.get("projection", _STACK._replace(t=5))
    live.open = {}
    assert views.get("projection", _STACK) == Progress(None)
    until(lambda: views.get("projection", _STACK) == Progress(0.25))
    with pytest.raises(NotPossibleError, match="0 of 2 masks"):
        views.get("volume", _STACK)
    for z in range(2):
        add_mask(writer, z, np.ones(SHAPE, np.uint8))
    add_slice(writer, 2, pixels_of(2))
    add_mask(writer, 2, np.ones(SHAPE, np.uint8))
    until(lambda: len(catalog.history("abc").masks) == 3)
    assert views.get("volume", _STACK) == Progress(None), "it waits behind the other"
    gate.set()
    with pytest.raises(NotPossibleError, match="could not be made"):
        wait_for(views, "volume")
    assert wait_for(views, "projection") is wait_for(views, "projection")
    assert made == ["projection"] * 2, "of two slices, and of three"
    views.stop()
    writer.close()


def test_view_under_way_does_not_hold_up_the_daemon_s_end(tmp_path: Path) -> None:
    writer = write_run(tmp_path)
    writer.close()

    def endless(path: Path, key: StackKey, samples: int, step: Any) -> Projection:
        while True:
            step(0.5)
            time.sleep(0.001)

    makers: Any = {"projection": endless}
    views = PageViews(catalog_of(tmp_path), lambda: True, makers)
    views.get("projection", _STACK)
    views.stop()


# Models -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ious", "shipped", "state", "text"),
    [
        ([], True, "untested", "shipped, untested here"),
        ([], False, "untested", "untested here"),
        ([0.9], True, "checked", "checked on 1 stack"),
        ([0.2, 0.9, 0.8, 0.9, 0.7, 0.8], True, "checked", "checked on 6 stacks"),
        ([0.9] * 9 + [0.3] * 3, True, "low", "low agreement on the last 5 stacks"),
        ([None, 7, "x"], True, "untested", "shipped, untested here"),
    ],
)
def test_trust_is_what_the_last_stacks_say(
    ious: list[Any], shipped: bool, state: str, text: str
) -> None:
    noted = [{"model": "m", "iou": iou} for iou in ious] + [{"model": "other", "iou": 0.0}]
    found = trust_in("m", noted, shipped=shipped)
    assert (found["state"], found["text"]) == (state, text)


def test_models_are_listed_by_profile_with_their_history(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    shipped = registry.shipped_version().name
    folder = tmp_path / "new"
    shutil.copytree(registry.shipped_version().path, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    mine = {"name": "mine-2", "parent": shipped, "profile": "fish", "metrics": {"gate": "worse"}}
    (folder / "card.json").write_text(json.dumps({**card, **mine}), encoding="utf-8")
    registry.add(folder)
    registry.use("mine-2", "fish")
    noted = [{"model": "mine-2", "iou": 0.9}]
    found = list_models(registry, ["default", "fish"], lambda: noted)["profiles"]
    default, fish = found
    assert [v["name"] for v in default["versions"]] == [shipped]
    assert (default["current"], default["can_roll_back"]) == (shipped, False)
    assert default["trust"]["text"] == "shipped, untested here"
    assert [v["name"] for v in fish["versions"]] == ["mine-2", shipped]
    assert (fish["current"], fish["can_roll_back"]) == ("mine-2", True)
    assert (fish["trust"]["state"], fish["trust"]["stacks"]) == ("checked", 1)
    newest = fish["versions"][0]
    assert (newest["parent"], newest["current"], newest["shipped"]) == (shipped, True, False)
    assert newest["gate"] == {"passed": False, "text": "gate refused: worse"}
    thresholds = Thresholds(registry)
    assert thresholds.of("mine-2") == card["threshold"]
    assert thresholds.of("gone") is None
