"""The ranking of focus measures: against truth where there is some, and where there is nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, signal

from deepfocus_live.focus import (
    PRESETS,
    MeasureRank,
    Ranking,
    _measures,
    focus_score_blocks,
    rank_measures,
)
from deepfocus_live.focus import _ranking as ranking_module
from deepfocus_live.focus._axial_curves import AxialCurves, NoiseEffect
from deepfocus_live.focus._texture import noise_counts_of
from deepfocus_live.simulation import Camera, FocalStack, simulate_focal_stack

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@cache
def organoids(electrons: float = 8000.0) -> FocalStack:
    """A simulated stack with focus at many depths; the fewer electrons, the noisier."""
    camera = Camera(electrons_at_white=electrons, gain=3200 / electrons)
    return simulate_focal_stack("organoids", shape=(9, 192, 192), camera=camera, seed=3)


def textured_stack(contrast: Sequence[float], *, noise: float = 5.0) -> NDArray[np.uint16]:
    """One texture in every slice, times the slice's contrast, with noise."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, (96, 128)), 2.0)
    texture *= 100 / texture.std()
    slices = [1000 + c * texture + rng.normal(0, noise, texture.shape) for c in contrast]
    return np.rint(slices).astype(np.uint16)


def real_stack(name: str) -> NDArray[Any]:
    """Read a stack of the shared folder, or skip the test."""
    path = DATA / f"{name}.ome.tif"
    if not path.exists():
        pytest.skip("the shared data are not here")
    import tifffile

    pixels: NDArray[Any] = tifffile.imread(path)
    return pixels


def named(ranking: Ranking, name: str) -> MeasureRank:
    """The rank of one measure."""
    (found,) = [rank for rank in ranking.measures if rank.measure == name]
    return found


def judged(ranking: Ranking) -> str:
    """Everything that a ranking says, but for the times."""
    measures = [replace(rank, ms_per_slice=0.0) for rank in ranking.measures]
    with np.printoptions(precision=17, threshold=10**6):
        return repr(replace(ranking, measures=tuple(measures)))


# --- the order, against the truth ---------------------------------------------------------


