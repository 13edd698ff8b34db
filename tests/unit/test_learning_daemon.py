"""Learning in the daemon: what is judged, when a model takes over, and what takes it back."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfocus_live import training
from deepfocus_live.config import Config, load_config
from deepfocus_live.daemon._labels import Background, store_labels
from deepfocus_live.daemon._learning import _takeover
from deepfocus_live.daemon._learning._learner import Learner
from deepfocus_live.daemon._learning._measure import anchor_iou
from deepfocus_live.daemon._learning._trainer import TrainerNews, TrainerProcess
from deepfocus_live.daemon._learning._whole import WholeStacks, half_masked
from deepfocus_live.daemon._masks import MaskMaker, store_mask
from deepfocus_live.daemon._run import ActiveRun, Look, PixelBudget, SliceJob, StackProgress
from deepfocus_live.errors import InputError
from deepfocus_live.focus import StackLabels, label_stack
from deepfocus_live.frames import StackKey
from deepfocus_live.inference import InFocusModel
from deepfocus_live.learning import AgreementCounter, History, Lesson
from deepfocus_live.model import ModelVersion, Registry, seal
from deepfocus_live.model.weights import load_network
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.training import TrainingJob, block_target, write_model
from deepfocus_live.volume import RunWriter, open_run
from tests.stored_frames import QUICK, enter_frame, header_of, run_spec

SHAPE = (4, 96, 96)
KEY = StackKey("abc", 0, 0, 0)


# --- which stacks are whole -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["z0", "z1", "labels"])), ids="-".join
)
def test_a_stack_is_whole_with_the_last_of_its_masks_and_labels(order: tuple[str, ...]) -> None:
    stacks = WholeStacks()
    stacks.masked(KEY._replace(t=1), 0, "other stack")
    told = []
    for event in order:
        if event == "labels":
            told.append(stacks.labelled(KEY, {0, 1}, trainable=False, contrast=2.0))
        else:
            told.append(stacks.masked(KEY, int(event[1]), f"model of {event}"))
    assert told[:-1] == [None, None]
    whole = told[-1]
    assert whole is not None
    assert whole.models == {0: "model of z0", 1: "model of z1"}
    assert (whole.key, whole.trainable, whole.contrast) == (KEY, False, 2.0)
    assert stacks.masked(KEY, 1, "once more") is None, "told once"
    # A late slice has the stack labelled again.
    assert stacks.labelled(KEY, {0, 1, 2}, trainable=True, contrast=None) is None
    assert stacks.masked(KEY, 2, "late") is not None


def test_what_is_known_of_stacks_is_bounded_and_goes_with_the_run() -> None:
    stacks = WholeStacks()
    for t in range(2000):
        stacks.masked(KEY._replace(t=t), 0, "a")
    assert stacks.labelled(KEY, {0}, trainable=True, contrast=None) is None, "forgotten"
    last = KEY._replace(t=1999)
    stacks.forget_run("another")
    assert stacks.labelled(last, {0}, trainable=True, contrast=None) is not None
    stacks.forget_run("abc")
    assert stacks.labelled(last, {0}, trainable=True, contrast=None) is None


def _until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- a run with real slices, masks and labels -----------------------------------------------------


@pytest.fixture(scope="module")
def slices() -> NDArray[Any]:
    return simulate_focal_stack("organoid_layer", shape=SHAPE, seed=4).slices


@pytest.fixture(scope="module")
def shipped() -> ModelVersion:
    return Registry("nowhere").shipped_version()


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory, shipped: ModelVersion) -> Path:
    """A model that calls in focus what is not: what inverted labels teach."""
    network = load_network(shipped)
    with torch.no_grad():
        last = list(network.parameters())[-2:]
        for parameter in last:
            parameter.neg_()
    folder = tmp_path_factory.mktemp("models") / "inverted"
    write_model(folder, network, name="inverted", card={}, template=shipped.onnx)
    return folder


@dataclass
class _Trainer:
    """Stands in for the trainer's process, which takes minutes."""

    jobs: list[TrainingJob] = field(default_factory=list)
    news: TrainerNews | None = None
    paused: list[bool] = field(default_factory=list)
    running: bool = False
    progress: dict[str, Any] = field(default_factory=dict)

    def start(self, job: TrainingJob) -> None:
        assert not self.running
        self.jobs.append(job)
        self.running = True

    def look(self) -> TrainerNews | None:
        news, self.news = self.news, None
        self.running = self.running and news is None
        return news

    def pause(self, paused: bool) -> None:
        self.paused.append(paused)

    def stop(self) -> None:
        self.running = False


