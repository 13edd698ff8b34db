"""`retrain` as a whole: from stacks and masks to a registered, gated model with a report."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from deepfocus_live.cli import main
from deepfocus_live.errors import InputError
from deepfocus_live.focus import warm_up
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import Registry
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.training import (
    Progress,
    RetrainReport,
    _anchor,
    _labelling,
    _precision,
    retrain,
)
from deepfocus_live.training._state import StateFile
from tests.small_disk import run_on_small_disk

ORGANOIDS = Path(__file__).parents[2].parent / "shared" / "data" / "organoid_A01.ome.tif"
MINUTES = 0.2


SMALL = (
    (_anchor, "_ANCHOR_STACKS", 3),
    (_anchor, "_ANCHOR_SHAPE", (3, 128, 128)),
    (_anchor, "_REHEARSED_SHAPE", (3, 128, 128)),
    (_anchor, "_REHEARSED_STACKS", 8),
    (_anchor, "_LEAST_REHEARSED", 4),
    (_precision, "_TRIAL", (1, 64, 64)),
)
"""What is made and tried at the start of every training; the unit tests have the whole anchor."""


def make_all_small() -> None:
    # The first optimiser of a process loads torch's compiler, which takes seconds.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    for module, name, value in SMALL:
        setattr(module, name, value)


@pytest.fixture(scope="module", autouse=True)
def all_small() -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
    _anchor.anchor_set.cache_clear()
    _anchor._rehearsed.cache_clear()
    make_all_small()
    # Compiling counts as the user's time: here it would be all of it.
    warm_up()
    yield
    for module, name, value in before:
        setattr(module, name, value)
    _anchor.anchor_set.cache_clear()
    _anchor._rehearsed.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stacks and masks, good and bad."""
    folder = tmp_path_factory.mktemp("stacks")

    def write(name: str, images: np.ndarray) -> None:
        tifffile.imwrite(folder / f"{name}.tif", images, photometric="minisblack")

    for seed in (1, 2, 3, 4):
        stack = simulate_focal_stack("organoid_layer", shape=(5, 192, 192), seed=seed)
        # Mixed sizes are as good as one.
        slices = stack.slices[:4, 16:] if seed == 2 else stack.slices
        write(f"stack_{seed}", slices)
        write(f"masks_{seed}", stack.in_focus.astype(np.uint8))
    slices = tifffile.imread(folder / "stack_1.tif")
    drifting = np.stack([np.roll(s, 6 * z, axis=1) for z, s in enumerate(slices)])
    write("drifting", drifting)
    write("flat", np.full((5, 128, 256), 500, np.uint16))
    write("two", slices[:2])
    write("one", slices[0])
    write("small_masks", np.ones((5, 96, 96), np.uint8))
    return folder


@dataclass(frozen=True)
class Taught:
    """One retraining that the tests look at from all sides."""

    report: RetrainReport
    registry: Registry
    told: list[Progress]