def true_hits(stack: FocalStack, measure: str) -> float:
    """Share of the places with something to see that a measure's best slice truly shows sharp."""
    z, height, width = stack.in_focus.shape
    blocks = stack.in_focus.reshape(z, height // 16, 16, width // 16, 16).mean(axis=(2, 4))
    scores = [
        focus_score_blocks(z_slice, measure=measure, windows_px=(32,), strides_px=(16,)).scores
        for z_slice in stack.slices
    ]
    best = np.argmax(scores, axis=0)[None]
    sharp = np.take_along_axis(blocks, best, axis=0)[0] > 0.5 * blocks.max(axis=0)
    return float(sharp[blocks.max(axis=0) > 0.2].mean())


def test_order_follows_the_truth_in_dim_light() -> None:
    stack = organoids(electrons=100.0)
    names = ["laplacian", "smd", "tenengrad"]
    ranking = rank_measures(stack.slices, measures=names)
    worst, middle, best = (named(ranking, name) for name in names)
    assert true_hits(stack, "laplacian") < true_hits(stack, "smd") < true_hits(stack, "tenengrad")
    assert worst.reliable < middle.reliable < best.reliable
    assert worst.noise_robustness < middle.noise_robustness < best.noise_robustness
    assert worst.false_peaks > best.false_peaks
    assert [rank.measure for rank in ranking.measures] == names[::-1]


def test_measures_of_detail_rank_above_entropy() -> None:
    ranking = rank_measures(organoids().slices, measures=["entropy", "std", "tenengrad"])
    assert [rank.measure for rank in ranking.measures] == ["tenengrad", "std", "entropy"]
    assert named(ranking, "tenengrad").sensitivity > named(ranking, "std").sensitivity


def test_noise_lowers_reliability_and_sensitivity_of_every_measure() -> None:
    names = ["brenner", "std", "tenengrad"]
    bright = rank_measures(organoids().slices, measures=names)
    dim = rank_measures(organoids(electrons=100.0).slices, measures=names)
    for name in names:
        assert named(dim, name).sensitivity < named(bright, name).sensitivity / 3
        assert named(dim, name).reliable <= named(bright, name).reliable


def test_a_measure_and_its_square_are_about_equal() -> None:
    ranking = rank_measures(organoids().slices, measures=["std", "variance"])
    std, variance = named(ranking, "std"), named(ranking, "variance")
    assert 0.7 < variance.sensitivity / std.sensitivity < 1.4
    assert variance.reliable == pytest.approx(std.reliable, abs=0.06)


def test_a_measure_that_opposes_the_others_repeats_but_is_not_reliable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    std = _measures.MEASURES["std"]

    def flatness(pixels: NDArray[Any], block_px: int) -> Callable[[int, int], NDArray[np.float64]]:
        of_windows = std.prepare(pixels, block_px)
        return lambda window, stride: 1 / (1 + of_windows(window, stride))

    upside_down = replace(std, name="flat", prepare=flatness)
    monkeypatch.setattr(_measures, "MEASURES", {**_measures.MEASURES, "flat": upside_down})
    one_peak = textured_stack([0.1, 0.3, 0.6, 1.0, 0.6, 0.3, 0.2])
    ranking = rank_measures(one_peak, measures=["flat", "std", "brenner"])
    assert ranking.measures[-1].measure == "flat"
    flat = named(ranking, "flat")
    assert (flat.noise_robustness, flat.inverted) == (1, 0)
    assert flat.reliable < 0.05 < 0.95 < named(ranking, "std").reliable


def fake_rank(name: str, reliable: float, sensitivity: float) -> MeasureRank:
    """A rank that has nothing but what the order is made of."""
    nothing = np.zeros(3)
    return MeasureRank(name, nothing, nothing, 1, reliable, sensitivity, 0.0, 1.0, 0.0, 1.0)


def test_even_measures_come_by_sensitivity_and_the_others_by_reliability() -> None:
    ranks = [
        fake_rank("worst", 0.3, 90.0),
        fake_rank("unknown", 0.99, float("nan")),
        fake_rank("most-reliable", 0.99, 5.0),
        fake_rank("behind", 0.9, 99.0),
        fake_rank("steepest", 0.95, 8.0),
    ]
    names = [rank.measure for rank in ranking_module._ordered(ranks)]
    assert names == ["steepest", "most-reliable", "unknown", "behind", "worst"]


# --- inversion ------------------------------------------------------------------------------

THROUGH_ZERO = (1.0, 0.9, 0.6, 0.3, 0.0, -0.3, -0.6, -0.9, -1.0)


def test_contrast_that_inverts_is_found_where_the_measure_has_its_minimum() -> None:
    ranking = rank_measures(textured_stack(THROUGH_ZERO), measures=["std", "brenner"])
    for rank in ranking.measures:
        assert rank.axial_curve.argmin() == 4
        assert rank.inverted > 0.95
        assert rank.reliable < 0.05
    assert ranking.inverts
    assert ranking.recommended in PRESETS
    assert "inverts through focus" in ranking.reason


def test_a_dip_between_two_equal_pictures_is_no_inversion() -> None:
    twice = rank_measures(textured_stack([abs(c) for c in THROUGH_ZERO]), measures=["std"])
    assert twice.measures[0].axial_curve.argmin() == 4
    assert twice.measures[0].inverted == 0
    assert twice.measures[0].false_peaks == 1
    assert not twice.inverts
    assert "further peaks" in twice.reason


def test_a_single_peak_neither_inverts_nor_repeats() -> None:
    once = rank_measures(textured_stack([0.1, 0.3, 0.6, 1.0, 0.6, 0.3, 0.1]), measures=["std"])
    (std,) = once.measures
    assert (std.best_z, std.inverted, std.false_peaks) == (3, 0, 0)
    assert std.reliable == std.noise_robustness == once.textured_share == 1
    assert std.axial_curve.min() == 0
    assert std.axial_curve.max() == std.axial_curve[3] == 1
    assert "nothing inverts" in once.reason


def test_yeast_inverts_and_organoids_do_not() -> None:
    yeast = rank_measures(real_stack("yeast"), measures=["std", "brenner"])
    assert yeast.inverts
    assert min(rank.inverted for rank in yeast.measures) > 0.5
    organoid = rank_measures(real_stack("organoid_A02")[:, 256:768, 256:768], measures=["std"])
    assert organoid.inverted < 0.03


# --- focus beyond the stack, and nothing at all -----------------------------------------------


def test_a_stack_that_ends_before_focus_is_told_to_go_on() -> None:
    ranking = rank_measures(textured_stack([0.2, 0.4, 0.6, 0.8, 1.0]), measures=["std"])
    assert ranking.at_ends == 1
    assert np.isnan(ranking.measures[0].sensitivity)
    assert ranking.reason.endswith("scan further")


def noise_of_a_camera() -> NDArray[np.uint16]:
    return np.random.default_rng(0).normal(1000, 30, (9, 128, 128)).astype(np.uint16)


def noise_shared_by_neighbours() -> NDArray[np.uint16]:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (9, 128, 128)), (0, 2, 2))
    counts: NDArray[np.uint16] = np.rint(1000 + 50 * noise / noise.std()).astype(np.uint16)
    return counts