class _Bench:
    """A learner with all its parts but the trainer's process, and a clock that is set by hand."""

    labels: ClassVar[dict[bytes, StackLabels]] = {}
    """Made once: they are the same every time."""

    def __init__(self, folder: Path, **learning: Any) -> None:
        self.folder = folder
        changes = {f"learning__{key}": value for key, value in learning.items()}
        self.config: Config = load_config(
            models=str(folder / "models"),
            storage__durability="process",
            inference__provider="cpu",
            inference__threads=1,
            **changes,
        )
        self.registry = Registry(self.config.models_dir)
        self.runs: list[ActiveRun] = []
        self.said: list[str] = []
        self.warned: list[str] = []
        self.now = 1_800_000_000.0
        self.lagging = self.expecting = False
        self.trainer = _Trainer()
        self.masks = MaskMaker(
            self.config,
            self.registry,
            on_mask=lambda *_: None,
            on_model=self._model_changed,
            warn=self._warn,
        )
        self.background = Background(
            labels=True,
            memory_mb=16,
            busy=lambda: False,
            on_labelled=lambda *_: None,
            warn=self._warn,
        )
        self.learner = self.begin()
        self.masks.prepare("default", SHAPE[1:])

    def begin(self) -> Learner:
        """Return a learner that knows what the folder says, as after a restart."""
        self.learner = Learner(
            self.config,
            self.registry,
            trainer=cast("TrainerProcess", self.trainer),
            masks=self.masks,
            background=self.background,
            runs=lambda: self.runs,
            expecting=lambda: self.expecting,
            lagging=lambda: self.lagging,
            say=self.said.append,
            warn=self._warn,
            clock=lambda: self.now,
        )
        return self.learner

    def close(self) -> None:
        self.background.stop()
        self.masks.stop()
        for run in self.runs:
            run.writer.close()

    def add(self, name: str, source: Path) -> None:
        """Put a copy of a model into the registry."""
        shutil.copytree(source, self.folder / name)
        card = json.loads((source / "card.json").read_text(encoding="utf-8"))
        seal(self.folder / name, {**card, "name": name})
        self.registry.add(self.folder / name)

    def open(self, name: str = "abc", times: int = 8) -> ActiveRun:
        spec = run_spec(
            run_id=name,
            name=name,
            height_px=SHAPE[1],
            width_px=SHAPE[2],
            images=[{"name": "here", "size_t": times, "size_z": SHAPE[0]}],
            frames_expected=times * SHAPE[0],
        )
        writer = RunWriter.create(self.folder / "runs", spec, QUICK, about={})
        run = ActiveRun(writer, Look("consensus"))
        self.runs.append(run)
        return run

    def end(self, run: ActiveRun) -> None:
        self.runs.remove(run)
        run.writer.close()

    def scan(self, run: ActiveRun, t: int, slices: NDArray[Any], *, trainable: bool = True) -> None:
        """Do with a stack what the daemon does, and wait until it is judged."""
        self.store(run, t, slices)
        for z in range(len(slices)):
            self.mask(run, t, z)
        self.label(run, t, slices, trainable=trainable)
        _until(lambda: run._owed == 0)

    def store(self, run: ActiveRun, t: int, slices: NDArray[Any]) -> None:
        for z, pixels in enumerate(slices):
            header = header_of(
                t * len(slices) + z,
                {"t": t, "z": z},
                run_id=run.spec.run_id,
                height_px=SHAPE[1],
                width_px=SHAPE[2],
                dtype="uint16",
            )
            enter_frame(run.writer, header, run.writer.write_frame(header, pixels))

    def mask(self, run: ActiveRun, t: int, z: int) -> None:
        model = self.masks._slots["default"].model
        place = StackKey(run.spec.run_id, 0, t, 0).placement(z)
        pixels = run.writer.read_slice(place)
        store_mask(run.writer, model, place, t * SHAPE[0] + z, pixels)
        self.learner.masked(run, place, model.version)

    def label(
        self, run: ActiveRun, t: int, slices: NDArray[Any], *, trainable: bool = True
    ) -> None:
        key = StackKey(run.spec.run_id, 0, t, 0)
        content = slices.tobytes()
        if content not in self.labels:
            self.labels[content] = label_stack(slices)
        store_labels(run.writer, key, self.labels[content], "consensus")
        progress = StackProgress(key, len(slices), cast("Any", None), trainable=trainable)
        progress.scored = set(range(len(slices)))
        self.learner.labelled(run, progress)

    def profile(self) -> dict[str, Any]:
        (profile,) = self.learner.status()["profiles"]
        return cast("dict[str, Any]", profile)

    def give(self, version: str) -> None:
        """Have a version wait for its swap, wherever it was taught."""
        self.learner._memory["default"].waiting = version

    def pass_gate(self, version: str) -> None:
        """Have the fine-tune end with a version that passed."""
        self.trainer.news = TrainerNews("passed", version, "passed the gate: 0.7 → 0.8")
        self.learner.look()

    def _model_changed(self, profile: str, version: str | None, reason: str) -> None:
        if version is None:
            self.warned.append(reason)
        else:
            self.learner.model_changed(profile, version)

    def _warn(self, text: str, **_: Any) -> None:
        self.warned.append(text)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., _Bench]]:
    made: list[_Bench] = []
    # The anchor set takes seconds to make: a test of its own asks a small one.
    monkeypatch.setattr(_takeover, "anchor_iou", lambda *_, **__: 0.8)

    def make_bench(**learning: Any) -> _Bench:
        made.append(_Bench(tmp_path, **{"after_stacks": 1, "every_minutes": 0.0, **learning}))
        return made[-1]

    yield make_bench
    for bench in made:
        bench.close()


