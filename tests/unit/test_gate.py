"""The gate: what it asks, what it answers, and that wrong labels do not get past it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import Registry
from deepfocus_live.model.weights import load_network
from deepfocus_live.simulation import SPECIMENS, simulate_focal_stack
from deepfocus_live.training import (
    FP32,
    UNKNOWN,
    BatchMaker,
    LabelledStack,
    Scores,
    anchor_set,
    block_target,
    fit,
    judge_candidate,
    network_iou,
    simulated_stacks,
    write_model,
)
from deepfocus_live.training._anchor import (
    _ANCHOR_SEED,
    _ANCHOR_SHAPE,
    anchor_checksum,
    rehearsal_stacks,
)
from deepfocus_live.training._judging import Evidence, rehearsal_parts

PARENT = Scores(anchor=0.70, by_rule=0.80, empty_share=0.0, by_hand=0.75, old=0.60)
BETTER = replace(PARENT, by_rule=0.85, by_hand=0.80)

CASES = [
    pytest.param(BETTER, None, id="gains-and-loses-nothing"),
    pytest.param(replace(BETTER, anchor=0.69, old=0.59), None, id="loses-what-is-allowed"),
    pytest.param(replace(BETTER, anchor=0.6899), "anchor set", id="forgets-the-anchor"),
    pytest.param(replace(BETTER, old=0.5899), "old held-out", id="forgets-old-stacks"),
    pytest.param(replace(BETTER, by_hand=0.75), "hand-made", id="gains-nothing-by-hand"),
    pytest.param(replace(BETTER, by_rule=0.1), None, id="weak-labels-do-not-decide-beside-masks"),
    pytest.param(replace(BETTER, empty_share=0.01), None, id="as-much-of-nothing-as-allowed"),
    pytest.param(replace(BETTER, empty_share=0.0101), "empty fields", id="sees-focus-in-nothing"),
]


@pytest.mark.parametrize(("candidate", "refused"), CASES)
def test_gate_says_what_it_refuses(candidate: Scores, refused: str | None) -> None:
    verdict = judge_candidate(candidate, PARENT)
    assert verdict.passed == (refused is None)
    assert (verdict.refusal is None) == (refused is None)
    if refused is not None and verdict.refusal is not None:
        assert refused in verdict.refusal
        assert ";" not in verdict.refusal, "one reason, one refusal"
    assert [check["change"] for check in verdict.as_list()] == [
        pytest.approx(check.after - check.before, abs=1e-5) for check in verdict.checks
    ]


def test_without_masks_and_old_stacks_the_weak_labels_decide_beside_the_anchor() -> None:
    parent = Scores(anchor=0.7, by_rule=0.8, empty_share=0.0)
    assert judge_candidate(replace(parent, by_rule=0.81), parent).passed
    same = judge_candidate(parent, parent)
    assert same.refusal is not None and "weak labels: 0.8000 → 0.8000" in same.refusal
    assert len(same.checks) == 3


def test_anchor_is_the_same_every_time_and_no_training_sees_it() -> None:
    slices = [z_slice for z_slice, _ in anchor_set(4)]
    assert len(slices) == 24
    [again] = simulated_stacks(1, seed=_ANCHOR_SEED, shape=_ANCHOR_SHAPE)
    assert any(np.array_equal(again.slices[0], z_slice) for z_slice in slices)
    assert len(anchor_checksum(4)) == 8
    assert any((target == 1).any() for _, target in anchor_set(4))
    rehearsed = rehearsal_stacks(0, 4, deadline=0.0)
    assert len(rehearsed) == len(SPECIMENS), "without time every specimen once"
    for stack in rehearsed:
        assert not any(np.array_equal(a, b) for a in slices for b in stack.slices)


def test_what_forgetting_is_seen_by_is_not_rehearsed() -> None:
    target = np.zeros((3, 64, 64), np.uint8)
    stacks = [
        LabelledStack(str(number), np.full((3, 256, 256), number, np.uint16), target)
        for number in range(9)
    ]
    learn, judged = rehearsal_parts(stacks)
    assert [stack.name for stack in learn] == ["0", "1", "2", "4", "5", "6", "8"]
    assert [(stack.name, int(stack.slices.max()), len(stack.slices)) for stack in judged] == [
        ("3", 3, 1),
        ("7", 7, 1),
    ]


def test_network_taught_inverted_labels_agrees_with_them_and_is_refused_by_the_anchor(
    tmp_path: Path,
) -> None:
    learn, held = (_inverted(seed) for seed in (1, 2))
    parent = Registry(tmp_path).shipped_version()
    evidence = Evidence([held], [], [], 4)
    before = evidence.scores(InFocusModel.load(parent, provider="cpu", threads=1))
    torch.manual_seed(0)
    network = load_network(parent)
    result = fit(
        network,
        BatchMaker([learn], seed=1, size=4, crop_px=128, empty_share=0.3),
        judge=lambda candidate: network_iou(candidate, evidence.examples()),
        learning_rate=1e-3,
        precision=FP32,
        max_steps=30,
        looks=3,
    )
    assert result.best_step > 0
    version = write_model(
        tmp_path / "inverted", network, name="inverted", card={}, template=parent.onnx
    )
    after = evidence.scores(InFocusModel.load(version, provider="cpu", threads=1))
    assert after.by_rule > before.by_rule + 0.1, "it does agree with its own kind of labels"
    verdict = judge_candidate(after, before)
    assert verdict.refusal is not None and "anchor set" in verdict.refusal
    assert "weak labels" not in verdict.refusal


def _inverted(seed: int) -> LabelledStack:
    stack = simulate_focal_stack("organoid_layer", shape=(5, 192, 192), seed=seed)
    target = np.stack([block_target(mask, None, 4) for mask in stack.in_focus])
    assert (target == 1).any() and not (target == UNKNOWN).any()
    return LabelledStack(f"inverted {seed}", stack.slices, 1 - target)
