"""The all-in-focus image and the depth map of one stack."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live.focus import (
    DepthMap,
    StackProjector,
    axial_rule,
    depth_map,
    enlarge_blocks,
    focus_score_blocks,
)
from deepfocus_live.simulation import FocalStack, simulate_focal_stack

BLOCK = 16


def scores_of(z_stack: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([score_of(z_slice) for z_slice in z_stack])


def score_of(z_slice: NDArray[Any]) -> NDArray[np.float32]:
    return focus_score_blocks(z_slice, windows_px=(32,), strides_px=(BLOCK,)).scores


def projector_of(
    z_stack: NDArray[Any],
    scores: NDArray[np.float32] | None = None,
    order: Any = None,
    **options: Any,
) -> StackProjector:
    scores = scores_of(z_stack) if scores is None else scores
    options = {"block_px": BLOCK} | options
    projector = StackProjector(shape_yx=z_stack.shape[1:], dtype=z_stack.dtype, **options)
    for z in range(len(z_stack)) if order is None else order:
        projector.add(int(z), z_stack[z], scores[z])
    return projector


def plain_all_in_focus(
    z_stack: NDArray[Any], scores: NDArray[np.float32], block_px: int, sharpness: float
) -> NDArray[np.float64]:
    """Weigh each slice by its interpolated score to a power, all slices at once."""
    logs = np.log2(np.maximum(scores.astype(float), 1e-30))
    for axis in (1, 2):
        places = (np.arange(z_stack.shape[axis]) + 0.5) / block_px - 0.5
        places = places.clip(0, logs.shape[axis] - 1)
        before = places.astype(int)
        after = np.minimum(before + 1, logs.shape[axis] - 1)
        part = (places - before).reshape((-1, 1) if axis == 1 else (1, -1))
        logs = (1 - part) * logs.take(before, axis) + part * logs.take(after, axis)
    weights = 2 ** (sharpness * (logs - logs.max(0)))
    mean: NDArray[np.float64] = (weights * z_stack).sum(0) / weights.sum(0)
    return mean


@pytest.fixture(scope="module")
def sheet() -> FocalStack:
    return simulate_focal_stack("tilted_sheet", shape=(9, 256, 256), z_step_um=10.0, seed=4)


@pytest.fixture(scope="module")
def sheet_scores(sheet: FocalStack) -> NDArray[np.float32]:
    return scores_of(sheet.slices)


def two_halves() -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Return a stack whose left half is sharp in slice 1, the right in 4, and the sharp truth."""
    rng = np.random.default_rng(0)
    sharp = 2000 + 800 * ndimage.gaussian_filter(rng.standard_normal((96, 128)), 1.0)
    z_stack = np.empty((6, *sharp.shape), np.uint16)
    for z in range(6):
        left, right = (ndimage.gaussian_filter(sharp, abs(z - best)) for best in (1, 4))
        z_stack[z] = np.rint(np.hstack([left[:, :64], right[:, 64:]]))
    return z_stack, sharp


# --- the all-in-focus image ---


def test_all_in_focus_is_nearer_to_the_sharp_truth_than_any_slice() -> None:
    z_stack, sharp = two_halves()
    image = projector_of(z_stack).image().astype(float)
    errors = [float(np.sqrt(np.mean((z_slice - sharp) ** 2))) for z_slice in z_stack]
    # The cut between the halves, smeared over a window, is what remains.
    assert np.sqrt(np.mean((image - sharp) ** 2)) < 0.4 * min(errors)


def test_all_in_focus_scores_higher_than_every_slice(
    sheet: FocalStack, sheet_scores: NDArray[np.float32]
) -> None:
    image = projector_of(sheet.slices, sheet_scores).image()
    assert image.dtype == sheet.slices.dtype
    assert score_of(image).mean() > 1.2 * sheet_scores.mean(axis=(1, 2)).max()