def _lines(run: ActiveRun, kind: str) -> list[dict[str, Any]]:
    run.writer.close()
    return [line for line in open_run(run.writer.path).journal if line["kind"] == kind]


def test_a_whole_stack_is_judged_journalled_and_counted_once(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion
) -> None:
    bench = make(after_stacks=5)
    run = bench.open()
    bench.scan(run, 0, slices)
    bench.scan(run, 1, slices, trainable=False)
    bench.scan(run, 2, np.full_like(slices, 500))
    bench.learner.look()
    counter = AgreementCounter()
    labels = label_stack(slices)
    for z in range(len(slices)):
        mask = run.writer.read_mask(KEY.placement(z))
        counter.add(mask, labels.weak_label_slice(z), labels.undecided_slice(z))
    want = counter.result()
    assert want.iou is not None and 0.2 < want.iou < 1
    profile = bench.profile()
    assert profile["agreement_series"] == [round(want.iou, 4), round(want.iou, 4), None]
    assert (profile["stacks_since"], profile["outlook"]) == (1, "1 of 5 new stacks")
    bench.label(run, 0, slices)  # labels that are made again
    _until(lambda: len(bench.profile()["agreement_series"]) == 4)
    assert bench.profile()["stacks_since"] == 1
    point = bench.learner.series("default")[0]
    assert (point["run"], point["t"], point["model"]) == ("abc", 0, shipped.name)
    lines = _lines(run, "agreement")
    assert [line["why_not"] for line in lines] == [
        None,
        "the specimen moves sideways during the scan",
        "the rule finds next to nothing in focus",
        None,
    ]
    assert lines[0]["iou"] == round(want.iou, 4) and lines[0]["models"] == [shipped.name]


