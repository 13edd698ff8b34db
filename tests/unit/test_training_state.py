"""A fit that is broken off and gone on with, and the file that remembers it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.training import FP32, BatchMaker, FitState, LabelledStack, fit
from deepfocus_live.training._device import choose_threads, training_device
from deepfocus_live.training._state import SavedTraining, StateFile

TINY = Architecture(base_channels=4, levels=1)


def stack() -> LabelledStack:
    slices = np.random.default_rng(0).integers(100, 200, (3, 64, 64), dtype=np.uint16)
    target = np.zeros((3, 16, 16), np.uint8)
    target[1] = 1
    return LabelledStack("a", slices, target)


def batches(already_drawn: int = 0) -> BatchMaker:
    made = BatchMaker([stack()], seed=3, size=2)
    for _ in range(already_drawn):
        made.draw()
    return made


def learn(network: FocusNetwork, steps: int, drawn: int = 0, **more: object) -> list[FitState]:
    states: list[FitState] = []
    fit(
        network,
        batches(drawn),
        judge=lambda net: -float(net.unet.head.bias.detach().abs().sum()),
        learning_rate=1e-3,
        precision=FP32,
        max_steps=steps,
        looks=steps,
        save=states.append,
        save_every_s=0.0,
        **more,  # type: ignore[arg-type]
    )
    return states


def fresh_network() -> FocusNetwork:
    torch.manual_seed(0)
    return FocusNetwork(TINY)


@pytest.fixture(scope="module")
def states() -> list[FitState]:
    return learn(fresh_network(), 6)


def test_fit_gone_on_with_ends_as_if_it_had_never_been_broken_off(
    states: list[FitState],
) -> None:
    half = states[2]
    assert half.step == 3
    resumed = learn(FocusNetwork(TINY), 6, drawn=3, resume=half)
    for state in (states[-1], resumed[-1]):
        assert state.step == 6
    for key, value in states[-1].weights.items():
        torch.testing.assert_close(resumed[-1].weights[key], value)
    assert resumed[-1].checkpoints == states[-1].checkpoints
    assert resumed[-1].elapsed_s > half.elapsed_s


def test_training_stops_when_nothing_is_gained_any_more() -> None:
    def steps_of(scores: list[float], patience: int | None) -> tuple[int, bool]:
        given = iter(scores)
        result = fit(
            fresh_network(),
            batches(),
            judge=lambda _: next(given),
            learning_rate=1e-3,
            precision=FP32,
            max_steps=10,
            looks=10,
            patience=patience,
        )
        return result.steps, result.stopped_early

    flat = [0.5, 0.6, *[0.6] * 9]
    assert steps_of(flat, 4) == (5, True), "four looks after the gain, half the work done"
    assert steps_of(flat, 2) == (5, True), "never before half"
    assert steps_of(flat, None) == (10, False)
    assert steps_of([0.5 + 0.01 * k for k in range(11)], 4) == (10, False)


def test_saved_training_comes_back_as_it_was(states: list[FitState], tmp_path: Path) -> None:
    said: list[str] = []
    with StateFile(tmp_path / "t" / "p", "mine", said.append) as file:
        assert file.load() is None
        file.save(SavedTraining(states[0], 7.5))
        file.save(SavedTraining(states[1], 9.0))
    with StateFile(tmp_path / "t" / "p", "mine", said.append) as file:
        back = file.load()
        assert back is not None and back.elapsed_s == 9.0
        assert back.fit.checkpoints == states[1].checkpoints
        network = fresh_network()
        learn(network, 6, resume=back.fit)
        file.remove()
    assert said == []
    assert not (tmp_path / "t").exists(), "nothing is left of what is done"


class Spy:
    """Says so if it is unpickled."""

    woken = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _wake, ()


def _wake() -> None:
    Spy.woken = True


def test_foreign_damaged_or_hostile_state_is_said_in_one_line_and_ignored(
    states: list[FitState], tmp_path: Path
) -> None:
    with StateFile(tmp_path, "theirs", print) as file:
        file.save(SavedTraining(states[0], 1.0))
    whole = file.path.read_bytes()
    contents = {
        "of a training with other stacks": whole,
        "is damaged": whole[: len(whole) // 2],
        "damaged": pickle.dumps(Spy()),
        "is damaged (": b"",
        "saved training": b"no checkpoint at all",
    }
    for says, content in contents.items():
        file.path.write_bytes(content)
        said: list[str] = []
        with StateFile(tmp_path, "mine", said.append) as mine:
            assert mine.load() is None
        assert len(said) == 1 and says in said[0] and "\n" not in said[0]
        assert "begun anew" in said[0]
    assert not Spy.woken


def test_two_trainings_of_one_profile_do_not_write_one_file(
    states: list[FitState], tmp_path: Path
) -> None:
    said: list[str] = []
    with StateFile(tmp_path / "p", "first", print) as first:
        first.save(SavedTraining(states[0], 1.0))
        before = first.path.read_bytes()
        with StateFile(tmp_path / "p", "second", said.append) as second:
            second.save(SavedTraining(states[1], 2.0))
            second.remove()
        assert first.path.read_bytes() == before
        assert len(said) == 1 and "another training of this profile" in said[0]


def test_state_that_cannot_be_written_is_said_once_and_training_goes_on(
    states: list[FitState], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    said: list[str] = []
    with StateFile(tmp_path / "file" / "p", "mine", said.append) as file:
        file.save(SavedTraining(states[0], 1.0))
        file.save(SavedTraining(states[1], 2.0))
        file.remove()
    assert len(said) == 1 and "cannot be saved" in said[0]


def test_what_it_trains_on_is_said_with_the_reason() -> None:
    before = torch.get_num_threads()
    try:
        assert 1 <= choose_threads() <= before
        device = training_device()
    finally:
        torch.set_num_threads(before)
    if device.device.type == "cpu":
        assert "the CPU" in device.words and "(" in device.words
    else:
        assert "the GPU" in device.words