def test_noise_becomes_the_mean_not_a_patchwork_of_slices() -> None:
    z_stack = np.random.default_rng(1).normal(1000, 30, (12, 128, 128)).astype(np.float32)
    image = projector_of(z_stack).image()
    # The mean of 12 slices has 30 / sqrt(12) = 8.7, a patchwork 30.
    assert image.std() < 10.5
    assert (image - z_stack.mean(axis=0)).std() < 7


def test_no_block_edges_are_seen() -> None:
    # Two flat slices, scores that jump from block to block: what changes, changes slowly.
    z_stack = np.stack([np.full((64, 64), 100, np.float32), np.full((64, 64), 200, np.float32)])
    scores = np.ones((2, 4, 4), np.float32)
    scores[0] += 0.1 * np.random.default_rng(2).random((4, 4), np.float32)
    image = projector_of(z_stack, scores).image()
    assert np.ptp(image) > 20
    assert max(abs(np.diff(image, axis=axis)).max() for axis in (0, 1)) < 6


def test_order_of_slices_does_not_matter(
    sheet: FocalStack, sheet_scores: NDArray[np.float32]
) -> None:
    first = projector_of(sheet.slices, sheet_scores).image().astype(int)
    for order in (range(8, -1, -1), (4, 8, 0, 2, 7, 1, 3, 6, 5)):
        again = projector_of(sheet.slices, sheet_scores, order).image().astype(int)
        assert abs(first - again).max() <= 1  # what lies on .5 may be rounded otherwise
        assert (first != again).mean() < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
    block_px=st.integers(1, 17),
    sharpness=st.sampled_from([1.0, 16.0, 32.0]),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    seed=st.integers(0, 2**16),
)
def test_fast_projection_equals_the_plain_weighted_mean(
    shape: tuple[int, int, int], block_px: int, sharpness: float, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z_stack = rng.integers(0, 256, shape).astype(dtype)
    blocks = [-(-side // block_px) for side in shape[1:]]
    scores = rng.uniform(1, 6, (shape[0], *blocks)).astype(np.float32)
    projector = projector_of(
        z_stack, scores, rng.permutation(shape[0]), block_px=block_px, sharpness=sharpness
    )
    want = plain_all_in_focus(z_stack, scores, block_px, sharpness)
    tolerance = 0.01 if dtype == "float32" else 0.51
    np.testing.assert_allclose(projector.image(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_equal_slices_give_that_slice_exactly(dtype: str) -> None:
    z_slice = np.random.default_rng(3).uniform(0, 255, (50, 70)).astype(dtype)
    image = projector_of(np.stack([z_slice] * 7)).image()
    assert image.dtype == z_slice.dtype
    np.testing.assert_array_equal(image, z_slice)


@pytest.mark.parametrize("value", [0, 65535])
def test_flat_stack_comes_back_without_a_warning(value: int) -> None:
    z_stack = np.full((4, 40, 33), value, np.uint16)
    np.testing.assert_array_equal(projector_of(z_stack).image(), z_stack[0])


def test_scores_of_nothing_and_of_very_much_leave_no_hole() -> None:
    z_stack = np.arange(3 * 32 * 48, dtype=np.float32).reshape(3, 32, 48)
    scores = np.zeros((3, 2, 3), np.float32)
    scores[0, 0, 0] = scores[1, 1, 1] = 1e30
    scores[2, 1, 2] = -5
    image = projector_of(z_stack, scores).image()
    assert np.isfinite(image).all()
    assert ((image >= z_stack[0]) & (image <= z_stack[2])).all()
    assert image[0, 0] == pytest.approx(z_stack[0, 0, 0], abs=1e-6)


def test_gain_takes_out_the_drift_of_the_lamp() -> None:
    z_stack, _ = two_halves()
    steady = projector_of(z_stack).image().astype(int)
    scores, offset = scores_of(z_stack), 100
    drifting = StackProjector(
        shape_yx=z_stack.shape[1:], dtype=np.uint16, block_px=BLOCK, dark_offset=offset
    )
    for z, gain in enumerate(np.linspace(0.5, 2, len(z_stack))):
        drifted = np.rint(offset + gain * (z_stack[z] - float(offset))).astype(np.uint16)
        drifting.add(z, drifted, scores[z], gain=float(gain))
    assert abs(drifting.image() - steady).max() <= 2


def test_pixels_that_gain_lifts_above_the_range_are_clipped() -> None:
    projector = StackProjector(shape_yx=(8, 8), dtype=np.uint8, block_px=8)
    projector.add(0, np.full((8, 8), 200, np.uint8), np.ones((1, 1), np.float32), gain=0.5)
    assert (projector.image() == 255).all()


def test_a_slice_that_comes_again_replaces_itself_where_it_is_seen() -> None:
    z_stack, _ = two_halves()
    scores = scores_of(z_stack)
    projector = projector_of(z_stack, scores)
    projector.add(1, z_stack[1] + np.uint16(500), scores[1])
    assert len(projector) == len(z_stack)
    wrong = projector.image().astype(int)
    brighter = z_stack.copy()
    brighter[1] += np.uint16(500)
    want = projector_of(brighter, scores).image().astype(int)
    assert abs(wrong - want).max() <= 500 / 4 + 1
    assert np.median(abs(wrong - want)[:, :40]) < 25


def test_the_image_so_far_needs_one_slice_only() -> None:
    z_stack, _ = two_halves()
    projector = projector_of(z_stack[:1])
    np.testing.assert_array_equal(projector.image(), z_stack[0])
    with pytest.raises(ValueError, match="no slice has arrived"):
        StackProjector(shape_yx=(4, 4), dtype=np.uint8, block_px=4).image()


GOOD: dict[str, Any] = {
    "z_index": 0,
    "z_slice": np.zeros((32, 40), np.uint16),
    "scores": np.ones((2, 3), np.float32),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"z_index": -1}, "numbered from 0"),
        ({"z_slice": np.zeros((32, 41), np.uint16)}, r"slice 0 is \(32, 41\), the stack is"),
        ({"z_slice": np.zeros((32, 40), np.uint8)}, "slice 0 is uint8, the stack is uint16"),
        ({"scores": np.ones((3, 2), np.float32)}, r"scores \(3, 2\), .* \(2, 3\) blocks of 16"),
        ({"scores": np.full((2, 3), np.nan, np.float32)}, "NaN or infinite"),
        ({"gain": 0.0}, "gain 0.0"),
    ],
)
def test_wrong_slices_are_refused_with_the_reason(wrong: dict[str, Any], message: str) -> None:
    projector = StackProjector(shape_yx=(32, 40), dtype=np.uint16, block_px=16)
    with pytest.raises(ValueError, match=message):
        projector.add(**GOOD | wrong)
    assert len(projector) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape_yx": (0, 4)}, "both at least 1"),
        ({"dtype": np.int32}, "slices are uint8, uint16, float32, not int32"),
        ({"block_px": 0}, "at least 1 px"),
        ({"sharpness": 0.0}, "sharpness"),
        ({"dark_offset": float("nan")}, "dark_offset"),
    ],
)
def test_wrong_stacks_are_refused_with_the_reason(wrong: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"shape_yx": (8, 8), "dtype": np.uint8, "block_px": 4}
    with pytest.raises(ValueError, match=message):
        StackProjector(**options | wrong)