def test_what_an_earlier_daemon_masked_and_labelled_is_judged_by_the_next(
    make: Callable[..., _Bench], slices: NDArray[Any]
) -> None:
    bench = make(after_stacks=9)
    run = bench.open()
    bench.scan(run, 0, slices)
    for t in (1, 2, 3):
        bench.store(run, t, slices)
    dead, bench.learner = bench.learner, cast("Any", _Deaf())
    for t, z in itertools.product((1, 2), range(SHAPE[0])):
        bench.mask(run, t, z)
    bench.label(run, 1, slices)
    bench.end(run)
    del dead
    bench.begin()
    again = ActiveRun(RunWriter.reopen(run.writer.path, QUICK), Look("consensus"))
    bench.runs.append(again)
    # Masked before, labelled now; and masked now, labelled now.
    bench.label(again, 2, slices)
    for z in range(SHAPE[0]):
        bench.mask(again, 3, z)
    bench.label(again, 3, slices)
    bench.learner.run_labelled(again)
    _until(lambda: again._owed == 0)
    assert sorted(line["t"] for line in _lines(again, "agreement")) == [0, 1, 2, 3]
    assert bench.profile()["stacks_since"] == 4, "counts go on where they were"


class _Deaf:
    """A learner that is dead."""

    def masked(self, *_: object) -> None: ...
    def labelled(self, *_: object) -> None: ...