@pytest.mark.parametrize(
    "z_stack",
    [
        pytest.param(np.zeros((5, 40, 50), np.uint8), id="zeros"),
        pytest.param(np.full((4, 64, 64), 65535, np.uint16), id="saturated"),
        pytest.param(np.full((3, 64, 64), 0.1, np.float32), id="constant-float"),
        pytest.param(noise_of_a_camera(), id="noise"),
        pytest.param(noise_shared_by_neighbours(), id="correlated-noise"),
        pytest.param(noise_of_a_camera()[:3, :16, :16], id="tiny"),
    ],
)
def test_where_there_is_no_signal_nothing_is_recommended(z_stack: NDArray[Any]) -> None:
    ranking = rank_measures(z_stack, measures=["std", "tenengrad"])
    assert ranking.recommended is None
    assert "too little signal" in ranking.reason
    assert ranking.textured_share == 0
    assert not ranking.inverts
    assert [rank.measure for rank in ranking.measures] == ["std", "tenengrad"]
    for rank in ranking.measures:
        assert np.isfinite(rank.axial_curve).all()
        assert np.isnan([rank.reliable, rank.noise_robustness, rank.inverted]).all()
        assert (rank.best_z is None) == (z_stack.min() == z_stack.max())


# --- how it is done ---------------------------------------------------------------------------


def test_a_lazy_stack_is_ranked_as_the_array_is() -> None:
    slices = organoids().slices
    told: list[int] = []
    lazy = rank_measures(
        (z_slice for z_slice in slices), measures=["std", "brenner"], on_slice=told.append
    )
    assert judged(lazy) == judged(rank_measures(slices, measures=["std", "brenner"]))
    assert told == list(range(9))


def test_slices_are_let_go_of() -> None:
    alive: list[weakref.ref[NDArray[Any]]] = []

    def slices() -> Iterator[NDArray[Any]]:
        for z_slice in textured_stack([0.2, 0.6, 1.0, 0.6, 0.2]):
            own = z_slice.copy()
            # The one before is the loop's own until the next has come.
            assert sum(kept() is not None for kept in alive) <= 1
            alive.append(weakref.ref(own))
            yield own
            del own

    rank_measures(slices(), measures=["std"])
    assert len(alive) == 5


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_noise_is_measured_beside_texture(dtype: str) -> None:
    rng = np.random.default_rng(0)
    clean = np.full((256, 256), 100.0)
    clean[:, 96:] += 20 * ndimage.gaussian_filter(rng.normal(0, 3, (256, 160)), 0.5)
    pixels = clean + rng.normal(0, 5, clean.shape)
    pixels = pixels if dtype == "float32" else np.rint(pixels)
    assert noise_counts_of(pixels.astype(dtype)) == pytest.approx(5, rel=0.1)


