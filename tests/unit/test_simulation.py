"""Simulated stacks obey the optics that they claim, and their truth is true."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live.errors import InputError
from deepfocus_live.simulation import (
    SPECIMENS,
    Camera,
    Field,
    FixedPattern,
    FocalStack,
    Optics,
    Structure,
    demo_stack,
    focus_tolerance_um,
    simulate_focal_stack,
    varied_focal_stack,
)

SMALL = (7, 96, 112)
QUIET = Camera(
    bit_depth=16, offset=0.0, electrons_at_white=1e9, read_noise_e=0.0, gain=5e-5
)  # white at 50 000 counts, with no noise to speak of


def only(monkeypatch: pytest.MonkeyPatch, *structures: Structure) -> None:
    """Make a specimen called "it" of these structures."""

    def it(field: Field) -> Iterator[Structure]:
        yield from structures

    monkeypatch.setattr("deepfocus_live.simulation._render.SPECIMENS", {"it": it})


def patch(density: NDArray[Any], depth_um: float, at: tuple[int, int] = (90, 90)) -> Structure:
    return Structure(at, density.astype(np.float32), np.full(density.shape, depth_um, np.float32))


def checkerboard(side: int = 40, square: int = 3) -> NDArray[np.float32]:
    y, x = np.mgrid[:side, :side] // square
    squares: NDArray[np.float32] = (0.3 * ((y + x) % 2)).astype(np.float32)
    return squares


def sharpness(image: NDArray[Any]) -> NDArray[np.float64]:
    """Squared Laplacian, smoothed: high where there is fine detail."""
    fine = ndimage.laplace(image.astype(np.float64) / image.mean())
    smoothed: NDArray[np.float64] = ndimage.gaussian_filter(fine**2, 3)
    return smoothed


@pytest.mark.parametrize("contrast", ["transmitted", "fluorescence", "phase"])
@pytest.mark.parametrize("specimen", SPECIMENS)
def test_every_specimen_gives_slices_and_truth_of_one_shape(specimen: str, contrast: Any) -> None:
    stack = simulate_focal_stack(specimen, shape=SMALL, z_step_um=4.0, contrast=contrast)
    assert stack.slices.shape == stack.in_focus.shape == SMALL
    assert stack.slices.dtype == np.uint16
    assert stack.in_focus.dtype == np.bool_
    assert stack.depth_um.shape == SMALL[1:]
    assert stack.depth_um.dtype == np.float32
    np.testing.assert_allclose(stack.z_um, 4.0 * np.arange(7))
    assert (stack.z_step_um, stack.pixel_size_um) == (4.0, Optics().pixel_size_um)
    # Something is in focus only where there is something.
    assert not (stack.in_focus.any(axis=0) & np.isnan(stack.depth_um)).any()
    assert stack.in_focus.any() == (specimen != "empty")


def test_one_seed_gives_one_stack_and_another_seed_another() -> None:
    first, again, other = (simulate_focal_stack(shape=SMALL, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.slices, again.slices)
    np.testing.assert_array_equal(first.in_focus, again.in_focus)
    assert not np.array_equal(first.slices, other.slices)


def test_another_camera_looks_at_the_same_specimen() -> None:
    bright = simulate_focal_stack(shape=SMALL, seed=1)
    dim = simulate_focal_stack(shape=SMALL, seed=1, camera=Camera(electrons_at_white=500.0))
    np.testing.assert_array_equal(bright.in_focus, dim.in_focus)
    assert not np.array_equal(bright.slices, dim.slices)


def test_sharpness_falls_as_the_slice_leaves_the_true_depth() -> None:
    stack = simulate_focal_stack("tilted_sheet", shape=(11, 160, 160), camera=QUIET, vignetting=0)
    away = np.abs(stack.z_um[:, None, None] - stack.depth_um)
    sharp = np.stack([sharpness(z_slice) for z_slice in stack.slices])
    steps = [(0, 3), (3, 7), (7, 12), (12, 20), (20, 40)]
    means = [sharp[(away >= low) & (away < high)].mean() for low, high in steps]
    assert all(nearer > 1.5 * farther for nearer, farther in pairwise(means))


def test_the_truth_of_one_layer_is_exactly_the_slices_within_tolerance() -> None:
    stack = simulate_focal_stack("tilted_sheet", shape=(9, 128, 128), z_step_um=3.0)
    tolerance = focus_tolerance_um(Optics(), 3.0)
    assert tolerance == Optics().depth_of_field_um / 2
    near = np.abs(stack.z_um.astype(np.float32)[:, None, None] - stack.depth_um) <= tolerance
    seen = ~np.isnan(stack.depth_um)
    assert seen.mean() > 0.95
    np.testing.assert_array_equal(stack.in_focus[:, seen], near[:, seen])


def test_with_a_coarse_step_every_depth_within_the_scan_is_in_focus_somewhere() -> None:
    stack = simulate_focal_stack("tilted_sheet", shape=(5, 128, 128), z_step_um=30.0)
    within = (stack.depth_um >= 0) & (stack.depth_um <= stack.z_um[-1])
    assert within.any()
    assert stack.in_focus[:, within].any(axis=0).all()


def test_a_flat_object_is_sharpest_at_its_depth_and_its_truth_area_peaks_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, patch(checkerboard(), depth_um=18.0))
    stack = simulate_focal_stack("it", shape=SMALL, z_step_um=6.0, camera=QUIET, vignetting=0)
    score = [float(sharpness(z_slice).sum()) for z_slice in stack.slices]
    assert score[0] < score[1] < score[2] < score[3] > score[4] > score[5] > score[6]
    # The same distance above and below blurs the same.
    np.testing.assert_allclose(score[2], score[4], rtol=1e-3)
    area = stack.in_focus.sum(axis=(1, 2))
    assert np.argmax(area) == 3
    np.testing.assert_array_equal(area > 0, [0, 0, 0, 1, 0, 0, 0])
    assert set(stack.depth_um[~np.isnan(stack.depth_um)]) == {18.0}
    # Centre of the patch; the view begins 64 pixels into the field.
    assert stack.in_focus[3, 90 + 20 - 64, 90 + 20 - 64]


def test_a_smooth_shadow_is_never_in_focus(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[-60:61, -60:61]
    shadow = 0.8 * np.exp(-(y**2 + x**2) / (2 * 20**2))
    only(monkeypatch, patch(shadow, depth_um=18.0, at=(50, 50)))
    stack = simulate_focal_stack("it", shape=SMALL)
    assert stack.slices.min() < 0.5 * stack.slices.max()
    assert not stack.in_focus.any()
    assert np.isnan(stack.depth_um).all()


def test_of_two_things_above_each_other_each_has_its_own_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faint = 0.5 * checkerboard(square=2)
    only(monkeypatch, patch(checkerboard(), 6.0), patch(faint, 30.0))
    stack = simulate_focal_stack("it", shape=SMALL, z_step_um=6.0)
    np.testing.assert_array_equal(stack.in_focus.any(axis=(1, 2)), [0, 1, 0, 0, 0, 1, 0])
    # The depth is that of the one with more detail.
    assert stack.depth_um[46, 46] == 6.0


def test_defocus_spreads_light_but_keeps_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, patch(np.full((4, 4), 0.8), 0.0, at=(110, 112)))
    stack = simulate_focal_stack(
        "it", shape=(4, 96, 96), contrast="fluorescence", camera=QUIET, vignetting=0
    )
    total = stack.slices.sum(axis=(1, 2), dtype=np.float64)
    peak = stack.slices.max(axis=(1, 2))
    np.testing.assert_allclose(total, total[0], rtol=2e-3)
    assert (np.diff(peak.astype(int)) < 0).all()


def test_matter_darkens_transmitted_light_and_shines_in_fluorescence() -> None:
    def middle_and_extremes(stack: FocalStack) -> tuple[float, float, float]:
        pixels = stack.slices.astype(float)
        return float(np.median(pixels)), float(pixels.min()), float(pixels.max())

    median, darkest, brightest = middle_and_extremes(simulate_focal_stack(shape=SMALL, seed=2))
    assert median - darkest > 2 * (brightest - median)
    median, darkest, brightest = middle_and_extremes(
        simulate_focal_stack(shape=SMALL, seed=2, contrast="fluorescence")
    )
    assert brightest - median > 2 * (median - darkest)


def test_the_ramp_scales_the_slices_and_vignetting_darkens_the_corners() -> None:
    def lit(**options: Any) -> NDArray[np.uint16]:
        return simulate_focal_stack("empty", shape=SMALL, camera=QUIET, **options).slices

    even = lit(vignetting=0.0)
    assert np.ptp(even) < 0.01 * even.mean()
    ramp = lit(vignetting=0.0, brightness_ramp=(0.5, 1.0)).mean(axis=(1, 2))
    np.testing.assert_allclose(ramp / ramp[-1], np.linspace(0.5, 1.0, 7), rtol=1e-3)
    dark = lit(vignetting=0.3)[0].astype(float)
    corners = dark[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners.min() / dark.max(), 0.7, rtol=1e-2)


def test_camera_noise_is_shot_noise_plus_read_noise_over_an_offset() -> None:
    camera = Camera(offset=200.0, electrons_at_white=1000.0, read_noise_e=5.0, gain=2.0)
    rng = np.random.default_rng(0)
    dark = camera.expose(np.zeros((300, 300), np.float32), rng).astype(float)
    white = camera.expose(np.ones((300, 300), np.float32), rng).astype(float)
    np.testing.assert_allclose(dark.mean(), 200.0, atol=0.5)
    np.testing.assert_allclose(dark.std(), 2 * 5.0, rtol=0.03)
    np.testing.assert_allclose(white.mean(), 200 + 2 * 1000, rtol=0.01)
    np.testing.assert_allclose(white.std(), 2 * np.sqrt(1000 + 25), rtol=0.03)


def test_counts_end_at_the_bit_depth() -> None:
    camera = Camera(bit_depth=8, offset=0.0, gain=1.0, electrons_at_white=400.0)
    counts = camera.expose(np.ones((20, 20), np.float32), np.random.default_rng(0))
    assert counts.dtype == np.uint16
    assert counts.max() == 255


def test_depth_of_field_shrinks_with_aperture_and_blur_grows_with_it() -> None:
    low, high = Optics(numerical_aperture=0.2), Optics(numerical_aperture=0.6)
    assert low.depth_of_field_um > high.depth_of_field_um
    np.testing.assert_allclose(low.depth_of_field_um, 0.55 / 0.04 + 0.65 / 0.2)
    assert low.blur_radius_px(10.0) < high.blur_radius_px(10.0)
    # tan(asin(0.6)) = 3/4
    np.testing.assert_allclose(high.blur_radius_px(-10.0), 7.5 / 0.65)
    assert 0 < high.blur_sigma_px(0.0) < high.blur_sigma_px(5.0) < high.blur_sigma_px(10.0)


def test_the_transfer_function_is_a_point_spread_of_unit_sum_that_widens() -> None:
    optics = Optics()
    frequency = np.linspace(0, 0.7, 500, dtype=np.float32)
    power = []
    for defocus_um in (0.0, 3.0, 10.0, 40.0):
        transfer = optics.transfer(frequency, defocus_um)
        assert transfer[0] == pytest.approx(1.0)
        assert np.abs(transfer).max() <= 1.0 + 1e-6
        np.testing.assert_array_equal(transfer, optics.transfer(frequency, -defocus_um))
        power.append(float((transfer**2).sum()))
    assert power[0] > power[1] > power[2] > power[3]


def test_a_single_slice_and_a_tiny_field_can_be_simulated() -> None:
    assert simulate_focal_stack("organoids", shape=(1, 1, 1)).slices.shape == (1, 1, 1)


def test_focus_wanders_through_the_demos_field() -> None:
    stack = demo_stack(shape=(15, 256, 256))
    assert stack.in_focus[1:-1].any(axis=(1, 2)).all()
    early = np.array(ndimage.center_of_mass(stack.in_focus[:5].sum(axis=0)))
    late = np.array(ndimage.center_of_mass(stack.in_focus[-5:].sum(axis=0)))
    assert np.hypot(*(late - early)) > 256 / 4
    # No slice shows all of it.
    whole = stack.in_focus.any(axis=0).sum()
    assert stack.in_focus.sum(axis=(1, 2)).max() < 0.6 * whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"specimen": "organoid"}, "Did you mean 'organoids'", id="specimen"),
        pytest.param({"contrast": "DIC"}, "no contrast 'DIC'", id="contrast"),
        pytest.param({"refraction": -0.1}, "refraction is -0.1", id="refraction"),
        pytest.param({"ring": 1.1}, "ring is 1.1", id="ring"),
        pytest.param({"shape": (5, 0, 64)}, "shape is", id="shape"),
        pytest.param({"z_step_um": 0.0}, "z-step is 0.0", id="z-step"),
        pytest.param({"brightness_ramp": (-1.0, 1.0)}, "brightness ramp", id="ramp"),
        pytest.param({"vignetting": 1.5}, "vignetting is 1.5", id="vignetting"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        simulate_focal_stack(**({"shape": SMALL} | options))
    assert "\n" not in str(refusal.value)


def test_impossible_instruments_are_refused() -> None:
    with pytest.raises(InputError, match="no such objective"):
        Optics(numerical_aperture=1.2)
    with pytest.raises(InputError, match="pixel_size_um"):
        Optics(pixel_size_um=0.0)
    with pytest.raises(InputError, match="bit_depth"):
        Camera(bit_depth=20)
    with pytest.raises(InputError, match="read_noise_e"):
        Camera(read_noise_e=-1.0)
    with pytest.raises(InputError, match="stripes"):
        FixedPattern(stripes=-0.1)


def test_refraction_shows_nothing_in_focus_and_inverts_on_either_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, patch(checkerboard(square=4), depth_um=12.0))

    def signal(refraction: float) -> NDArray[np.float64]:
        stack = simulate_focal_stack(
            "it", shape=(5, 96, 96), camera=QUIET, vignetting=0, refraction=refraction
        )
        return np.log(stack.slices.astype(np.float64))

    bent = signal(3.0) - signal(0.0)
    np.testing.assert_allclose(bent[2], 0.0, atol=1e-3)
    assert np.abs(bent[1]).max() > 0.05
    assert np.corrcoef(bent[1].ravel(), bent[3].ravel())[0, 1] < -0.9


def test_phase_contrast_has_a_halo_and_keeps_no_broad_shadow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y, x = np.mgrid[-60:61, -60:61]
    disc = 0.3 * (np.hypot(y, x) < 8)
    only(monkeypatch, patch(disc, depth_um=0.0, at=(50, 50)))
    light = (
        simulate_focal_stack("it", shape=(1, 96, 112), contrast="phase", camera=QUIET, vignetting=0)
        .slices[0]
        .astype(np.float64)
    )
    background = np.median(light)
    centre, beside = light[46, 46], light[46, 46 + 11]
    assert centre < 0.8 * background
    assert beside > 1.01 * background
    # What a halo adds it takes from the middle.
    assert light.mean() == pytest.approx(background, rel=0.02)


def test_a_plain_disc_of_blur_inverts_some_detail_and_a_soft_one_none() -> None:
    optics = Optics()
    frequency = np.linspace(0, 0.5, 300, dtype=np.float32)
    assert optics.transfer(frequency, 12.0, disc_share=1.0).min() < -0.02
    assert optics.transfer(frequency, 12.0, disc_share=0.0).min() >= 0.0


def test_dust_and_stripes_are_the_same_in_every_slice_and_no_specimen() -> None:
    pattern = FixedPattern(stripes=0.02, dust_per_megapixel=400.0)
    clean, marked = (
        simulate_focal_stack("empty", shape=SMALL, camera=QUIET, vignetting=0, pattern=p)
        for p in (None, pattern)
    )
    marks = marked.slices / clean.slices.astype(np.float64)
    np.testing.assert_allclose(marks, marks[:1].repeat(7, axis=0), rtol=2e-3)
    assert marks.min() < 0.9
    assert not marked.in_focus.any()
    assert not clean.undecided.any()
    # Whatever is darker than stripes can be is dust, and says so.
    assert marked.undecided[marks < 0.9].all()
    assert marked.undecided.mean() < 0.5


def test_one_step_beyond_the_tolerance_is_undecided_and_two_are_not() -> None:
    stack = simulate_focal_stack("tilted_sheet", shape=(9, 128, 128), z_step_um=3.0, camera=QUIET)
    tolerance = focus_tolerance_um(Optics(), 3.0)
    away = np.abs(stack.z_um.astype(np.float32)[:, None, None] - stack.depth_um)
    beyond = (away > tolerance) & (away <= 2 * tolerance)
    assert beyond.any()
    assert stack.undecided[beyond].all()
    assert not stack.undecided[away > 2 * tolerance].any()
    # The middle of what is in focus is decided, but for faint places.
    assert stack.undecided[away <= tolerance].mean() < 0.1


def test_what_noise_hides_is_undecided() -> None:
    def undecided_share(electrons: float) -> float:
        camera = Camera(electrons_at_white=electrons, gain=2000 / electrons)
        stack = simulate_focal_stack("tilted_sheet", shape=(5, 96, 96), camera=camera)
        return float(stack.undecided[stack.in_focus].mean())

    assert undecided_share(20.0) > 0.5
    assert undecided_share(20_000.0) < 0.1


def test_varied_stacks_come_from_their_seed_and_cover_the_range() -> None:
    drawn = [varied_focal_stack("tilted_sheet", seed=(3, n), shape=(1, 32, 32)) for n in range(30)]
    again = varied_focal_stack("tilted_sheet", seed=(3, 7), shape=(1, 32, 32))
    np.testing.assert_array_equal(drawn[7].stack.slices, again.stack.slices)
    assert {one.modality for one in drawn} == {
        "transmitted",
        "transmitted, refracting",
        "fluorescence",
        "phase",
    }
    assert {one.noise_level for one in drawn} == {"starved", "medium", "bright"}
    assert {one.camera.bit_depth for one in drawn} == {8, 12, 14, 16}
    assert {one.optics.refractive_index for one in drawn} == {1.0, 1.33, 1.515}
