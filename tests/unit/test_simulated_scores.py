"""Scores on simulated truth: known masks get known scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live.evaluation import mean_with_interval, score_on_simulation
from deepfocus_live.simulation import SPECIMENS, FocalStack, varied_focal_stack

SHAPE = (3, 96, 96)
SEED = 77


@pytest.fixture(scope="module")
def stacks() -> list[FocalStack]:
    """Return the stacks that the scorer makes, slice for slice."""
    return [
        varied_focal_stack(specimen, seed=(SEED, number), shape=SHAPE).stack
        for number, specimen in enumerate(SPECIMENS)
    ]


def _masks(
    stacks: list[FocalStack], mask_of: Callable[[FocalStack, int], NDArray[Any]]
) -> Callable[[NDArray[np.uint16]], NDArray[np.uint8]]:
    """Return a masker that gives, slice after slice, what `mask_of` says."""
    slices = itertools.chain.from_iterable(((s, z) for z in range(len(s.slices))) for s in stacks)

    def next_mask(z_slice: NDArray[np.uint16]) -> NDArray[np.uint8]:
        stack, z = next(slices)
        np.testing.assert_array_equal(z_slice, stack.slices[z])
        return mask_of(stack, z).astype(np.uint8)

    return next_mask


def test_truth_scores_1_and_its_opposite_0(stacks: list[FocalStack]) -> None:
    right = score_on_simulation(
        _masks(stacks, lambda s, z: s.in_focus[z]), seeds=[SEED], shape=SHAPE
    )
    wrong = score_on_simulation(
        _masks(stacks, lambda s, z: ~s.in_focus[z]), seeds=[SEED], shape=SHAPE
    )
    assert len(right.slices) == 3 * len(SPECIMENS)
    assert {one.specimen for one in right.counting} >= {"tilted_sheet", "two_layers", "larva"}
    assert all(one.iou == one.strict_iou == 1.0 for one in right.counting)
    assert all(one.false_share == 0.0 for one in right.slices)
    assert all(one.iou == 0.0 for one in wrong.counting)
    assert [one.counts for one in right.slices] == [one.counts for one in wrong.slices]
    # By defocus: all of what is near is called, nothing of what is far.
    assert right.called[0] == right.seen[0] > 0
    assert not right.called[2:].any() and right.seen[2:].any()


def test_what_is_undecided_counts_in_the_strict_figure_only(stacks: list[FocalStack]) -> None:
    generous = score_on_simulation(
        _masks(stacks, lambda s, z: s.in_focus[z] | s.undecided[z]), seeds=[SEED], shape=SHAPE
    )
    assert all(one.iou == 1.0 for one in generous.counting)
    assert min(one.strict_iou for one in generous.counting) < 0.9


def test_nothing_called_is_right_only_where_nothing_is(stacks: list[FocalStack]) -> None:
    silent = score_on_simulation(
        _masks(stacks, lambda s, z: np.zeros(SHAPE[1:])), seeds=[SEED], shape=SHAPE
    )
    assert all(one.iou == 0.0 for one in silent.counting)
    empty = [one for one in silent.slices if one.specimen == "empty"]
    assert all(one.iou == 1.0 and not one.counts for one in empty)


def test_interval_is_of_groups_not_of_values() -> None:
    random = np.random.default_rng(0)
    of_groups = random.normal(0.0, 1.0, 30)
    values = np.repeat(of_groups, 20)
    together, alone = np.repeat(np.arange(30), 20), np.arange(600)
    mean, low, high = mean_with_interval(values, together)
    assert mean == pytest.approx(of_groups.mean())
    # Standard error of 30 draws, twice 1.96 of it.
    assert high - low == pytest.approx(3.92 * of_groups.std() / 30**0.5, rel=0.2)
    assert high - low > 3 * np.diff(mean_with_interval(values, alone)[1:])[0]
    assert np.isnan(mean_with_interval([], [])).all()
