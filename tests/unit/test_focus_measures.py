"""Each focus measure against its plain twin, its equation, and the relations it keeps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfocus_live.focus import MEASURES, focus_score_map
from deepfocus_live.focus._entropy import grey_levels
from tests import naive

ALL = sorted(MEASURES)
DTYPES = ["uint8", "uint16", "float32"]
ALONG_X_ONLY = {"brenner", "vollath"}
# How far a pixel's filter answer may be off, as a share of the slice's range.
FILTER_ERROR = 1e-6

sides = st.integers(1, 40)
window_sets = st.lists(st.integers(2, 36), min_size=1, max_size=2, unique=True)
stride_sets = st.lists(st.integers(2, 40), min_size=1, max_size=3, unique=True)


def some_slice(shape: tuple[int, int], dtype: str, seed: int) -> NDArray[Any]:
    """Noise over the whole range of `dtype`, both ends reached, with a flat corner."""
    pixels = np.random.default_rng(seed).random(shape)
    pixels[: shape[0] // 2, : shape[1] // 2] = 0.5
    pixels.flat[0], pixels.flat[-1] = 0, 1
    if dtype == "float32":
        return (1000 * (pixels - 0.3)).astype(np.float32)
    return np.rint(pixels * np.iinfo(dtype).max).astype(dtype)


def one_window(z_slice: NDArray[Any], measure: str) -> float:
    """Score the slice as one window."""
    side = max(2, *z_slice.shape)
    scores = focus_score_map(z_slice, measure=measure, windows_px=(side,), strides_px=(side,))
    return float(scores[0, 0])


def texture(sigma: float) -> NDArray[np.uint16]:
    """Return the same noise, blurred by `sigma` px."""
    ndimage = pytest.importorskip("scipy.ndimage")
    noise = np.random.default_rng(0).integers(0, 65536, (96, 80)).astype(np.float64)
    blurred: NDArray[np.uint16] = np.rint(ndimage.gaussian_filter(noise, sigma)).astype(np.uint16)
    return blurred


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"std"}))
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(sides, sides),
    dtype=st.sampled_from(DTYPES),
    windows_px=window_sets,
    strides_px=stride_sets,
    overlap=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 2**16),
)
@example((1, 1), "uint16", [4], [2], "mean", 0)
@example((1, 30), "uint16", [8], [4], "sum", 1)
@example((30, 2), "float32", [8], [6], "mean", 2)
@example((33, 40), "uint16", [16], [4, 16, 8], "mean", 3)
@example((40, 37), "uint8", [4], [10], "sum", 4)
@example((40, 37), "float32", [6], [6, 2], "sum", 5)
def test_every_measure_equals_its_plain_twin(
    measure: str,
    shape: tuple[int, int],
    dtype: str,
    windows_px: list[int],
    strides_px: list[int],
    overlap: Any,
    seed: int,
) -> None:
    z_slice = some_slice(shape, dtype, seed)
    options: dict[str, Any] = {
        "measure": measure,
        "windows_px": windows_px,
        "strides_px": strides_px,
        "overlap": overlap,
    }
    fast = focus_score_map(z_slice, **options)
    plain = naive.focus_score_map(z_slice, **options)
    assert fast.dtype == np.float32
    assert fast.shape == shape
    extent = float(z_slice.max()) - float(z_slice.min())
    tolerance = 1e-9 + 1e-12 * extent**2
    if measure == "laplacian_of_gaussian":
        tolerance = 2 * FILTER_ERROR * extent**2
    elif dtype == "float32" and measure != "entropy":
        tolerance = 1e-6 * extent**2
    cover = 1 if overlap == "mean" else np.prod([-(-max(windows_px) // min(strides_px))] * 2)
    np.testing.assert_allclose(fast, plain, rtol=2e-6, atol=tolerance * cover)


@pytest.mark.parametrize("measure", ALL)
def test_windows_of_the_paper_s_size_hold_the_extremes_of_uint16(measure: str) -> None:
    z_slice = np.random.default_rng(0).choice(np.array([0, 65535], np.uint16), (150, 140))
    z_slice[:, ::2] = 65535 - z_slice[:, 1::2]
    z_slice[20:60] = np.random.default_rng(1).integers(0, 4096, (40, 140))
    options: dict[str, Any] = {"windows_px": [128], "strides_px": [64], "overlap": "mean"}
    fast = focus_score_map(z_slice, measure=measure, **options)
    plain = naive.focus_score_map(z_slice, measure=measure, **options)
    np.testing.assert_allclose(fast, plain, rtol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("measure", ALL)
def test_a_flat_field_scores_exactly_zero_at_any_brightness(measure: str, dtype: str) -> None:
    for level in (0, 1, 137, 255) if dtype == "uint8" else (0, 3, 4097, 65535):
        z_slice = np.full((37, 51), level, dtype)
        assert not focus_score_map(z_slice, measure=measure, windows_px=(12,)).any()
    if dtype == "float32":
        z_slice = np.full((37, 51), -1234567.9, np.float32)
        assert not focus_score_map(z_slice, measure=measure, windows_px=(12,)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("measure", ALL)
def test_a_flat_part_beside_texture_scores_exactly_zero(measure: str, dtype: str) -> None:
    z_slice = np.full((64, 128), 201, dtype)
    z_slice[:, 64:] = some_slice((128, 128), dtype, 0)[64:, 64:]
    scores = focus_score_map(z_slice, measure=measure, windows_px=(16,), strides_px=(8,))
    assert not scores[:, :40].any()
    assert scores[:, 80:].all()


@pytest.mark.parametrize("measure", ALL)
def test_scores_fall_as_blur_grows(measure: str) -> None:
    scores = [
        focus_score_map(texture(sigma), measure=measure, windows_px=(48,), strides_px=(24,))
        for sigma in (0.7, 1.4, 2.8, 5.6)
    ]
    for sharper, softer in itertools.pairwise(scores):
        assert (sharper > softer).all()


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"entropy"}))
def test_a_camera_s_offset_changes_nothing(measure: str) -> None:
    z_slice = np.random.default_rng(0).integers(0, 256, (50, 60)).astype(np.uint16)
    scores, brighter = (focus_score_map(s, measure=measure) for s in (z_slice, z_slice + 60000))
    np.testing.assert_array_equal(brighter, scores)
    brighter = focus_score_map(z_slice.astype(np.float32) + 60000, measure=measure)
    np.testing.assert_allclose(brighter, scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - ALONG_X_ONLY))
def test_scores_are_transposed_with_the_slice(measure: str) -> None:
    z_slice = some_slice((45, 70), "uint16", 1)
    scores, across = (
        focus_score_map(s, measure=measure, windows_px=(16,), strides_px=(8, 12))
        for s in (z_slice, z_slice.T)
    )
    np.testing.assert_allclose(across, scores.T, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - ALONG_X_ONLY - {"smd", "smd2"}))
def test_scores_are_flipped_with_the_slice(measure: str) -> None:
    z_slice = some_slice((48, 80), "uint16", 1)
    scores, flipped = (
        focus_score_map(s, measure=measure, windows_px=(16,), strides_px=(16,))
        for s in (z_slice, z_slice[::-1, ::-1])
    )
    np.testing.assert_allclose(flipped[::-1, ::-1], scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("measure", "score"),
    [
        ("laplacian", 0),
        ("tenengrad", 64 * (7**2 + 3**2)),
        ("smd", 7 + 3),
        ("smd2", 7 * 3),
        ("brenner", 14**2),
        ("vollath", (14**2 - 7**2) / 2),
        ("laplacian_of_gaussian", 0),
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_ramp_scores_the_same_everywhere_to_the_very_border(
    measure: str, score: float, dtype: str
) -> None:
    y, x = np.mgrid[:40, :50]
    z_slice = (100 + 7 * x + 3 * y).astype(dtype)
    scores = focus_score_map(z_slice, measure=measure, windows_px=(4,), strides_px=(2,))
    np.testing.assert_allclose(scores, score, rtol=1e-6, atol=1e-6)


def test_vollath_is_f4_less_what_only_the_window_s_rim_adds() -> None:
    z_slice = some_slice((20, 32), "uint16", 5)
    wide = np.pad(z_slice.astype(float), ((0, 0), (0, 2)), mode="wrap")
    at, next1, next2 = wide[:, :-2], wide[:, 1:-1], wide[:, 2:]
    f4 = (at * next1).mean() - (at * next2).mean()
    # Along a ring nothing is rim; ours of three turns is theirs of one, but for the ends.
    scores = focus_score_map(
        np.tile(z_slice, 3), measure="vollath", windows_px=(32,), strides_px=(32,)
    )
    mean_of_rows = float(scores[:20, 32:64].mean())
    assert mean_of_rows == pytest.approx(f4, rel=1e-6)


def test_laplacian_of_gaussian_is_the_one_of_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    z_slice = some_slice((64, 64), "uint16", 2)
    # Without its mean: scipy's taps do not quite cancel on a flat field.
    answer = ndimage.gaussian_laplace(z_slice - z_slice[32:48, 32:48].mean(), 1.0, truncate=3.0)
    scores = focus_score_map(
        z_slice, measure="laplacian_of_gaussian", windows_px=(16,), strides_px=(16,)
    )
    assert scores[32, 32] == pytest.approx((answer[32:48, 32:48] ** 2).mean(), rel=0.02)


def test_entropy_counts_bits() -> None:
    assert one_window(np.arange(256, dtype=np.uint8).reshape(16, 16), "entropy") == 8
    assert one_window(np.array([[3, 5], [5, 3]], np.uint8), "entropy") == 1
    assert one_window(np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), "entropy") == 1


def test_entropy_s_levels_of_uint16_are_whole_roots() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    levels, n_levels = grey_levels(every)
    assert n_levels == 1024
    assert levels.ravel().tolist() == [math.isqrt(16 * value) for value in range(65536)]


def test_entropy_holds_counts_above_its_table() -> None:
    z_slice = np.zeros((200, 200), np.uint16)
    z_slice[:100] = 1000
    z_slice[:50, :100] = 50
    scores = one_window(z_slice, "entropy")
    assert scores == pytest.approx(0.5 * 1 + 0.375 * math.log2(8 / 3) + 0.125 * 3, rel=1e-6)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_wherever_they_are(measure: str, value: float) -> None:
    for place in ((0, 0), (9, 11), (5, 0)):
        z_slice = np.ones((10, 12), np.float32)
        z_slice[place] = value
        with pytest.raises(ValueError, match="NaN or infinity"):
            focus_score_map(z_slice, measure=measure, windows_px=(4,))


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"entropy", "std", "smd"}))
@pytest.mark.parametrize("brightest", [1e30, 3e38])
def test_scores_beyond_float32_are_refused(measure: str, brightest: float) -> None:
    z_slice = (brightest * (2 * some_slice((20, 24), "uint8", 0) / 255 - 1)).astype(np.float32)
    with pytest.raises(ValueError, match="beyond float32"):
        focus_score_map(z_slice, measure=measure, windows_px=(4,), strides_px=(2,))


@pytest.mark.parametrize("measure", ALL)
def test_every_measure_says_what_it_is(measure: str) -> None:
    entry = MEASURES[measure]
    assert entry.name == measure
    assert entry.equation
    assert entry.unit.startswith(("counts", "bits"))
    assert entry.source