# --- the depth map ---


def in_focus_map(scores: NDArray[np.float32], z_um: NDArray[np.float64]) -> DepthMap:
    decision = axial_rule(scores)
    return depth_map(scores, z_um, decision.weak_label, decision.undecided)


def one_place(curve: Any, in_focus: Any, z_um: Any = None, undecided: Any = None) -> list[float]:
    """Return depth, confidence and second depth of one axial curve."""
    scores = np.array(curve, np.float32).reshape(-1, 1, 1)
    z = np.arange(len(scores), dtype=float) if z_um is None else np.asarray(z_um, float)
    unsure = np.zeros(len(scores)) if undecided is None else np.array(undecided)
    focus = np.array(in_focus, bool).reshape(scores.shape)
    found = depth_map(scores, z, focus, unsure.astype(bool).reshape(scores.shape))
    return [float(a[0, 0]) for a in (found.depth_um, found.confidence, found.second_depth_um)]


def test_depth_of_a_tilted_sheet_is_its_surface_finer_than_the_z_step(
    sheet: FocalStack, sheet_scores: NDArray[np.float32]
) -> None:
    found = in_focus_map(sheet_scores, sheet.z_um)
    assert found.depth_um.dtype == found.second_depth_um.dtype == np.float32
    depth = found.enlarge(BLOCK, (256, 256))
    said = np.isfinite(depth) & np.isfinite(sheet.depth_um)
    assert said.mean() > 0.6
    error = abs(depth - sheet.depth_um)[said]
    assert np.median(error) < 0.1 * sheet.z_step_um
    assert np.percentile(error, 95) < 0.3 * sheet.z_step_um
    # Finer than the best whole slice.
    whole = sheet.z_um[sheet_scores.argmax(axis=0)]
    whole_error = abs(enlarge_blocks(whole, BLOCK, (256, 256)) - sheet.depth_um)[said]
    assert np.median(error) < 0.6 * np.median(whole_error)
    assert np.percentile(error, 95) < np.percentile(whole_error, 95)


