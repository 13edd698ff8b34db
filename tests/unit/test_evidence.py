"""What the consensus preset measures: of a slice; of a stack its drift, noise and inversion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live.focus._drift import measure_drift
from deepfocus_live.focus._evidence import CONTRAST_SPREAD, DETAIL_SPREAD, slice_evidence
from deepfocus_live.focus._inversion import CELL_BLOCKS, Inversion, find_inversion
from deepfocus_live.focus._noise import measure_noise
from deepfocus_live.simulation import simulate_focal_stack
from tests import naive_evidence

RISE = 0.63


def evidence_of(z_stack: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    return np.stack([getattr(slice_evidence(z_slice), name) for z_slice in z_stack])


def texture(shape: tuple[int, int], sigma_px: float, seed: int = 0) -> NDArray[np.float64]:
    """Return blurred white noise of mean 0 and variance 1."""
    white = np.random.default_rng(seed).normal(size=shape)
    plane: NDArray[np.float64] = ndimage.gaussian_filter(white, sigma_px)
    plane -= plane.mean()
    plane /= plane.std()
    return plane


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    grain_px=st.integers(1, 3),
    top=st.sampled_from([1, 60, 255, 4095, 65535]),
    seed=st.integers(0, 2**16),
)
@example((1, 1), "uint16", 2, 65535, 0)
@example((1, 67), "float32", 2, 65535, 1)
@example((65, 70), "uint16", 2, 65535, 2)
@example((64, 48), "uint8", 2, 255, 3)
@example((33, 37), "float32", 3, 4095, 4)
def test_fast_scan_equals_its_plain_twin(
    shape: tuple[int, int], dtype: str, grain_px: int, top: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    top = min(top, 255) if dtype == "uint8" else top
    z_slice = rng.integers(rng.integers(0, top + 1), top + 1, shape).astype(dtype)
    fast = slice_evidence(z_slice, grain_px)
    for name, plain in naive_evidence.slice_evidence(z_slice, grain_px).items():
        values = getattr(fast, name)
        assert values.shape == plain.shape, name
        assert values.dtype == (np.float16 if name == "high_pass" else np.float32), name
        # Squares round, see the module's notes.
        scale = float(z_slice.max()) - float(z_slice.min()) + 1e-3 * top
        rtol, atol = 3e-6, 2.0**-21 * scale**2
        if name in ("mean", "brightest"):
            atol = 1e-6 * top
        if name == "high_pass":  # float16 keeps 11 bits
            plain = np.clip(plain, -60000, 60000)
            rtol, atol = 1e-3, 2e-7 * top + 1e-7
        np.testing.assert_allclose(values, plain, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("grain_px", [1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "count"),
    [
        ("uint8", 0),
        ("uint8", 201),
        ("uint16", 1),
        ("uint16", 40011),
        ("uint16", 65535),
        ("float32", 0.1),
        ("float32", 12345.678),
        ("float32", -7e8),
    ],
)
def test_flat_field_has_exactly_no_contrast(dtype: str, count: float, grain_px: int) -> None:
    flat = slice_evidence(np.full((45, 70), count, dtype), grain_px)
    for values in (flat.contrast, flat.detail, flat.high_pass):
        assert not values.any()
    for values in (flat.mean, flat.brightest):
        assert (values == np.float32(count)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    z_slice = np.ones((40, 50), np.float32)
    z_slice[33, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        slice_evidence(z_slice)


def test_what_float32_cannot_hold_is_refused() -> None:
    z_slice = np.ones((40, 50), np.float32)
    z_slice[33, 7] = 3e25
    with pytest.raises(ValueError, match="beyond float32"):
        slice_evidence(z_slice)


def test_white_noise_has_as_much_contrast_as_detail_with_the_stated_spread() -> None:
    noise = np.random.default_rng(0).normal(1000, 20, (640, 640)).astype(np.float32)
    seen = slice_evidence(noise)
    inner = np.s_[2:-2, 2:-2]
    for values, spread in ((seen.contrast, CONTRAST_SPREAD), (seen.detail, DETAIL_SPREAD)):
        # A grain is the mean of 4 pixels. Contrast is taken from the window's own mean.
        assert values[inner].mean() == pytest.approx(20**2 / 4, rel=0.03)
        assert values[inner].std() / values[inner].mean() == pytest.approx(spread, rel=0.12)


def test_brighter_by_a_factor_is_more_contrast_by_its_square() -> None:
    z_slice = (1000 + 100 * texture((130, 200), 2)).astype(np.float32)
    once, thrice = slice_evidence(z_slice), slice_evidence(3 * z_slice)
    np.testing.assert_allclose(thrice.contrast, 9 * once.contrast, rtol=1e-4)
    np.testing.assert_allclose(thrice.detail, 9 * once.detail, rtol=1e-4)


@pytest.mark.parametrize("flicker", [0.0, 0.2], ids=["steady", "flickering"])
@pytest.mark.parametrize("noise", [0.0, 30.0], ids=["quiet", "noisy"])
@pytest.mark.parametrize(
    "step_px",
    [(0.0, 0.0), (1.3, -0.6), (3.7, 2.2), (-9.4, 5.1), (17.5, -26.3)],
    ids=str,
)
def test_known_drift_is_measured(
    step_px: tuple[float, float], noise: float, flicker: float
) -> None:
    rng = np.random.default_rng(3)
    scene = 1000 + 150 * texture((640, 720), 6) + 60 * texture((640, 720), 2, seed=1)
    places = np.arange(5)[:, None] * np.array(step_px)
    z_stack = np.stack(
        [ndimage.shift(scene, place, order=1)[130:-130, 130:-130] for place in places]
    )
    z_stack *= 1 + flicker * rng.uniform(-1, 1, (5, 1, 1))
    z_stack += noise * rng.normal(size=z_stack.shape)
    found = measure_drift(evidence_of(z_stack.astype(np.float32), "mean"), 8)
    assert found.shape == (5, 2)
    assert not found[0].any()
    allowed = 0.5 if not any(step_px) else 1.5
    assert np.abs(np.diff(found - places, axis=0)).max() < allowed


def test_still_simulated_stack_does_not_drift() -> None:
    z_stack = simulate_focal_stack(shape=(7, 256, 320), seed=2).slices
    assert np.abs(measure_drift(evidence_of(z_stack, "mean"), 8)).max() < 0.5


def test_noise_has_no_drift() -> None:
    z_stack = np.random.default_rng(0).normal(1000, 50, (4, 256, 256)).astype(np.float32)
    assert not measure_drift(evidence_of(z_stack, "mean"), 8).any()


def inversion_of(z_stack: NDArray[np.float32], sigma: float) -> Inversion:
    variance = sigma**2 / 4  # of a grain
    signal = np.maximum(evidence_of(z_stack, "contrast") - np.float32(variance), 0)
    high_pass = [slice_evidence(z_slice).high_pass for z_slice in z_stack]
    return find_inversion(high_pass, signal, noise=variance / 4, rise=RISE)


@pytest.mark.parametrize("focus", [4, 6])
def test_pattern_that_changes_its_sign_is_found_with_its_focus(focus: int) -> None:
    rng = np.random.default_rng(1)
    pattern = np.zeros((256, 320))
    pattern[:, :160] = texture((256, 160), 5)
    sign = (np.arange(11) - focus) / 4
    z_stack = 1000 + 100 * sign[:, None, None] * pattern + 8 * rng.normal(size=(11, 256, 320))
    found = inversion_of(z_stack.astype(np.float32), 8)
    half = 160 // (8 * CELL_BLOCKS)
    assert found.inverted[:, : half - 1].mean() > 0.95
    # Correlations are taken with the neighbouring cells, contrast by windows.
    assert not found.inverted[:, half + 2 :].any()
    assert found.share > 0.8
    inside = found.in_focus[:, :, : half - 1][:, found.inverted[:, : half - 1]]
    assert inside[focus].mean() > 0.9
    assert inside[[focus - 3, focus + 3]].mean() < 0.05


def test_defocused_specimen_does_not_invert() -> None:
    z_stack = simulate_focal_stack(shape=(11, 256, 320), seed=2).slices.astype(np.float32)
    assert inversion_of(z_stack, 20).share < 0.02


def test_noise_does_not_invert() -> None:
    z_stack = np.random.default_rng(0).normal(1000, 50, (9, 256, 256)).astype(np.float32)
    assert not inversion_of(z_stack, 50).inverted.any()


@pytest.mark.parametrize("specimen", [0.0, 0.33], ids=["empty", "third-full"])
def test_noise_is_measured_by_brightness(specimen: float) -> None:
    rng = np.random.default_rng(5)
    height, width, gain, read = 384, 480, 2.0, 6.0
    light = np.broadcast_to(np.linspace(200, 3000, width), (height, width)).copy()
    full = int(specimen * height)
    light[:full] *= 1 + 0.3 * np.clip(texture((height, width), 2)[:full], -3, 3)
    z_stack = gain * rng.poisson(light / gain, (5, height, width)) + read * rng.normal(
        size=(5, height, width)
    )
    z_stack = (z_stack + 100).round().clip(0).astype(np.uint16)
    model = measure_noise(evidence_of(z_stack, "detail"), evidence_of(z_stack, "mean"))
    assert (np.diff(model.brightness) > 0).all()
    levels = np.linspace(500, 2700, 8).astype(np.float32)
    expected = (gain * levels + read**2) / 4
    np.testing.assert_allclose(model.at(levels + 100), expected, rtol=0.15)


def test_noise_model_interpolates_and_ends_flat() -> None:
    mean = np.random.default_rng(0).uniform(0, 4000, (3, 20, 30)).astype(np.float32)
    detail = np.random.default_rng(1).uniform(50, 90, (3, 20, 30)).astype(np.float32)
    model = measure_noise(detail, mean)
    assert model.at(mean).shape == mean.shape
    expected = np.interp(mean, model.brightness, model.variance)
    np.testing.assert_allclose(model.at(mean), expected, rtol=1e-5)


def test_flat_noiseless_stack_has_almost_no_noise() -> None:
    flat = np.full((3, 1, 1), 700, np.float32)
    model = measure_noise(np.zeros_like(flat), flat)
    assert (0 < model.at(flat)).all()
    assert (model.at(flat) < 1e-30).all()