def test_only_places_above_the_noise_are_judged_by() -> None:
    z_stack = textured_stack([0.3, 0.6, 1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3], noise=50)
    z_stack[:, :, :64] = np.random.default_rng(1).normal(1000, 50, (9, 96, 64))
    ranking = rank_measures(z_stack, measures=["std"])
    assert ranking.noise_counts == pytest.approx(50, rel=0.15)
    assert 0.4 < ranking.textured_share < 0.65


@settings(max_examples=20, deadline=None)
@given(n_z=st.integers(3, 9), seed=st.integers(0, 2**16))
def test_noise_summed_up_slice_by_slice_is_that_of_the_whole_stack(n_z: int, seed: int) -> None:
    clean, first, second = np.random.default_rng(seed).normal(0, 1, (3, n_z, 4, 5)).astype("f4")
    effect = NoiseEffect((4, 5))
    for z in range(n_z):
        effect.add(z, clean[z], [first[z], second[z]])
    best = clean.argmax(axis=0)
    inside = (best > 0) & (best < n_z - 1)
    power = (first.astype(float) - second) ** 2 / 2
    near = [np.take_along_axis(power, (best + d)[None] % n_z, axis=0)[0] for d in (-1, 0, 1)]
    plain = np.sqrt(np.mean(near, axis=0))
    np.testing.assert_allclose(effect.counts_at_best[inside], plain[inside])
    np.testing.assert_array_equal(effect.best_z, [first.argmax(axis=0), second.argmax(axis=0)])


@settings(max_examples=60, deadline=None)
@given(n_z=st.integers(3, 25), seed=st.integers(0, 2**16))
def test_peaks_are_those_that_scipy_finds(n_z: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, 1, (n_z, 20)).cumsum(axis=0).astype(np.float32)
    curves = AxialCurves(scores)
    # Lower than all, so that the first and the last slice can be maxima.
    padded = np.pad(curves.risen, ((1, 1), (0, 0)), constant_values=-1)
    plain = [len(signal.find_peaks(curve, prominence=0.2)[0]) for curve in padded.T]
    assert curves.peaks().tolist() == plain


def test_false_peaks_of_a_flat_curve_are_none() -> None:
    assert AxialCurves(np.ones((5, 2), np.float32)).peaks().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("z_stack", "options", "words"),
    [
        pytest.param([], {}, "at least 3 slices, this stack has 0", id="no-slice"),
        pytest.param(np.ones((2, 32, 32), np.uint8), {}, "this stack has 2", id="two-slices"),
        pytest.param(np.ones((3, 8, 32), np.uint8), {}, r"\(8, 32\).*16 pixels", id="small"),
        pytest.param(
            [np.ones((32, 32), np.uint8), np.ones((32, 33), np.uint8)],
            {},
            r"slice 1 is \(32, 33\), the stack is \(32, 32\)",
            id="two-sizes",
        ),
        pytest.param(np.full((3, 32, 32), np.nan, np.float32), {}, "NaN", id="nan"),
        pytest.param(np.ones((3, 32, 32), np.int64), {}, "int64: convert", id="dtype"),
        pytest.param([], {"measures": ["sdt"]}, "'sdt': there is", id="unknown"),
        pytest.param([], {"measures": []}, "at least one", id="no-measure"),
        pytest.param([], {"measures": ["std", "std"]}, "named twice", id="twice"),
        pytest.param([], {"window_px": 8, "stride_px": 8}, "16 px", id="narrow"),
        pytest.param([], {"stride_px": 2}, "stride of at least 4", id="dense"),
        pytest.param([], {"stride_px": 24}, "no multiple", id="no-multiple"),
    ],
)
def test_bad_input_is_told_what_is_wrong(z_stack: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rank_measures(z_stack, **{"measures": ["std"], **options})