def test_depth_does_not_depend_on_the_order_of_slices(
    sheet: FocalStack, sheet_scores: NDArray[np.float32]
) -> None:
    decision = axial_rule(sheet_scores)
    want = in_focus_map(sheet_scores, sheet.z_um)
    for order in (np.arange(9)[::-1], np.random.default_rng(5).permutation(9)):
        found = depth_map(
            sheet_scores[order], sheet.z_um[order], decision.weak_label[order],
            decision.undecided[order],
        )  # fmt: skip
        for name in ("depth_um", "confidence", "second_depth_um"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name))


@given(
    depth=st.floats(-4, 4),
    gaps=st.lists(st.floats(0.5, 3), min_size=8, max_size=8),
    width=st.floats(0.5, 20),
)
@settings(max_examples=50, deadline=None)
def test_depth_of_a_lorentz_curve_is_exact_however_the_slices_lie(
    depth: float, gaps: list[float], width: float
) -> None:
    z_um = np.cumsum([0, *gaps]) - sum(gaps) / 2
    curve = 100 / (width + (z_um - depth) ** 2)
    peak = int(curve.argmax())
    found, confidence, second = one_place(curve, np.arange(9) == peak, z_um)
    assert np.isnan(second)
    if 0 < peak < 8:
        assert found == pytest.approx(depth, abs=2e-3 * (1 + width))
        assert 0 <= confidence <= 1
    else:
        assert found == pytest.approx(z_um[peak])
        assert confidence == 0