def test_a_run_is_not_closed_before_its_last_stack_is_judged(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    run, go_on = ActiveRun(writer, Look("axial")), threading.Event()
    background = Background(
        labels=False,
        memory_mb=16,
        busy=lambda: False,
        on_labelled=lambda *_: None,
        warn=lambda *_, **__: None,
    )
    background.do(lambda _: cast("None", go_on.wait(20)), run)
    run.end(lambda: None)
    waits = not run.finished
    go_on.set()
    _until(lambda: run.finished)
    background.stop()
    assert waits
    writer.close()


# --- fine-tunes -----------------------------------------------------------------------------------


def test_fine_tune_begins_by_the_policy_and_survives_the_daemon(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion
) -> None:
    bench = make(after_stacks=2, every_minutes=10.0)
    with pytest.raises(InputError, match="no stack yet"):
        bench.learner.request("default")
    run = bench.open()
    bench.scan(run, 0, slices)
    bench.learner.look()
    assert bench.trainer.jobs == []
    bench.scan(run, 1, slices)
    bench.learner.look()
    (job,) = bench.trainer.jobs
    assert (job.profile, job.parent, job.replay) == ("default", shipped.name, ())
    assert {(one.run, one.t) for one in job.new} == {(run.writer.path, 0), (run.writer.path, 1)}
    assert bench.learner.status()["trainer"]["profile"] == "default"
    # A daemon that dies in it leaves it to the next.
    bench.trainer.running = False
    bench.begin().look()
    assert bench.trainer.jobs == [job, job]
    bench.trainer.news = TrainerNews("stopped", None, "as asked")
    bench.learner.look()
    assert len(bench.trainer.jobs) == 3
    bench.trainer.news = TrainerNews("refused", "v1", "anchor set: 0.70 → 0.60")
    bench.learner.look()
    assert "refused by the gate: anchor set" in bench.profile()["decision"]
    for t in (2, 3):
        bench.scan(run, t, slices)
    bench.learner.look()
    assert len(bench.trainer.jobs) == 3
    assert "too recent, waits 10 min" in bench.profile()["outlook"]
    assert bench.learner.request("default") == "profile default: a fine-tune begins now"
    bench.lagging = True
    bench.learner.look()
    assert [one.t for one in bench.trainer.jobs[3].new] == [2, 3]
    assert {one.t for one in bench.trainer.jobs[3].replay} == {0, 1}
    assert bench.trainer.paused[-2:] == [False, True]
    kinds = [line["decision"] for line in _lines(run, "learning")]
    assert kinds == ["fine-tune", "refused", "fine-tune"]
    assert any("2 new stacks, 2 asked for" in text for text in bench.said)


def test_stacks_whose_run_was_removed_are_not_learnt_from(
    make: Callable[..., _Bench], slices: NDArray[Any]
) -> None:
    bench = make(after_stacks=1)
    run = bench.open("gone")
    bench.scan(run, 0, slices)
    bench.end(run)
    shutil.rmtree(run.writer.path)
    for _ in range(2):
        bench.learner.look()
    assert (bench.trainer.jobs, bench.profile()["stacks_since"], bench.said) == ([], 0, [])
    bench.scan(bench.open("there"), 0, slices)
    bench.learner.look()
    (job,) = bench.trainer.jobs
    assert [one.run.name.split("_")[-1] for one in job.new] == ["there"]


# --- the swap -------------------------------------------------------------------------------------


def test_between_runs_no_open_run_of_the_profile_changes_its_model(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion
) -> None:
    bench = make()
    bench.add("v1", shipped.path)
    run = bench.open()
    bench.scan(run, 0, slices)
    bench.learner.look()
    bench.pass_gate("v1")
    for _ in range(3):
        bench.learner.look()
    assert bench.masks.running("default")[0] == bench.registry.current_name() == shipped.name
    assert bench.profile()["waiting"] == "v1"
    bench.scan(run, 1, slices)
    bench.learner.look()
    assert len(bench.trainer.jobs) == 1, "no further fine-tune while one waits"
    assert "v1 has not taken over yet" in bench.profile()["outlook"]
    bench.end(run)
    bench.expecting = True  # the daemon died in a run, which goes on soon
    bench.begin().look()
    assert bench.registry.current_name() == shipped.name
    bench.expecting = False
    bench.learner.look()
    assert bench.masks.running("default")[0] == bench.registry.current_name() == "v1"
    assert (bench.profile()["waiting"], bench.profile()["watched"]) == (None, "v1")
    assert f"model v1 takes over from {shipped.name}" in bench.profile()["decision"]


def test_between_stacks_it_waits_for_the_stack_in_hand(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion
) -> None:
    bench = make(swap="between-stacks")
    bench.add("v1", shipped.path)
    run = bench.open()
    bench.store(run, 1, slices)
    bench.store(run, 2, slices)
    made = []
    budget = PixelBudget(1 << 30)
    bench.masks._on_mask = cast("Any", lambda job, *rest: made.append((job.placement, rest[-2])))
    for t, z in itertools.product((1, 2), range(SHAPE[0])):
        place = StackKey("abc", 0, t, 0).placement(z)
        job = SliceJob(run, place, t * SHAPE[0] + z, budget=budget)
        progress = run.stack(job.key)
        progress.z_um[z], progress.last_number = None, t * SHAPE[0] + z
        if (t, z) == (1, 2):
            bench.give("v1")
            bench.learner.look()
            assert bench.masks.staged("default") == "v1"
        bench.masks._make_mask(job)
        progress.in_focus_fraction[z] = 0.5
    models = [model for _, model in made]
    assert models == [shipped.name] * SHAPE[0] + ["v1"] * SHAPE[0]
    assert bench.registry.current_name() == "v1"
    assert bench.profile()["watched"] == "v1"


def test_half_masked_stacks_are_those_that_get_more(tmp_path: Path) -> None:
    spec = run_spec(images=[{"name": "here", "size_t": 9, "size_z": 3}], frames_expected=27)
    run = ActiveRun(RunWriter.create(tmp_path, spec, QUICK, about={}), Look("axial"))

    def stack(t: int, stored: int, masked: int) -> None:
        progress = run.stack(KEY._replace(t=t))
        progress.z_um = dict.fromkeys(range(stored))
        progress.in_focus_fraction = dict.fromkeys(range(masked), 0.0)
        progress.last_number = 3 * t + stored - 1

    cases = [
        ([], False, "nothing has come"),
        ([(0, 3, 3)], False, "whole"),
        ([(0, 3, 2)], True, "a mask waits"),
        ([(0, 2, 2)], True, "a slice is still to come"),
        ([(0, 2, 2), (1, 1, 0)], False, "a slice was missed, the camera is further"),
        ([(0, 2, 1), (1, 1, 0)], True, "a slice was missed, and a mask waits"),
        ([(0, 3, 0)], False, "not begun"),
    ]
    for stacks, half, why in cases:
        run._stacks.clear()
        for counts in stacks:
            stack(*counts)
        assert half_masked([run], "default") is half, why
        assert not half_masked([run], "another")
    run.writer.close()


def test_by_hand_nothing_is_taken_up_but_what_a_person_chooses(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion
) -> None:
    bench = make(swap="manual")
    bench.add("v1", shipped.path)
    run = bench.open()
    bench.scan(run, 0, slices)
    bench.learner.look()
    bench.pass_gate("v1")
    bench.end(run)
    bench.learner.look()
    assert bench.registry.current_name() == shipped.name
    assert "waits for you" in bench.profile()["decision"]
    assert (
        bench.learner.use("v1", "default") == "profile default: model v1 was made current by hand"
    )
    assert bench.masks.running("default")[0] == "v1"
    assert (bench.profile()["waiting"], bench.profile()["watched"]) == (None, "v1")
    assert bench.learner.rollback("default").endswith(f"{shipped.name} was made current by hand")
    assert bench.masks.running("default")[0] == shipped.name
    for call in (bench.learner.request, bench.learner.rollback, partial(bench.learner.use, "v1")):
        with pytest.raises(InputError, match="no profile 'none'"):
            call("none")
    with pytest.raises(InputError, match="no model is called"):
        bench.learner.use("v9", "default")


def test_a_version_that_cannot_be_used_is_not_taken_up_and_the_old_one_stays(
    make: Callable[..., _Bench], shipped: ModelVersion
) -> None:
    for swap in ("between-runs", "between-stacks"):
        bench = make(swap=swap)
        if swap == "between-stacks":
            bench.open()
        bench.give("gone")
        bench.learner.look()
        assert bench.registry.current_name() == shipped.name
        assert bench.profile()["waiting"] is None
        assert "model gone is not taken up: no model is called" in bench.profile()["decision"]
        bench.runs.clear()
    bench.add("v1", shipped.path)
    bench.give("v1")
    bench.learner._memory["default"].lesson = Lesson((), (), "taken back")
    bench.learner.look()
    assert bench.registry.current_name() == shipped.name
    assert f"it was taught from taken back, {shipped.name} is in use" in bench.profile()["decision"]


def test_where_run_follows_run_the_next_begins_with_the_new_model(
    make: Callable[..., _Bench], shipped: ModelVersion
) -> None:
    bench = make()
    bench.add("v1", shipped.path)
    run = bench.open()
    progress = run.stack(KEY)
    progress.z_um[0] = 0.0
    run.end(lambda: None)
    bench.give("v1")
    bench.learner.look()
    assert bench.masks.running("default")[0] == shipped.name, "a mask is still made"
    progress.announced = True
    # Labels are still made when the next run begins: they do not hold it up.
    with bench.learner.run_begins():
        assert bench.masks.running("default")[0] == bench.registry.current_name() == "v1"


def test_no_model_takes_over_while_a_run_begins_and_a_run_holds_up_no_other(
    make: Callable[..., _Bench], shipped: ModelVersion
) -> None:
    bench = make()
    bench.add("v1", shipped.path)
    with bench.learner.run_begins():
        bench.give("v1")
        bench.learner.look()
        with bench.learner.run_begins():
            assert bench.registry.current_name() == shipped.name
        bench.learner.look()
        assert bench.registry.current_name() == shipped.name
    bench.learner.look()
    assert bench.registry.current_name() == "v1"


# --- the watch ------------------------------------------------------------------------------------


def _wait_for_anchor(bench: _Bench) -> None:
    bench.learner.look()

    def is_there() -> bool:
        watch = bench.learner._memory["default"].watch
        return watch is not None and watch.anchor is not None

    _until(is_there)


def test_sabotage_is_taken_back_by_its_first_stack_and_remembered(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion, inverted: Path
) -> None:
    bench = make(every_minutes=60.0)
    bench.add("bad", inverted)
    run = bench.open("before")
    bench.scan(run, 0, slices)
    bench.learner.look()
    bench.end(run)
    bench.pass_gate("bad")
    assert bench.masks.running("default")[0] == "bad"
    _wait_for_anchor(bench)
    run = bench.open()
    bench.scan(run, 0, slices)
    bench.learner.look()
    assert bench.masks.running("default")[0] == bench.registry.current_name() == shipped.name
    profile = bench.profile()
    assert (profile["taken_back"], profile["watched"]) == (["bad"], None)
    (said,) = [text for text in bench.said if "is taken back" in text]
    assert "agreement of one stack" in said and "→" in said
    # Not tried again, also not by a daemon that comes later; nor is what it learnt from.
    history = History.load(bench.registry.root / "learning" / "default.json")[0]
    assert {record.run for record in history.new} == {str(run.writer.path)}
    assert len(history.earlier) == 0
    bench.end(run)
    bench.begin()
    bench.pass_gate("bad")
    bench.learner.look()
    assert bench.registry.current_name() == shipped.name
    assert [line["decision"] for line in _lines(run, "learning")] == ["roll back"]


def test_a_model_that_does_as_well_is_kept_after_three_stacks(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion
) -> None:
    bench = make(after_stacks=1)
    bench.add("v1", shipped.path)
    bench.give("v1")
    bench.learner.look()
    _wait_for_anchor(bench)
    run = bench.open()
    darker = (slices // 8).astype(np.uint16)
    for t, stack in enumerate((slices, darker, slices)):
        assert bench.profile()["watched"] == "v1"
        bench.scan(run, t, stack)
        bench.learner.look()
    assert bench.registry.current_name() == "v1"
    assert bench.profile()["watched"] is None
    assert "model v1 is kept: agreement of 3 stacks" in "\n".join(bench.said)
    (job,) = bench.trainer.jobs  # held up by the watch, and no longer
    assert (job.parent, len(job.new)) == ("v1", 3)


def test_a_model_that_forgets_the_anchor_is_taken_back_without_a_stack(
    make: Callable[..., _Bench], shipped: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.add("v1", shipped.path)
    scores = {shipped.name: 0.8, "v1": 0.5}
    monkeypatch.setattr(
        _takeover,
        "anchor_iou",
        lambda version, **_: scores[version.name],
    )
    bench.give("v1")
    bench.learner.look()
    _wait_for_anchor(bench)
    bench.learner.look()
    assert bench.registry.current_name() == shipped.name
    assert "anchor's true masks 0.800 → 0.500" in bench.profile()["decision"]


def test_what_a_person_chose_is_watched_and_only_said(
    make: Callable[..., _Bench], slices: NDArray[Any], shipped: ModelVersion, inverted: Path
) -> None:
    bench = make(after_stacks=0)
    bench.learner.look()
    bench.add("bad", inverted)
    bench.registry.use("bad")  # by another program
    bench.masks.follow("default")
    run = bench.open()
    bench.scan(run, 0, slices)
    bench.learner.look()
    assert bench.registry.current_name() == "bad"
    (warned,) = bench.warned
    assert "model bad does worse" in warned
    assert f"models use {shipped.name} --profile default" in warned
    bench.learner.look()
    assert len(bench.warned) == 1


def test_anchor_tells_a_model_that_learnt_inverted_labels(
    shipped: ModelVersion, inverted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = simulate_focal_stack("organoid_layer", shape=(3, 128, 128), seed=8)
    targets = (block_target(mask, None, 4) for mask in stack.in_focus)
    examples = tuple(zip(stack.slices, targets, strict=True))
    monkeypatch.setattr(training, "anchor_set", lambda _: examples)
    registry = Registry(tmp_path)
    registry.add(inverted)
    before = anchor_iou(shipped, provider="cpu")
    after = anchor_iou(registry.get("inverted"), provider="cpu")
    assert before > 0.3 > after
    assert InFocusModel.load(inverted, provider="cpu").infer(stack.slices[1]).mask.mean() > 0.5
