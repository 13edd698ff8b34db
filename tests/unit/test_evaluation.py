"""Agreement of masks with a truth: against pixel-by-pixel twins and truths worked by hand."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfocus_live.evaluation import (
    FIGURES,
    UNDECIDED,
    BoundaryMatch,
    Comparison,
    DepthErrors,
    Overlap,
    Scorer,
    bootstrap_interval,
    count_overlap,
    iou,
    match_boundaries,
    pooled,
)

Mask = NDArray[np.bool_]
States = NDArray[np.uint8]


def blobs(seed: int, shape: tuple[int, int] = (14, 17)) -> Mask:
    """Return a mask of a few rectangles."""
    random = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=bool)
    for _ in range(int(random.integers(0, 4))):
        y, x = (int(random.integers(0, side)) for side in shape)
        mask[y : y + int(random.integers(1, 8)), x : x + int(random.integers(1, 8))] ^= True
    return mask


def states(seed: int, shape: tuple[int, ...] = (6, 5, 7)) -> States:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


# --- plain twins --------------------------------------------------------------------------


def plain_counts(called: Mask, wanted: Mask, known: Mask) -> Overlap:
    hits = false_alarms = misses = rejections = undecided = 0
    for c, w, k in zip(called.flat, wanted.flat, known.flat, strict=True):
        undecided += not k
        hits += bool(k and c and w)
        false_alarms += bool(k and c and not w)
        misses += bool(k and not c and w)
        rejections += bool(k and not c and not w)
    return Overlap(hits, false_alarms, misses, rejections, undecided)


def plain_boundary(mask: Mask) -> list[tuple[int, int]]:
    height, width = mask.shape
    found = []
    for y, x in product(range(height), range(width)):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        outside = [not mask[a, b] for a, b in around if 0 <= a < height and 0 <= b < width]
        if mask[y, x] and any(outside):
            found.append((y, x))
    return found


def plain_near(pixel: tuple[int, int], others: list[tuple[int, int]], within: float) -> bool:
    return any(math.dist(pixel, other) <= within for other in others)


def plain_match(called: Mask, wanted: Mask, known: Mask, tolerance_px: float) -> BoundaryMatch:
    outlines = [plain_boundary(called), plain_boundary(wanted)]
    rest = [(int(y), int(x)) for y, x in np.argwhere(~known)]
    counts = []
    for ours, theirs in (outlines, outlines[::-1]):
        judged = [pixel for pixel in ours if not plain_near(pixel, rest, max(tolerance_px, 1))]
        counts += [sum(plain_near(pixel, theirs, tolerance_px) for pixel in judged), len(judged)]
    return BoundaryMatch(*counts)


def plain_depth_errors(masks: States, truth: States) -> list[float]:
    errors = []
    for y, x in product(range(masks.shape[1]), range(masks.shape[2])):
        known = [z for z in range(len(masks)) if UNDECIDED not in (masks[z, y, x], truth[z, y, x])]
        called = [z for z in known if masks[z, y, x] == 1]
        wanted = [z for z in known if truth[z, y, x] == 1]
        if called and wanted:
            errors.append(sum(called) / len(called) - sum(wanted) / len(wanted))
    return errors


def score_all(masks: States, truth: States, tolerance_px: float = 4.0) -> Comparison:
    scorer = Scorer(masks.shape[1:], tolerance_px=tolerance_px)
    for z, planes in enumerate(zip(masks, truth, strict=True)):
        scorer.add(z, *planes)
    return scorer.finish()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, database=None)
def test_overlap_counts_what_a_loop_over_pixels_counts(seed: int) -> None:
    called, wanted = blobs(seed), blobs(seed + 1)
    known = ~blobs(seed + 2)
    assert count_overlap(called, wanted, known) == plain_counts(called, wanted, known)
    everywhere = np.ones_like(known)
    assert count_overlap(called, wanted) == plain_counts(called, wanted, everywhere)


@given(seed=st.integers(0, 10**6), tolerance_px=st.sampled_from([0.0, 1.0, 1.5, 2.0, 4.0]))
@settings(max_examples=60, deadline=None, database=None)
def test_boundaries_match_as_a_loop_over_pixels_matches_them(
    seed: int, tolerance_px: float
) -> None:
    called, wanted = blobs(seed), blobs(seed + 1)
    known = ~blobs(seed + 2) if seed % 2 else np.ones_like(called)
    matched = match_boundaries(called, wanted, known, tolerance_px=tolerance_px)
    assert matched == plain_match(called, wanted, known, tolerance_px)


@pytest.mark.parametrize("seed", range(4))
def test_focus_errors_are_those_of_a_loop_over_pixel_columns(seed: int) -> None:
    masks, truth = states(seed), states(seed + 100)
    found = score_all(masks, truth).depth
    plain = plain_depth_errors(masks, truth)
    assert found.columns == len(plain) > 10
    assert found.bias == pytest.approx(np.mean(plain))
    for percent, value in ((50, found.median), (95, found.p95)):
        want = np.percentile(np.abs(plain), percent, method="inverted_cdf")
        assert value == pytest.approx(want)


# --- worked by hand -----------------------------------------------------------------------


def test_ratios_of_a_truth_worked_by_hand() -> None:
    # 6 hits, 2 false alarms, 3 misses, 9 neither, of 20 pixels that count; 5 do not.
    overlap = Overlap(6, 2, 3, 9, 5)
    assert overlap.decided == 20
    assert overlap.precision == 6 / 8
    assert overlap.recall == 6 / 9
    assert overlap.iou == 6 / 11
    assert overlap.f1 == 12 / 17
    assert overlap.false_area == 2 / 11
    assert overlap.wrong_share == 5 / 20
    assert overlap.called_share == 8 / 20
    assert overlap.truth_share == 9 / 20
    assert overlap.decided_share == 20 / 25
    # Chance: 0.4 * 0.45 + 0.6 * 0.55 = 0.51; agreement 0.75.
    assert overlap.kappa == pytest.approx((0.75 - 0.51) / (1 - 0.51))


UNDEFINED = math.nan


@pytest.mark.parametrize(
    ("overlap", "iou_f1", "precision", "recall", "false_area", "kappa"),
    [
        pytest.param(Overlap(0, 0, 0, 9), 1, UNDEFINED, UNDEFINED, 0, UNDEFINED, id="both-empty"),
        pytest.param(Overlap(9, 0, 0, 0), 1, 1, 1, UNDEFINED, UNDEFINED, id="both-full"),
        pytest.param(Overlap(0, 3, 0, 6), 0, 0, UNDEFINED, 1 / 3, 0, id="nothing-in-focus"),
        pytest.param(Overlap(0, 0, 3, 6), 0, UNDEFINED, 0, 0, 0, id="nothing-called"),
        pytest.param(Overlap(undecided=9), *[UNDEFINED] * 5, id="nothing-decided"),
    ],
)
def test_what_is_not_defined_is_nan_and_both_empty_is_full_agreement(
    overlap: Overlap,
    iou_f1: float,
    precision: float,
    recall: float,
    false_area: float,
    kappa: float,
) -> None:
    found = [
        overlap.iou,
        overlap.f1,
        overlap.precision,
        overlap.recall,
        overlap.false_area,
        overlap.kappa,
    ]
    wanted = [iou_f1, iou_f1, precision, recall, false_area, kappa]
    assert found == pytest.approx(wanted, nan_ok=True)


def test_iou_is_that_of_the_counts_and_leaves_out_what_is_not_known() -> None:
    called = np.array([[1, 1, 0, 0]], dtype=bool)
    wanted = np.array([[1, 0, 1, 0]], dtype=bool)
    assert iou(called, wanted) == 1 / 3
    assert iou(called, wanted, np.array([[1, 1, 0, 1]], dtype=bool)) == 1 / 2
    assert iou(called & False, wanted & False) == 1
    assert math.isnan(iou(called, wanted, np.zeros_like(called)))
    with pytest.raises(ValueError, match="give one shape"):
        iou(called, wanted[:, :3])


def square(offset: int, side: int = 10) -> Mask:
    mask = np.zeros((30, 50), dtype=bool)
    mask[10 : 10 + side, 10 + offset : 10 + offset + side] = True
    return mask


@pytest.mark.parametrize(("tolerance_px", "near"), [(0, 14), (1, 18), (3, 36)])
def test_boundaries_of_a_square_shifted_by_three(tolerance_px: float, near: int) -> None:
    # Outlines of 36 pixels. They share 7 of top and bottom; within 1 pixel lie 1 more of each,
    # and of the left side the 2 pixels next to the corners.
    matched = match_boundaries(square(3), square(0), tolerance_px=tolerance_px)
    assert matched == BoundaryMatch(near, 36, near, 36)
    assert matched.f1 == matched.precision == matched.recall == near / 36


def test_boundary_f1_falls_as_masks_move_apart_and_is_symmetric() -> None:
    scores = [match_boundaries(square(shift), square(0)).f1 for shift in (0, 5, 7, 9, 18)]
    assert scores[0] == 1
    assert scores[-1] == 0
    assert all(near > far for near, far in pairwise(scores))
    assert match_boundaries(square(0), square(7)).f1 == pytest.approx(scores[2])


def test_where_a_mask_has_no_boundary() -> None:
    nothing, everything = np.zeros((30, 50), dtype=bool), np.ones((30, 50), dtype=bool)
    assert math.isnan(match_boundaries(nothing, nothing).f1)
    assert math.isnan(match_boundaries(everything, everything).f1)  # the slice's edge is none
    assert match_boundaries(square(0), nothing).f1 == 0
    assert match_boundaries(nothing, square(0)).f1 == 0


def test_a_boundary_that_may_lie_in_undecided_pixels_is_not_judged() -> None:
    # A ring of doubt around the true square: the mask may end anywhere in it.
    truth, doubt = square(2, 6), square(0, 16) & ~square(2, 6)
    for shift, side in ((0, 14), (1, 8), (2, 6)):
        assert match_boundaries(square(shift, side), truth, ~doubt).called == 0
    far = square(20)
    assert match_boundaries(far, truth, ~doubt).called == 36
    assert match_boundaries(far, truth, ~doubt).called_near == 0


# --- a stack ------------------------------------------------------------------------------


def test_depth_error_of_a_plane_found_two_slices_too_high() -> None:
    truth = np.zeros((9, 8, 8), np.uint8)
    masks = np.zeros_like(truth)
    truth[2:5], masks[4:7] = 1, 1
    masks[:, :, 6:] = 0  # no focus called in two of eight columns: they do not count
    truth[:, 0], masks[5, 0] = UNDECIDED, 1  # nor does a row that the truth leaves open
    depth = score_all(masks, truth).depth
    assert (depth.columns, depth.bias, depth.median, depth.p95) == (7 * 6, 2, 2, 2)
    in_um = depth.scaled(2.5)
    assert (in_um.columns, in_um.bias, in_um.median, in_um.p95) == (7 * 6, 5, 5, 5)


def test_depth_errors_of_several_stacks_are_pooled_by_column() -> None:
    few = DepthErrors(np.array([-1.0, 2.0]), np.array([3, 1]))
    many = DepthErrors(np.array([0.0, 2.0]), np.array([10, 6]))
    both = few + many
    assert (both.values.tolist(), both.counts.tolist()) == ([-1, 0, 2], [3, 10, 7])
    assert (both.columns, both.median, both.p95) == (20, 0, 2)
    assert both.bias == pytest.approx((-3 + 14) / 20)
    nothing = DepthErrors()
    assert nothing.columns == 0
    assert all(math.isnan(n) for n in (nothing.bias, nothing.median, nothing.p95))


def test_a_comparison_pools_pixels_and_does_not_average_slices() -> None:
    masks, truth = states(1), states(2)
    comparison = score_all(masks, truth)
    known = (masks != UNDECIDED) & (truth != UNDECIDED)
    assert comparison.overlap == plain_counts(masks == 1, truth == 1, known)
    figures = comparison.figures
    assert tuple(figures) == FIGURES
    assert figures["iou"] == comparison.overlap.iou
    for z, score in enumerate(comparison.slices):
        assert score.z == z
        assert score.overlap == plain_counts(masks[z] == 1, truth[z] == 1, known[z])
        assert tuple(score.figures) == FIGURES


def test_boundaries_of_slices_are_pooled_too() -> None:
    truth = np.stack([square(0), square(0), square(0) & False]).astype(np.uint8)
    masks = np.stack([square(0), square(20), square(0) & False]).astype(np.uint8)
    comparison = score_all(masks, truth)
    each = [score.figures["boundary_f1"] for score in comparison.slices]
    assert each == pytest.approx([1, 0, math.nan], nan_ok=True)
    assert comparison.figures["boundary_f1"] == 0.5


def test_stacks_together_are_their_slices_together() -> None:
    first, second = score_all(states(1), states(2)), score_all(states(3), states(4))
    both = pooled([first, second])
    assert both.slices == first.slices + second.slices
    assert both.depth.columns == first.depth.columns + second.depth.columns
    assert pooled([]).figures.keys() == set(FIGURES)


def test_the_worst_slices_have_most_pixels_wrong_and_right_ones_are_not_among_them() -> None:
    truth = np.zeros((5, 10, 10), np.uint8)
    masks = truth.copy()
    truth[1, :5], masks[1, :4] = 1, 1  # 10 of 100 wrong, IoU 0.8
    masks[2, 0, 0] = 1  # 1 of 100, IoU 0
    truth[3, :2], truth[3, 5:] = 1, UNDECIDED  # 20 of 50
    truth[4] = masks[4] = 1
    comparison = score_all(masks, truth)
    assert [score.z for score in comparison.worst(9)] == [3, 1, 2]
    assert [score.z for score in comparison.worst(1)] == [3]


def test_a_slice_of_another_size_is_refused() -> None:
    scorer = Scorer((5, 7))
    with pytest.raises(ValueError, match="slice 3 is"):
        scorer.add(3, np.zeros((5, 7), np.uint8), np.zeros((5, 6), np.uint8))


# --- intervals ----------------------------------------------------------------------------


def test_intervals_hold_the_figure_repeat_and_widen_with_fewer_slices() -> None:
    random = np.random.default_rng(0)
    overlaps = [Overlap(int(h), 20, 10, 100) for h in random.integers(20, 200, 64)]
    whole = sum(overlaps, Overlap())
    many, few = bootstrap_interval(overlaps), bootstrap_interval(overlaps[:8])
    assert many == bootstrap_interval(overlaps)
    assert many != bootstrap_interval(overlaps, seed=1)
    for name, value in (("iou", whole.iou), ("f1", whole.f1)):
        low, high = many[name]
        assert low < value < high
        assert few[name][1] - few[name][0] > 2 * (high - low)


def test_intervals_agree_with_drawing_slices_one_by_one() -> None:
    overlaps = [Overlap(hits, 30, 0, 100) for hits in (10, 60, 90, 200, 20)]
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(2000):
        picks = random.integers(0, 5, 5)
        drawn.append(sum((overlaps[pick] for pick in picks), Overlap()).iou)
    low, high = bootstrap_interval(overlaps)["iou"]
    assert [low, high] == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.02)


@pytest.mark.parametrize(
    ("overlaps", "wanted"),
    [
        pytest.param([], (math.nan, math.nan), id="none"),
        pytest.param([Overlap(5, 1, 1, 1)], (math.nan, math.nan), id="one"),
        pytest.param([Overlap(0, 0, 0, 9)] * 3, (1, 1), id="all-empty"),
        pytest.param([Overlap(0, 2, 0, 9)] * 3, (0, 0), id="all-wrong"),
    ],
)
def test_intervals_of_few_or_equal_slices(
    overlaps: list[Overlap], wanted: tuple[float, float]
) -> None:
    for interval in bootstrap_interval(overlaps).values():
        assert interval == pytest.approx(wanted, nan_ok=True)
