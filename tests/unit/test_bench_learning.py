"""`bench learning`: what its rows judge, what sabotage does, and one small session of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepfocus_live.bench import GROUPS, LONG_GROUPS, Row
from deepfocus_live.bench._learning import Effort, Finding, learning_rows, run_arm, session_stacks
from deepfocus_live.bench._learning_cost import Cost, CostEffort, Turn, cost_rows
from deepfocus_live.bench._sabotage import SABOTAGE, sabotaged
from deepfocus_live.bench._session import FineTune, TakenStack
from deepfocus_live.cli._demo import demo
from deepfocus_live.errors import InputError
from deepfocus_live.focus import StackLabels, label_stack
from deepfocus_live.learning import StackFacts, contrast_over_z, why_not_learn
from deepfocus_live.simulation import simulate_focal_stack


def _session(
    arm: str, truths: list[float], models: str, *, seed: int = 1, back: str = ""
) -> Finding:
    """Return a session of stacks that one model each has masked; "s" is the shipped one."""
    stacks = [
        TakenStack(number, (model,), 0.5, truth, None)
        for number, (truth, model) in enumerate(zip(truths, models, strict=True))
    ]
    made = [
        FineTune(name, models.index(name), "passed", name in back)
        for name in "ab"
        if name in models
    ]
    current = models[-1] if models[-1] not in back else "s"
    return Finding(arm, seed, tuple(stacks), tuple(made), current)


def _goals(rows: list[Row]) -> list[tuple[float | None, bool | None]]:
    return [(row.value, row.met) for row in rows if row.goal is not None]


def test_learning_is_judged_by_what_it_gains_after_the_change_and_loses_before() -> None:
    off = _session("off", [0.8, 0.8, 0.4, 0.4], "ssss")
    good = learning_rows([off, _session("on", [0.79, 0.79, 0.4, 0.6], "ssaa")])
    assert _goals(good) == [(pytest.approx(0.1), True), (pytest.approx(-0.01), True)]
    nothing = learning_rows([off, _session("on", [0.8, 0.8, 0.4, 0.4], "ssss")])
    assert _goals(nothing)[0] == (0.0, False), "a learner that never learns has gained nothing"
    forgets = learning_rows([off, _session("on", [0.7, 0.8, 0.6, 0.6], "saaa")])
    assert [met for _, met in _goals(forgets)] == [True, False]
    other_seed = replace(off, seed=2, stacks=off.stacks[::-1])
    by_seed = learning_rows(
        [
            off,
            other_seed,
            _session("on", [0.8] * 4, "ssaa"),
            _session("on", [0.8] * 4, "sssa", seed=2),
        ]
    )
    assert [value for value, _ in _goals(by_seed)] == [pytest.approx(0.2), pytest.approx(0.2)]
    names = [row.name for row in good]
    for arm in ("off", "on"):
        for what in ("IoU with truth", "agreement with the rule"):
            assert {f"{arm}: {what} before the change", f"{arm}: {what} after the change"} <= set(
                names
            )
    assert "on, seed 1: fine-tune after 2 stacks, taken up; in use for" in names


@pytest.mark.parametrize(
    ("models", "back", "harmful"),
    [
        pytest.param("ssssss", "", 0, id="nothing-learnt"),
        pytest.param("saaass", "a", 0, id="taken-back-after-three"),
        pytest.param("saaaas", "a", 1, id="taken-back-after-four"),
        pytest.param("sssssa", "", 1, id="in-use-at-the-end"),
        pytest.param("saaaab", "b", 1, id="one-of-two"),
    ],
)
def test_a_model_of_wrong_labels_counts_unless_it_is_gone_within_three_stacks(
    models: str, back: str, harmful: int
) -> None:
    rows = learning_rows([_session("random", [0.5] * 6, models, back=back)])
    assert _goals(rows) == [(harmful, harmful == 0)]
    assert not any("agreement" in row.name for row in rows)


def test_what_became_of_each_fine_tune_is_said() -> None:
    found = _session("on", [0.5] * 4, "saab", back="b")
    refused = (FineTune("c", 3, "anchor: refused"), FineTune(None, 3, "failed"))
    rows = learning_rows([replace(found, fine_tunes=(*found.fine_tunes, *refused))])
    said = {row.name.partition("stacks, ")[2]: row.value for row in rows if "fine-tune" in row.name}
    assert said == {
        "taken up; in use for": 2,
        "taken up, and taken back; in use for": 1,
        "refused by the gate; in use for": 0,
        "failed; in use for": 0,
    }


def test_costs_are_ratios_of_turns_with_and_without_a_trainer() -> None:
    effort = CostEffort()
    without = (Turn(0.0, 10, 30), Turn(0.0, 12, 40), Turn(0.0, 11, 500))
    beside = (Turn(0.9, 13, 60), Turn(1.0, 14, 70), Turn(1.0, 90, 80))
    rows = cost_rows(Cost(effort, without, beside, 1900.0))
    assert [row.ratio for row in rows] == [pytest.approx(14 / 11), pytest.approx(70 / 40), None]
    assert [row.met for row in rows] == [True, True, True]
    assert "for 97% of the time" in rows[0].name
    dear = cost_rows(
        Cost(effort, without, tuple(replace(t, mask_ms=15, ack_p99_ms=81) for t in beside), 2001.0)
    )
    assert [row.met for row in dear] == [False, False, False]


def test_the_long_group_is_measured_only_by_name() -> None:
    assert "learning" in LONG_GROUPS and "learning" not in GROUPS


@pytest.fixture(scope="module")
def labels() -> StackLabels:
    return label_stack(simulate_focal_stack("organoid_layer", shape=(7, 128, 128), seed=5).slices)


def _why_not(labels: StackLabels) -> str | None:
    return why_not_learn(
        StackFacts(
            slices=len(labels.arrived),
            decided=1 - float(labels.undecided.mean()),
            in_focus=float(labels.weak_label.mean()),
            contrast=contrast_over_z(labels.scores, labels.weak_label),
        )
    )


@pytest.mark.parametrize("how", SABOTAGE)
def test_wrong_labels_are_not_learnt_from_unless_they_are_flawless_in_themselves(
    how: str, labels: StackLabels
) -> None:
    wrong = sabotaged(labels, how)
    assert _why_not(labels) is None
    assert (_why_not(wrong) is None) == (how == "displaced"), "the pixels tell"
    assert not (wrong.weak_label & wrong.undecided).any()
    agrees = (wrong.weak_label & labels.weak_label).sum() / labels.weak_label.sum()
    assert agrees < 0.5 or how == "all-true"
    again = sabotaged(labels, how)
    np.testing.assert_array_equal(wrong.weak_label, again.weak_label)


def test_in_a_session_labels_that_call_blur_in_focus_are_not_learnt_from(tmp_path: Path) -> None:
    effort = Effort(stacks=3, shape=(5, 128, 128), after_stacks=2, minutes=0.05, cost=None)
    stacks = session_stacks(effort, seed=1)
    found = run_arm("displaced", 1, stacks, effort, tmp_path)
    assert [stack.why_not for stack in found.stacks[:2]] == [None, None], "flawless in themselves"
    [tuned] = found.fine_tunes
    assert (tuned.version, tuned.after) == (None, 2)
    assert "stored labels are not of the sharper slices" in tuned.gate
    assert {stack.models[0] for stack in found.stacks} == {found.current}
    # The masks are as good as ever; the labels are what is wrong.
    assert 0.5 < found.stacks[0].truth <= 1
    assert found.stacks[0].agreement is not None and found.stacks[0].agreement < 0.3
    assert _goals(learning_rows([found])) == [(0, True)]


def test_the_learning_demo_takes_no_stacks() -> None:
    with pytest.raises(InputError, match="leave out the stacks"):
        demo(stacks=[Path("a.tif")], learning=True)
