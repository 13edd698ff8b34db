"""Weak labels: the rules against their twins, the labeller, and stacks with nothing in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfocus_live.focus import (
    PRESETS,
    ScanPreset,
    StackLabeler,
    axial_rule,
    label_stack,
    stack_otsu_rule,
    warm_up,
)
from tests import naive

SHARED = Path(__file__).parents[2].parent / "shared"
every_preset = pytest.mark.parametrize("preset", sorted(PRESETS))


def two_depths(n_z: int = 7, shape: tuple[int, int] = (128, 192)) -> NDArray[np.uint16]:
    """Return a stack whose left third is sharp at z 2 and right third at z 5, the middle empty."""
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 400, shape)
    third = shape[1] // 3
    z_stack = np.full((n_z, *shape), 1000.0)
    for z in range(n_z):
        left = ndimage.gaussian_filter(texture, 0.5 + 1.5 * abs(z - 2))
        right = ndimage.gaussian_filter(texture, 0.5 + 1.5 * abs(z - 5))
        z_stack[z, :, :third] += left[:, :third]
        z_stack[z, :, 2 * third :] += right[:, 2 * third :]
    return z_stack.clip(0, 65535).astype(np.uint16)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 6), st.integers(1, 5), st.integers(1, 5)),
    levels=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_rules_equal_their_plain_twins(shape: tuple[int, int, int], levels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
    axial, paper = axial_rule(scores), stack_otsu_rule(scores)
    np.testing.assert_array_equal(
        axial.weak_label, naive.axial_rule(scores, threshold=axial.threshold)
    )
    np.testing.assert_array_equal(
        paper.weak_label, naive.stack_otsu_rule(scores, threshold=paper.threshold)
    )
    split = axial_rule(scores, ends_undecided=True)
    assert not (split.weak_label & split.undecided).any()
    np.testing.assert_array_equal(split.weak_label | split.undecided, axial.weak_label)


def test_axial_labels_each_depth_where_it_is_sharp() -> None:
    labels = label_stack(two_depths(), "axial")
    left, middle, right = np.s_[:48], np.s_[80:112], np.s_[144:]
    assert labels.weak_label_slice(2)[:, left].all()
    assert labels.weak_label_slice(5)[:, right].all()
    for z in range(7):
        assert not labels.weak_label_slice(z)[:, middle].any()
        if z != 2:
            assert not labels.weak_label_slice(z)[:, left].any()
        if z != 5:
            assert not labels.weak_label_slice(z)[:, right].any()
    assert labels.best_z in (2, 5)


@every_preset
def test_slices_may_arrive_in_any_order_and_twice(preset: str) -> None:
    z_stack = two_depths()
    want = label_stack(z_stack, preset)
    labeler = StackLabeler(preset, shape_yx=(128, 192))
    for z in (6, 0, 3, 3, 1, 5, 2, 4, 6):
        labeler.add(z, z_stack[z])
    got = labeler.finish()
    assert len(labeler) == 7
    np.testing.assert_array_equal(got.weak_label, want.weak_label)
    np.testing.assert_array_equal(got.focus_curve, want.focus_curve)
    assert got.best_z == want.best_z


def test_a_dropped_slice_leaves_the_others_where_they_are() -> None:
    z_stack = two_depths()
    labeler = StackLabeler("axial", shape_yx=(128, 192))
    for z in (1, 2, 3, 5, 6):
        labeler.add(z, z_stack[z])
    labels = labeler.finish()
    assert labels.arrived.tolist() == [False, True, True, True, False, True, True]
    assert labels.weak_label_slice(2)[:, :48].all()
    assert labels.weak_label_slice(5)[:, 144:].all()
    assert not labels.weak_label_slice(4).any()
    assert labels.focus_curve[4] == labels.mean_focus_score[4] == 0


def test_several_stacks_may_be_open_at_once() -> None:
    z_stack = two_depths()
    first, second = (StackLabeler("axial", shape_yx=(128, 192)) for _ in range(2))
    for z in range(7):
        first.add(z, z_stack[z])
        second.add(6 - z, z_stack[z])
    np.testing.assert_array_equal(first.finish().weak_label, second.finish().weak_label[::-1])


@every_preset
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("level", [0, 200])
@pytest.mark.parametrize("n_z", [1, 2, 3, 9])
def test_a_constant_stack_has_nothing_in_focus(
    preset: str, dtype: str, level: int, n_z: int
) -> None:
    labels = label_stack(np.full((n_z, 50, 70), level, dtype), preset)
    assert labels.weak_label.shape[0] == n_z
    assert labels.scores.shape == labels.weak_label.shape
    assert not labels.weak_label.any()
    assert not labels.undecided.any()
    assert labels.best_z is None
    assert labels.focus_curve.tolist() == [0] * n_z


@every_preset
def test_one_or_two_slices_have_nothing_in_focus(preset: str) -> None:
    for n_z in (1, 2):
        labels = label_stack(two_depths()[:n_z], preset)
        assert not labels.weak_label.any()
        assert labels.best_z is None
        assert np.isnan(labels.threshold)
        assert (labels.mean_focus_score > 0).all()


def test_a_slice_repeated_through_the_stack_is_in_focus_nowhere_by_the_axial_rule() -> None:
    labels = label_stack(np.repeat(two_depths()[2:3], 5, axis=0), "axial")
    assert not labels.weak_label.any()


def test_a_labeller_without_slices_finishes_empty() -> None:
    labels = StackLabeler("axial", shape_yx=(64, 64)).finish()
    assert labels.weak_label.shape[0] == 0
    assert labels.best_z is None


def test_focus_curve_is_the_share_of_pixels_also_where_edge_blocks_are_cut() -> None:
    labels = label_stack(two_depths(shape=(121, 187)), "axial")
    for z in range(7):
        share = labels.weak_label_slice(z).mean()
        assert labels.focus_curve[z] == pytest.approx(share)


def test_places_that_peak_at_an_end_are_undecided_where_the_preset_says_so() -> None:
    axial = PRESETS["axial"]
    assert isinstance(axial, ScanPreset)
    preset = replace(axial, rule=partial(axial_rule, ends_undecided=True))
    labels = label_stack(two_depths()[:3], preset)
    assert labels.undecided_slice(2)[:, :48].all()
    assert not labels.weak_label_slice(2)[:, :48].any()
    assert label_stack(two_depths()[:3], "axial").weak_label_slice(2)[:, :48].all()


def test_a_lazy_stack_is_read_one_slice_at_a_time() -> None:
    z_stack = two_depths()

    def slices() -> Iterator[NDArray[np.uint16]]:
        yield from z_stack

    np.testing.assert_array_equal(
        label_stack(slices(), "axial").weak_label, label_stack(z_stack, "axial").weak_label
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(lambda: label_stack([]), "has none", id="no-slices"),
        pytest.param(lambda: label_stack(np.zeros((5, 5), np.uint8)), "its slices 2-D", id="2-D"),
        pytest.param(
            lambda: label_stack(np.zeros((3, 5, 5), np.uint8), "axal"),
            "'axal': there is consensus, axial, paper, casus",
            id="preset",
        ),
        pytest.param(
            lambda: label_stack([np.zeros((5, 5), np.uint8), np.zeros((5, 6), np.uint8)]),
            r"slice 1 is \(5, 6\), the stack is \(5, 5\)",
            id="two-sizes",
        ),
        pytest.param(
            lambda: StackLabeler("axial", shape_yx=(0, 5)), "at least 1", id="empty-shape"
        ),
        pytest.param(
            lambda: label_stack([np.ones((5, 5), np.uint8), np.ones((5, 5), np.uint16)]),
            "slice 1 is uint16, the stack is uint8",
            id="two-types",
        ),
        pytest.param(
            lambda: StackLabeler("axial", shape_yx=(5, 5)).add(-1, np.zeros((5, 5), np.uint8)),
            "numbered from 0, not -1",
            id="negative-z",
        ),
        pytest.param(lambda: label_stack(np.full((3, 5, 5), np.nan, np.float32)), "NaN", id="nan"),
    ],
)
def test_bad_input_is_told_what_is_wrong(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_asking_for_a_slice_beyond_the_stack_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="slices 0 to 6, not 7"):
        label_stack(two_depths(), "axial").weak_label_slice(7)


def test_warming_up_twice_is_harmless() -> None:
    warm_up()
    warm_up()


def test_axial_labels_of_the_organoids_are_far_more_specific_than_the_papers() -> None:
    path = SHARED / "data" / "organoid_A02.ome.tif"
    if not path.exists():
        pytest.skip("the shared data are not here")
    tifffile = pytest.importorskip("tifffile")
    z_stack = tifffile.imread(path)
    axial, paper = label_stack(z_stack, "axial"), label_stack(z_stack, "paper")
    assert axial.best_z == 6
    assert axial.focus_curve[:4].max() < 0.01
    assert paper.focus_curve.min() > 0.5