def test_two_layers_give_both_depths_the_sharper_one_first() -> None:
    curve = [1, 2, 6, 2, 1, 1, 2, 5, 2, 1]
    focus = [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    depth, confidence, second = one_place(curve, focus)
    assert (depth, second) == (2, 7)
    assert confidence == pytest.approx(1 - 4 / 5)  # the second climbs 4 of 5
    alone = one_place([1, 2, 6, 2, 1, 1, 1, 1, 1, 1], focus)
    assert alone[1] == 1


def test_of_several_layers_the_second_is_the_one_that_climbs_highest() -> None:
    # The shoulder beside the first peak is higher than the layer, but no peak of its own.
    curve = [1, 1, 9, 7, 7.2, 3, 1, 5, 1]
    assert one_place(curve, [0, 0, 1, 0, 1, 0, 0, 1, 0])[2] == 7


def test_confidence_falls_as_a_rival_grows() -> None:
    rivals = [one_place([1, 1, 9, 1, rival, 1, 1], np.arange(7) == 2)[1] for rival in range(1, 10)]
    assert rivals[0] == 1
    assert rivals[-1] == 0
    assert all(before > after for before, after in itertools.pairwise(rivals))


@pytest.mark.parametrize(
    ("in_focus", "undecided", "depth"),
    [
        pytest.param([0, 0, 0, 0, 0], None, np.nan, id="nothing-in-focus"),
        pytest.param([0, 0, 1, 0, 0], None, 2, id="in-focus"),
        pytest.param([0, 0, 0, 0, 0], [0, 0, 1, 0, 0], np.nan, id="undecided"),
        pytest.param([1, 0, 0, 0, 0], [0, 0, 1, 0, 0], np.nan, id="undecided-at-its-best"),
        pytest.param([0, 0, 1, 0, 0], [0, 1, 0, 1, 0], 2, id="undecided-beside-its-best"),
    ],
)
def test_depth_is_nan_where_the_rule_says_nothing(
    in_focus: list[int], undecided: list[int] | None, depth: float
) -> None:
    found = one_place([1, 2, 5, 2, 1], in_focus, undecided=undecided)
    np.testing.assert_equal(found[0], depth)
    assert (found[1] == 0) == np.isnan(depth)


@pytest.mark.parametrize(
    ("curve", "focus", "depth"),
    [
        pytest.param([9, 5, 1], [1, 0, 0], 0, id="peak-on-the-first-slice"),
        pytest.param([1, 5, 9], [0, 0, 0], np.nan, id="end-slice-not-in-focus"),
        pytest.param([3], [1], 0, id="one-slice"),
        pytest.param([4, 4, 4], [0, 1, 0], 1, id="flat"),
        pytest.param([0, 0, 0], [0, 1, 0], 1, id="zero"),
        pytest.param([0, 4, 0], [0, 1, 0], 1, id="zero-beside-the-peak"),
        pytest.param([1, 4, 4, 1], [0, 1, 1, 0], 1.5, id="two-slices-share-the-peak"),
        pytest.param([1, 4, 1000, 1], [0, 1, 0, 0], 1, id="peak-of-its-run-only"),
    ],
)
def test_depth_at_the_edge_of_what_can_be_said(
    curve: list[float], focus: list[int], depth: float
) -> None:
    found = one_place(curve, focus)
    np.testing.assert_allclose(found[0], depth, atol=1e-6)
    assert 0 <= found[1] <= 1


def test_depth_enlarged_keeps_nan_and_values() -> None:
    depth = np.array([[1, np.nan], [3, 4]], np.float32)
    pixels = DepthMap(depth, depth, depth).enlarge(4, (7, 6))
    assert pixels.shape == (7, 6)
    assert pixels.dtype == np.float32
    assert np.isnan(pixels[:4, 4:]).all()
    assert (pixels[4:, :4] == 3).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scores": np.ones((3, 4), np.float32)}, r"\(Z, By, Bx\)"),
        ({"scores": np.ones((0, 4, 4), np.float32)}, "at least one slice"),
        ({"scores": np.full((3, 2, 2), np.inf, np.float32)}, "finite"),
        ({"z_um": np.arange(4.0)}, r"of 3 slices, z_um has shape \(4,\)"),
        ({"z_um": np.array([0.0, 1.0, 1.0])}, "two slices have the same z"),
        ({"in_focus": np.zeros((3, 2, 1), bool)}, "in_focus is"),
        ({"undecided": np.zeros((2, 2, 2), bool)}, "undecided is"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    wrong: dict[str, Any], message: str
) -> None:
    good: dict[str, Any] = {
        "scores": np.ones((3, 2, 2), np.float32),
        "z_um": np.arange(3.0),
        "in_focus": np.zeros((3, 2, 2), bool),
        "undecided": np.zeros((3, 2, 2), bool),
    }
    with pytest.raises(ValueError, match=message):
        depth_map(**good | wrong)
