"""What a trainer is asked to do, what it reads of its runs, and how it is held back."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfocus_live import _platform
from deepfocus_live.config import Config, LearningConfig
from deepfocus_live.errors import InputError
from deepfocus_live.frames import StackKey
from deepfocus_live.model import Registry
from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.training import (
    FP32,
    BatchMaker,
    FitState,
    LabelledStack,
    StackAddress,
    TrainerFolder,
    TrainerOrder,
    TrainingJob,
    fit,
    with_labels,
)
from deepfocus_live.training import _label as label_module
from deepfocus_live.training._addressed import gather_job
from deepfocus_live.training._examples import Source
from deepfocus_live.training._inputs import Given
from deepfocus_live.training._judging import held_out_before
from deepfocus_live.training._labelling import Labelling
from deepfocus_live.training._reins import Reins, TrainingStoppedError
from deepfocus_live.training._split import part
from deepfocus_live.training._trainer_main import main, threads_of
from deepfocus_live.volume import correct_stack
from tests.teachable_runs import SIZE, teachable_run
from tests.unit.test_imports import HEAVY, _loaded_by

TIMES = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teachable_run(tmp_path_factory.mktemp("runs"), TIMES)


def job_of(run: Path, new: int = 1, replay: int = 0, **more: Any) -> TrainingJob:
    """A job about the first stacks of a run, and replaying the ones after."""
    stacks = tuple(StackAddress(run, 0, t, 0) for t in range(new + replay))
    return TrainingJob("default", stacks[:new], stacks[new:], **more)


def gathered(job: TrainingJob, preset: str = "consensus") -> tuple[list[Given], list[str]]:
    said: list[str] = []
    with contextlib.ExitStack() as files:
        return gather_job(job, preset, files, said.append), said


# --- the job --------------------------------------------------------------------------------


def test_job_passes_through_json(tmp_path: Path) -> None:
    job = TrainingJob(
        "fish",
        (StackAddress(tmp_path / "a run", 0, 1, 2), StackAddress(tmp_path / "b", 3, 0, 0)),
        (StackAddress(tmp_path / "old", 0, 0, 0),),
        2.5,
        "fish-20260301",
    )
    assert TrainingJob.from_json(job.to_json()) == job
    assert TrainingJob.from_dict(replace(job, replay=(), parent=None).as_dict()).parent is None


def test_jobs_load_none_of_the_heavy_libraries() -> None:
    names = "StackAddress, TrainerFolder, TrainerOrder, TrainingJob"
    assert _loaded_by(f"from deepfocus_live.training import {names}", HEAVY) == ""


GOOD: dict[str, Any] = {
    "profile": "default",
    "new": [["run", 0, 0, 0]],
    "replay": [],
    "minutes": 2,
    "parent": None,
}
BAD_JOBS = [
    pytest.param("{", "not a training job", id="no-json"),
    pytest.param("[1]", "no record", id="no-record"),
    pytest.param(json.dumps({**GOOD, "new": []}), "nothing to learn", id="nothing-new"),
    pytest.param(json.dumps({**GOOD, "minutes": 0}), "minutes are 0", id="no-time"),
    pytest.param(json.dumps({**GOOD, "minutes": "two"}), "ValueError", id="words-for-minutes"),
    pytest.param(json.dumps({**GOOD, "new": [["run", 0, -1, 0]]}), "from 0", id="negative"),
    pytest.param(json.dumps({**GOOD, "new": [["run", 0]]}), "ValueError", id="half-an-address"),
    pytest.param(
        json.dumps({k: v for k, v in GOOD.items() if k != "replay"}), "'replay'", id="missing"
    ),
]


@pytest.mark.parametrize(("text", "says"), BAD_JOBS)
def test_bad_job_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        TrainingJob.from_json(text)
    assert "\n" not in str(refused.value)


# --- what is read of a run ------------------------------------------------------------------


def test_stored_labels_give_the_targets_of_the_rule_and_the_rule_is_not_asked_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [given], said = gathered(job_of(run))
    assert said == [] and given.stored is not None
    by_rule = with_labels(given.stack, preset="consensus", reduction=4)
    monkeypatch.setattr(label_module, "StackLabeler", None)
    stored = with_labels(given.stack, preset="consensus", reduction=4, stored=given.stored)
    np.testing.assert_array_equal(stored.target, by_rule.target)
    np.testing.assert_array_equal(stored.slices, by_rule.slices)
    assert stored.any_in_focus
    assert (stored.gap_px, stored.trainable) == (by_rule.gap_px, by_rule.trainable)


def test_labels_of_another_rule_are_not_taken(run: Path) -> None:
    [given], _ = gathered(job_of(run), preset="axial")
    assert given.stored is None


def test_what_the_journal_says_of_drift_is_believed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    journal = copy / "frames.jsonl"
    text = journal.read_text(encoding="utf-8")
    journal.write_text(text.replace('"trainable":true', '"trainable":false'), encoding="utf-8")
    [given], _ = gathered(job_of(copy))
    assert given.stored is not None and not given.stored.trainable


def test_slices_that_were_never_taken_are_left_out(tmp_path: Path) -> None:
    run = teachable_run(tmp_path, 1, seed=2, missing=(1,))
    [given], _ = gathered(job_of(run))
    assert given.stack.shape == (SIZE[0] - 1, *SIZE[1:])
    labelled = with_labels(given.stack, preset="consensus", reduction=4, stored=given.stored)
    assert labelled.slices.any(axis=(1, 2)).all(), "no slice of zeros"
    anew = with_labels(given.stack, preset="consensus", reduction=4)
    np.testing.assert_array_equal(labelled.target, anew.target)


def test_corrected_masks_replace_labels_of_the_slices_that_were_reviewed(
    run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    drawn = np.zeros(SIZE[1:], np.uint8)
    drawn[:96] = 1
    correct_stack(copy, StackKey("run-1", 0, 1, 0), lambda z: drawn, [2], about={})
    plain, corrected = gathered(job_of(copy, 2))[0]
    labelled = [
        with_labels(
            one.stack,
            preset="consensus",
            reduction=4,
            masks=one.masks,
            stored=one.stored,
            source=one.source,
        )
        for one in (plain, corrected)
    ]
    assert not labelled[0].any_hand_made
    assert labelled[1].hand_made is not None
    assert labelled[1].hand_made.tolist() == [False, False, True, False, False]
    wanted = np.repeat([[1], [0]], 24, axis=0) * np.ones(48, int)
    np.testing.assert_array_equal(labelled[1].target[2], wanted)
    np.testing.assert_array_equal(labelled[1].target[1], _weak_target(corrected, 1))


def _weak_target(given: Given, z: int) -> np.ndarray:
    return np.asarray(with_labels(given.stack, preset="consensus", reduction=4).target[z])


def test_stacks_that_are_gone_are_left_out_in_a_line_each(run: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    new = [StackAddress(run, 0, t, 0) for t in (0, TIMES, 0)]
    replay = [StackAddress(gone, 0, t, 0) for t in (0, 1)]
    given, said = gathered(TrainingJob("default", tuple(new), tuple(replay)))
    assert len(given) == 1, "an address that comes twice is taken once"
    assert len(said) == 2 and f"no stack at image 0, t {TIMES}" in said[0] and str(gone) in said[1]


def test_stack_that_cannot_be_read_ends_no_training_that_nobody_watches() -> None:
    class Broken:
        name, shape = "broken", (3, 64, 64)

        def __getitem__(self, z: int) -> np.ndarray:
            raise OSError("the disk is gone")

    def label(nobody_asks: bool) -> list[str]:
        labelling = Labelling(
            preset="axial",
            reduction=4,
            conditions=None,
            memory_mb=1500,
            seed=0,
            done=lambda: 0.0,
            tell=lambda line: None,
            note=lambda line: None,
            nobody_asks=nobody_asks,
        )
        with pytest.raises(InputError, match="no stack is left"):
            labelling.label([Given(Broken())])
        return labelling.left_out

    assert label(True) == ["broken is left out: the disk is gone"]
    with pytest.raises(OSError, match="the disk is gone"):
        label(False)


# --- what is held out -----------------------------------------------------------------------


def labelled(name: str, *, replay: bool = False, side: int = 192) -> LabelledStack:
    slices = np.ones((3, side, side), np.uint16)
    target = np.ones((3, side // 4, side // 4), np.uint8)
    return LabelledStack(name, slices, target, replay=replay, source=Source("run", name))


def test_of_new_and_of_replayed_stacks_some_are_held_out() -> None:
    new = [labelled(f"new{k}") for k in range(5)]
    old = [labelled(f"old{k}", replay=True) for k in range(10)]
    parts = part([*new, *old])
    assert [stack.name for stack in parts.held] == ["new4"]
    assert [stack.name for stack in parts.held_replay] == ["old0", "old9"]
    learnt = {stack.name for stack in parts.learn}
    assert learnt == {s.name for s in [*new, *old]} - {"new4", "old9", "old0"}
    weights = {True: 0.0, False: 0.0}
    for stack in parts.learn:
        weights[stack.replay] += stack.weight
    assert weights[True] == pytest.approx(weights[False]), "what is new is half of the crops"


def test_what_an_ancestor_was_judged_by_is_never_learnt_from(tmp_path: Path) -> None:
    def card(parent: str | None, held: list[str]) -> dict[str, Any]:
        return {"parent": parent, "held_out": [{"path": "run", "stack": name} for name in held]}

    class Version:
        def __init__(self, name: str, **fields: Any) -> None:
            self.name, self.card = name, card(**fields)
            self.parent = self.card["parent"]

    known = {"b": Version("b", parent="a", held=["old1"])}

    class Ancestors:
        def get(self, name: str) -> Any:
            if name not in known:
                raise InputError("removed")
            return known[name]

    child: Any = Version("c", parent="b", held=["old3"])
    registry: Any = Ancestors()
    before = held_out_before(registry, child)
    assert before == {("run", "old1"), ("run", "old3")}
    old = [labelled(f"old{k}", replay=True) for k in range(4)]
    parts = part([labelled("new0"), labelled("new1"), *old], before)
    assert [stack.name for stack in parts.held_replay] == ["old1", "old3"]
    assert {s.name for s in parts.learn if s.replay} == {"old0", "old2"}


def test_single_replayed_stack_is_parted_or_remembered_whole() -> None:
    wide = part([labelled("new0"), labelled("new1"), labelled("old", replay=True)])
    assert [s.slices.shape[2] for s in wide.held_replay] == [64]
    narrow = part([labelled("new0"), labelled("new1"), labelled("old", replay=True, side=64)])
    assert narrow.held_replay == [] and "old" in {stack.name for stack in narrow.learn}
    with pytest.raises(InputError, match="no new stack"):
        part([labelled("old", replay=True)])


# --- held back ------------------------------------------------------------------------------

TINY = Architecture(base_channels=4, levels=1)


def learn(hold: Callable[[], float], seconds: float, states: list[FitState]) -> int:
    # The first optimiser of a process loads torch's compiler, which takes seconds.
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    torch.manual_seed(0)
    slices = np.random.default_rng(0).integers(100, 200, (3, 64, 64), dtype=np.uint16)
    stack = LabelledStack("a", slices, np.ones((3, 16, 16), np.uint8))
    result = fit(
        FocusNetwork(TINY),
        BatchMaker([stack], size=1),
        judge=lambda network: 0.0,
        learning_rate=1e-3,
        precision=FP32,
        deadline=time.monotonic() + seconds,
        save=states.append,
        save_every_s=1e9,
        hold=hold,
    )
    return result.steps


def test_pause_holds_training_between_two_steps_and_its_time_stands_still() -> None:
    asked = 0

    def hold() -> float:
        nonlocal asked
        asked += 1
        if asked > 1:
            return 0.0
        time.sleep(1.0)
        return 1.0

    states: list[FitState] = []
    began = time.monotonic()
    assert learn(hold, 0.8, states) == asked > 1, "the pause was longer than all the time it has"
    assert states[-1].elapsed_s < time.monotonic() - began - 0.9


def test_stop_between_two_steps_saves_what_was_learnt() -> None:
    asked = 0

    def hold() -> float:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise TrainingStoppedError
        return 0.0

    states: list[FitState] = []
    with pytest.raises(TrainingStoppedError):
        learn(hold, 60, states)
    assert states[-1].step == 3


@pytest.fixture
def folder(tmp_path: Path) -> TrainerFolder:
    (tmp_path / "runtime").mkdir()
    return TrainerFolder.create(tmp_path / "runtime", order_of(tmp_path))


def order_of(tmp_path: Path, owner: _platform.ProcessStamp | None = None) -> TrainerOrder:
    config = Config.model_validate({"learning": {"threads": 1, "memory_mb": 300}})
    stamp = owner or _platform.ProcessStamp.mine()
    return TrainerOrder(job_of(tmp_path / "run"), config, tmp_path / "models", stamp)


def test_order_and_news_pass_through_the_folder(tmp_path: Path, folder: TrainerFolder) -> None:
    other = TrainerFolder(folder.path)
    order, wanted = other.order(), order_of(tmp_path)
    assert (order.job, order.config, order.models) == (wanted.job, wanted.config, wanted.models)
    assert order.owner.alive()
    assert folder.news() == []
    for k in range(3):
        other.tell({"step": k})
    with (folder.path / "news.jsonl").open("ab") as file:
        file.write(b'{"half": ')
    assert [line["step"] for line in folder.news()] == [0, 1, 2]
    assert folder.news() == [], "each line once"


def test_news_are_bounded_and_the_last_always_has_room(folder: TrainerFolder) -> None:
    for k in range(2100):
        folder.tell({"step": k})
    folder.tell({"state": "passed"}, last=True)
    news = folder.news()
    assert len(news) == 2001 and news[-1] == {"state": "passed"}


def test_reins_hold_while_paused_and_stop_when_asked(folder: TrainerFolder) -> None:
    with Reins(folder, _platform.ProcessStamp.mine()) as reins:
        assert reins.hold() < 0.1
        folder.pause(True)
        threading.Timer(0.3, folder.pause, [False]).start()
        assert 0.2 < reins.hold() < 5
        folder.pause(True)
        threading.Timer(0.1, folder.ask_to_stop).start()
        with pytest.raises(TrainingStoppedError):
            reins.hold()


@pytest.mark.parametrize("how", ["owner", "folder"])
def test_reins_stop_when_nobody_is_left_to_ask(folder: TrainerFolder, how: str) -> None:
    owner = _platform.ProcessStamp.mine()
    if how == "owner":
        owner = _platform.ProcessStamp(owner.pid, owner.started - 1000)
    else:
        TrainerFolder.sweep(folder.path.parent)
    with Reins(folder, owner) as reins:
        deadline = time.monotonic() + 5
        with pytest.raises(TrainingStoppedError):
            while time.monotonic() < deadline:
                reins.hold()
                time.sleep(0.02)
        assert reins.owner_gone == (how == "owner")


def test_trainer_without_an_order_says_so_in_one_line(
    tmp_path: Path, folder: TrainerFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    order = folder.path / "order.json"
    order.write_text(order.read_text(encoding="utf-8")[:50], encoding="utf-8")
    assert main([str(folder.path)]) == 2
    order.write_text('{"job": {}}', encoding="utf-8")
    assert main([str(folder.path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "no order" in lines[0] and "damaged" in lines[1] and "damaged" in lines[2]


def test_trainer_takes_half_of_the_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in {1: 1, 2: 1, 8: 4}.items():
        monkeypatch.setattr("psutil.cpu_count", lambda cores=cores: cores)
        assert threads_of(LearningConfig()) == threads
    assert threads_of(LearningConfig(threads=3)) == 3


def test_registry_is_asked_for_the_parent_that_the_job_names(run: Path, tmp_path: Path) -> None:
    from deepfocus_live.training import retrain_job

    registry = Registry(tmp_path / "models")
    with pytest.raises(InputError, match="no model is called 'none-such'"):
        retrain_job(job_of(run, parent="none-such"), registry=registry)