@pytest.fixture(scope="module")
def taught(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    registry = Registry(tmp_path_factory.mktemp("registry") / "models")
    told: list[Progress] = []
    report = retrain(
        [files / "stack_1.tif", files / "stack_2.tif", files / "drifting.tif"],
        pairs=[(files / f"stack_{k}.tif", files / f"masks_{k}.tif") for k in (3, 4)],
        registry=registry,
        minutes=MINUTES,
        activate=True,
        threads=1,
        progress=told.append,
    )
    return Taught(report, registry, told)


def test_retrained_model_is_registered_gated_and_in_time(taught: Taught) -> None:
    report, registry = taught.report, taught.registry
    assert report.minutes < MINUTES + 1.0, "a minute for a busy machine"
    assert report.steps >= report.best_step and report.steps > 0
    assert report.parent == registry.shipped_version().name
    assert report.passed == all(check.passed for check in report.checks if check.decides)
    assert report.activated == report.passed
    wanted = report.name if report.passed else registry.shipped_version().name
    assert registry.current().name == wanted
    version = registry.get(report.name)
    assert version.path == report.path
    assert version.weights.is_file(), "what came out can be taught further"
    assert InFocusModel.load(version).infer(np.zeros((64, 64), np.uint16)).mask.shape == (64, 64)
    assert {p.stage for p in taught.told} == {"label", "train", "export"}
    assert all(0.0 <= p.done <= 1.0 for p in taught.told)
    assert not (registry.root / "training").exists(), "a training that is done leaves no state"


def test_hand_made_masks_decide_and_whole_stacks_of_either_kind_are_held_out(
    taught: Taught, files: Path
) -> None:
    report = taught.report
    assert report.truth == "hand-made masks"
    assert report.held_out == "whole stacks: stack_4, stack_2"
    assert [check.what for check in report.checks if check.decides][1:2] == [
        "held-out, IoU with hand-made masks"
    ]
    assert report.left_out == ("drifting is left out: the specimen moves sideways during the scan",)
    card = taught.registry.get(report.name).card
    assert card["trained_on"] == ["stack_3", "stack_4", "stack_1", "stack_2"]
    assert [(one["stack"], one["masks"]) for one in card["held_out"]] == [
        ("stack_4", str((files / "masks_4.tif").resolve())),
        ("stack_2", None),
    ]
    assert card["metrics"]["iou_after"] == pytest.approx(report.iou_after, abs=1e-3)
    assert card["metrics"]["checks"][0]["what"].startswith("anchor set")
    assert re.fullmatch("[0-9a-f]{8}", card["metrics"]["anchor"]["checksum"])


def test_report_is_sealed_with_the_model_and_needs_nothing_else(taught: Taught) -> None:
    report = taught.report
    card = taught.registry.get(report.name).card
    assert {"report.html", "report.json"} <= set(card["sha256"])
    page = report.page.read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in page
    assert page.count("data:image/jpeg;base64,") == 5, "the held-out slices with something in them"
    for told in (*report.left_out, *report.learnt_from, *(c.what for c in report.checks)):
        assert told in page
    assert ("refused by the gate" in page) == (not report.passed)
    fields = json.loads((report.path / "report.json").read_text(encoding="utf-8"))
    worst = [one["iou"] for one in fields["worst_held_out_slices"]]
    assert worst == sorted(worst)
    assert [look["step"] for look in fields["history"]] == sorted(
        look.step for look in report.history
    )
    assert fields["checks"][0]["change"] == pytest.approx(
        report.checks[0].after - report.checks[0].before
    )
    json.dumps(report.as_dict())


# --- a trainer that is killed ---------------------------------------------------------------


def stack_to_be_killed_over(files: Path) -> Path:
    return ORGANOIDS if ORGANOIDS.is_file() else files / "stack_1.tif"


def teach_alone(path: Path, root: Path, minutes: float) -> None:
    make_all_small()
    retrain([path], registry=Registry(root), minutes=minutes, threads=1)


def test_killed_training_is_gone_on_with_and_the_old_model_stays(
    files: Path, tmp_path: Path
) -> None:
    path, root, minutes = stack_to_be_killed_over(files), tmp_path / "models", 0.3
    child = multiprocessing.get_context("spawn").Process(
        target=teach_alone, args=(path, root, minutes)
    )
    child.start()
    state = root / "training" / "default" / "state.pt"
    deadline = time.monotonic() + 90
    while not state.is_file() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.join()
    assert child.exitcode != 0 and state.is_file(), "it was killed in the middle"
    registry = Registry(root)
    assert registry.current().name == registry.shipped_version().name
    # Another training does not take it for its own.
    said: list[str] = []
    with StateFile(state.parent, "other", said.append) as other:
        assert other.load() is None and len(said) == 1
    # Asked to begin anew, it does.
    shutil.copytree(root, tmp_path / "anew")
    told = told_before_training([path], Registry(tmp_path / "anew"), minutes=minutes, fresh=True)
    assert not any("going on at step" in line for line in told)
    assert not (tmp_path / "anew" / "training" / "default" / "state.pt").exists()
    report = retrain([path], registry=registry, minutes=minutes, threads=1)
    assert report.resumed_at_step is not None and report.resumed_at_step > 0
    assert report.steps >= report.resumed_at_step
    assert any("going on at step" in note for note in report.notes)
    assert report.minutes < minutes + 1.0, "a minute for a busy machine"
    assert "region" in report.held_out, "there is one stack"
    assert not state.exists()


# --- what is left out -----------------------------------------------------------------------


class EnoughError(Exception):
    """What a test wanted to see has been told."""


def told_before_training(stacks: list[Path], registry: Registry, **options: Any) -> list[str]:
    """Begin a training, and return what it tells until its first step."""
    told: list[str] = []

    def tell(news: Progress) -> None:
        if news.stage == "train":
            raise EnoughError
        told.append(news.message)

    with pytest.raises(EnoughError):
        retrain(stacks, registry=registry, threads=1, progress=tell, **options)
    return told


def test_stacks_that_labelling_has_no_time_for_are_left_out_and_counted(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_labelling, "LABELLING_SHARE", 0.0)
    stacks = [files / f"stack_{k}.tif" for k in (1, 2, 3, 4)]
    told = told_before_training(stacks, Registry(tmp_path / "models"), minutes=5)
    assert sum(line.startswith("labelling") for line in told) == 2, "two are always labelled"
    assert "2 stacks are left out: there is not enough time for more" in told


# --- bad input ------------------------------------------------------------------------------

BAD = [
    pytest.param([], [], "no stack was given", id="nothing"),
    pytest.param(["flat.tif"], [], "nothing is in focus", id="empty-field"),
    pytest.param(["drifting.tif"], [], "left to learn from: drifting is left out", id="drifting"),
    pytest.param(["two.tif"], [], "two is left out: 2 slices are too few", id="two-slices"),
    pytest.param(["one.tif"], [], "at least 2 slices", id="one-slice"),
    pytest.param(
        [], [("stack_1.tif", "small_masks.tif")], "do not fit stack_1", id="masks-of-another-size"
    ),
    pytest.param([], [("stack_1.tif", "none.tif")], "no such file", id="no-masks"),
    pytest.param([], [("stack_1.tif", "stack_3.tif")], "is an image, not a mask", id="no-mask"),
]


@pytest.mark.parametrize(("stacks", "pairs", "says"), BAD)
def test_what_cannot_be_learnt_from_is_refused_and_nothing_is_registered(
    files: Path, tmp_path: Path, stacks: list[str], pairs: list[tuple[str, str]], says: str
) -> None:
    registry = Registry(tmp_path / "models")
    with pytest.raises(InputError, match=says) as refused:
        retrain(
            [files / name for name in stacks],
            pairs=[(files / image, files / masks) for image, masks in pairs],
            registry=registry,
            minutes=1,
        )
    assert "\n" not in str(refused.value)
    assert not registry.root.exists()


def test_too_little_time_is_refused_in_words(files: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    with pytest.raises(InputError, match="minutes is 0"):
        retrain([files / "stack_1.tif"], registry=registry, minutes=0)
    stacks = [files / "stack_1.tif", files / "stack_3.tif"]
    with pytest.raises(InputError, match="too short"):
        retrain(stacks, registry=registry, minutes=0.001)
    assert not registry.root.exists()


def test_command_line_takes_pairs_and_refuses_half_of_one(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, masks = str(files / "stack_1.tif"), str(files / "small_masks.tif")

    def run(*arguments: str) -> str:
        words = ["deepfocus-live", "retrain", "--models", str(tmp_path / "models"), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "do not fit stack_1" in run(image, "--pair", image, masks)
    assert "nothing to learn from was given" in run()
    assert "--pair" in run("--pair", image)
    assert not (tmp_path / "models").exists()


FULL_DISK = """
from pathlib import Path
from deepfocus_live.errors import InputError
from deepfocus_live.focus import warm_up
from deepfocus_live.model import Registry
from deepfocus_live.training import retrain
from tests.system.test_retrain import make_all_small
make_all_small()
warm_up()
registry = Registry(Path.cwd() / "models")
try:
    retrain(
        [{stacks}],
        registry=registry,
        minutes=0.25,
        threads=1,
        progress=lambda news: print(news.message),
    )
except (OSError, InputError) as error:
    print("refused:", error)
print("current:", registry.current().name)
print("left:", sorted(p.name for p in registry.root.rglob("*") if p.is_file() and p.suffix))
"""


def test_full_disk_is_said_and_leaves_the_current_model(files: Path, tmp_path: Path) -> None:
    stacks = ", ".join(repr(str(files / f"stack_{k}.tif")) for k in (1, 3))
    (tmp_path / "disk").mkdir()
    said = run_on_small_disk(FULL_DISK.format(stacks=stacks), tmp_path / "disk", size_kb=2000)
    assert "a kill would lose this training" in said
    [refused] = [line for line in said.splitlines() if line.startswith("refused:")]
    assert "No space left on device" in refused and "models" in refused
    assert f"current: {Registry(tmp_path).shipped_version().name}" in said
    assert "left: []" in said
