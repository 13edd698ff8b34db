"""The default preset: in focus where it is, and silent where it cannot know."""

from __future__ import annotations

import csv
import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live.focus import (
    Conditions,
    ConsensusPreset,
    Limits,
    StackLabeler,
    StackLabels,
    label_stack,
)
from deepfocus_live.simulation import Camera, FocalStack, simulate_focal_stack

SHARED = Path(__file__).parents[2].parent / "shared"
real_data = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="the real stacks lie beside a developer's checkout only"
)
Z_STEP_UM = 6.0
OFFSET = 100.0
Stack = NDArray[Any]


@lru_cache(maxsize=8)
def specimen(kind: str = "organoid_layer", seed: int = 1, n_z: int = 11) -> FocalStack:
    """Return a simulated stack with known truth; a 16-bit camera with an offset of 100."""
    return simulate_focal_stack(
        kind,
        shape=(n_z, 200, 240),
        z_step_um=Z_STEP_UM,
        camera=Camera(bit_depth=16, offset=OFFSET),
        seed=seed,
    )


def overlap(one: StackLabels, other: StackLabels) -> float:
    """Return the intersection over union of what two labellings call in focus."""
    union = (one.weak_label | other.weak_label).sum()
    return float((one.weak_label & other.weak_label).sum() / union)


def lit(slices: Stack, gain: Stack) -> Stack:
    """Return slices as a lamp of another brightness would have shown them."""
    light = (slices.astype(np.float64) - OFFSET) * gain[:, None, None] + OFFSET
    return np.rint(light).clip(0, 65535).astype(np.uint16)


def enlarged(blocks: Stack, labels: StackLabels) -> Stack:
    """Return block values at full resolution."""
    wide = np.repeat(np.repeat(blocks, labels.block_px, -2), labels.block_px, -1)
    return wide[..., : labels.shape_yx[0], : labels.shape_yx[1]]


def test_what_is_in_focus_is_what_is_sharp_there() -> None:
    stack = specimen("tilted_sheet")
    labels = label_stack(stack.slices)
    in_focus = enlarged(labels.weak_label, labels)
    near = ndimage.maximum_filter(stack.in_focus, (3, 17, 17))
    assert in_focus[stack.in_focus].mean() > 0.85
    assert (in_focus & ~near).sum() < 0.01 * in_focus.sum()
    assert labels.preset == "consensus"
    assert labels.trainable


@pytest.mark.parametrize("kind", ["organoids", "spheres", "organoid_layer"])
def test_nothing_far_from_the_specimen_is_in_focus(kind: str) -> None:
    stack = specimen(kind)
    labels = label_stack(stack.slices)
    in_focus = enlarged(labels.weak_label, labels)
    somewhere = ndimage.maximum_filter(stack.in_focus.any(axis=0), 41)
    assert in_focus.any()
    assert in_focus[:, ~somewhere].mean() < 0.002


def nothing_to_see() -> list[Any]:
    """Return stacks in which nothing is in focus."""
    rng = np.random.default_rng(5)
    shape = (12, 160, 200)
    sheet = specimen("tilted_sheet").slices.astype(np.float64)
    soft, softer = ([ndimage.gaussian_filter(s, sigma) for s in sheet] for sigma in (8, 12))
    return [
        pytest.param(rng.normal(900, 30, shape).round().astype(np.uint16), id="white-noise"),
        pytest.param(rng.poisson(50, shape).astype(np.uint8), id="shot-noise-8-bit"),
        pytest.param(rng.normal(0, 1, shape).astype(np.float32), id="float-noise"),
        pytest.param(specimen("empty").slices, id="empty-field"),
        pytest.param(rng.normal(soft, 20).round().astype(np.uint16), id="never-sharp"),
        pytest.param(np.round(softer).astype(np.uint16), id="never-sharp-without-noise"),
        pytest.param(np.repeat(specimen().slices[:1], 6, axis=0), id="one-slice-repeated"),
    ]


@pytest.mark.parametrize("z_stack", nothing_to_see())
def test_nothing_is_in_focus_where_nothing_can_be(z_stack: Stack) -> None:
    labels = label_stack(z_stack)
    assert labels.focus_curve.max() <= 0.005
    assert not (labels.weak_label & labels.undecided).any()


@pytest.mark.parametrize(("part", "end"), [(slice(0, 4), "last"), (slice(7, 11), "first")])
def test_a_stack_cut_before_focus_is_undecided_there_and_says_how_far_to_go(
    part: slice, end: str
) -> None:
    stack = specimen("organoids", seed=4)
    conditions = Conditions(z_step_um=Z_STEP_UM)
    labels = label_stack(stack.slices[part], conditions=conditions)
    in_focus, undecided = (enlarged(b, labels) for b in (labels.weak_label, labels.undecided))
    truth = stack.in_focus.any(axis=0)
    beyond = truth & ~ndimage.maximum_filter(stack.in_focus[part].any(axis=0), 41)
    assert beyond.any()
    assert in_focus[:, beyond].any(axis=0).mean() < 0.02
    assert undecided[:, beyond].any(axis=0).mean() > 0.15
    assert labels.findings is not None
    if labels.findings.undecided_share > 0.5:
        assert any(f"beyond the {end} slice: extend by about" in note for note in labels.notes)
        assert any(note.endswith("µm") for note in labels.notes)


def test_contrast_that_inverts_is_in_focus_where_it_vanishes() -> None:
    rng = np.random.default_rng(3)
    pattern = ndimage.gaussian_filter(rng.normal(0, 1, (160, 160)), 2)
    pattern *= 500 / pattern.std()
    heights = np.arange(15) - 6
    z_stack = 2000 + np.tanh(heights / 3)[:, None, None] * pattern
    z_stack = np.stack(
        [ndimage.gaussian_filter(s, 0.3 * abs(h)) for s, h in zip(z_stack, heights, strict=True)]
    )
    labels = label_stack(rng.normal(z_stack, 12).round().astype(np.uint16))
    assert np.flatnonzero(labels.focus_curve > 0.02).tolist() == [5, 6, 7]
    assert labels.focus_curve[6] > 0.9
    assert labels.mean_focus_score.argmax() == 6
    assert labels.findings is not None
    assert labels.findings.inverted_share > 0.9
    assert any("inverts" in note for note in labels.notes)


@real_data
def test_yeast_is_in_focus_where_the_eye_says() -> None:
    labels = label_stack(tifffile.imread(SHARED / "data" / "yeast.ome.tif"))
    assert np.flatnonzero(labels.focus_curve).tolist() == [14, 15, 16]


@real_data
def test_labels_of_a02_agree_with_the_eye() -> None:
    score = _scorer().score
    data = SHARED / "data"
    labels = label_stack(tifffile.imread(data / "organoid_A02.ome.tif"))
    with (data / "organoid_A02_focus.csv").open(newline="") as file:
        judged = list(csv.DictReader(file))
    regions = tifffile.imread(data / "organoid_A02_regions.tif")
    figures = score(enlarged(labels.weak_label, labels), regions, judged)
    assert figures["f1"] >= 0.97
    assert figures["false_area"] <= 0.002


def _scorer() -> ModuleType:
    path = SHARED / "eval" / "score_focus.py"
    spec = importlib.util.spec_from_file_location("score_focus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "gain",
    [
        pytest.param(np.linspace(0.5, 2, 11), id="ramp-up"),
        pytest.param(np.linspace(2, 0.5, 11), id="ramp-down"),
        pytest.param(np.where(np.arange(11) == 5, 1.4, 1.0), id="flicker"),
    ],
)
def test_labels_do_not_follow_the_lamp(gain: Stack) -> None:
    for kind in ("organoid_layer", "tilted_sheet"):
        slices = specimen(kind).slices
        still, changed = label_stack(slices), label_stack(lit(slices, gain))
        assert overlap(still, changed) >= 0.9
        assert any("brightness changes" in note for note in changed.notes)
        assert not any("brightness" in note for note in still.notes)
    assert changed.findings is not None
    measured = changed.findings.brightness
    np.testing.assert_allclose(measured.gain, gain / np.median(gain), rtol=0.03)
    assert measured.offset_source == "estimated"
    assert measured.dark_offset == pytest.approx(OFFSET, abs=50)


def test_a_dark_offset_that_is_told_is_believed() -> None:
    slices = lit(specimen().slices, np.linspace(1, 2, 11))
    labels = label_stack(slices, conditions=Conditions(dark_offset=OFFSET))
    assert labels.findings is not None
    assert labels.findings.brightness.offset_source == "given"
    assert labels.findings.brightness.dark_offset == OFFSET


def test_both_of_two_layers_behind_one_pixel_are_found() -> None:
    one, other = specimen("tilted_sheet", seed=1), specimen("tilted_sheet", seed=2)
    both = (one.slices - OFFSET) * (other.slices - OFFSET) / 3200 + OFFSET
    labels = label_stack(both.clip(0, 65535).astype(np.uint16))
    in_focus = enlarged(labels.weak_label, labels)
    apart = np.abs(one.depth_um - other.depth_um) > 25
    assert in_focus[one.in_focus & apart].mean() > 0.6
    assert in_focus[other.in_focus & apart].mean() > 0.6


def test_saturated_places_are_undecided() -> None:
    stack = specimen("tilted_sheet")
    free = label_stack(stack.slices)
    capped = np.minimum(stack.slices.astype(np.int64) * 2, 4095).astype(np.uint16)
    labels = label_stack(capped)
    white = (capped == 4095).mean()
    assert white > 0.3
    assert labels.undecided.mean() > 5 * free.undecided.mean()
    assert (labels.weak_label & labels.undecided).sum() == 0
    assert labels.weak_label.mean() < 0.7 * free.weak_label.mean()


def test_hot_pixels_and_dust_are_ignored() -> None:
    slices = specimen().slices
    rng = np.random.default_rng(0)
    clean = label_stack(slices)
    hot = np.zeros(slices.shape[1:])
    hot[rng.integers(0, 200, 24), rng.integers(0, 240, 24)] = 3000
    assert overlap(clean, label_stack((slices + hot).astype(np.uint16))) > 0.9
    dust = np.ones(slices.shape[1:])
    dust[60:66, 80:90] = dust[150:154, 30:34] = 0.5
    dusty = label_stack(((slices - OFFSET) * dust + OFFSET).astype(np.uint16))
    assert overlap(clean, dusty) > 0.9
    empty = specimen("empty").slices
    soiled = label_stack(((empty - OFFSET) * dust + hot + OFFSET).astype(np.uint16))
    assert soiled.best_z is None
    assert soiled.findings is not None
    assert soiled.findings.fixed_share > 0.05
    assert any("same fine pattern in every slice" in note for note in soiled.notes)
    tidy = label_stack(empty)
    assert tidy.findings is not None
    assert tidy.findings.fixed_share < 0.001


def test_a_specimen_that_drifts_is_kept_out_of_training() -> None:
    slices = specimen("organoid_layer").slices.astype(np.float32)
    moved = np.stack([ndimage.shift(s, (0, 1.5 * z), order=1) for z, s in enumerate(slices)])
    labels = label_stack(moved[:, :, 20:].astype(np.uint16))
    assert not labels.trainable
    assert any("moves sideways" in note for note in labels.notes)
    assert label_stack(specimen("organoid_layer").slices).trainable


def test_pixel_types_agree() -> None:
    slices = specimen().slices // 16
    assert slices.max() < 256
    kinds = [slices.astype(dtype) for dtype in (np.uint8, np.uint16, np.float32)]
    byte, word, real = (label_stack(kind) for kind in kinds)
    np.testing.assert_array_equal(byte.weak_label, word.weak_label)
    assert overlap(word, real) > 0.98


def test_finer_pixels_with_their_optics_told_give_the_same_places() -> None:
    stack = specimen("organoid_layer")
    coarse = Conditions(pixel_size_um=0.65, numerical_aperture=0.3)
    fine = Conditions(pixel_size_um=0.65 / 3, numerical_aperture=0.3)
    enlarged_stack = np.repeat(np.repeat(stack.slices, 3, axis=1), 3, axis=2)
    one = label_stack(stack.slices, conditions=coarse)
    other = label_stack(enlarged_stack, conditions=fine)
    assert (coarse.grain_px, fine.grain_px) == (2, 5)
    small = enlarged(other.weak_label, other)[:, ::3, ::3]
    large = enlarged(one.weak_label, one)
    assert (small & large).sum() > 0.6 * (small | large).sum()
    assert Conditions(pixel_size_um=0.5, window_um=16).grain_px == 4


def test_a_flat_field_evens_out_the_light() -> None:
    slices = specimen().slices
    shade = np.linspace(0.4, 1, slices.shape[2])[None, :].repeat(slices.shape[1], axis=0)
    dark = ((slices - OFFSET) * shade + OFFSET).astype(np.uint16)
    even = label_stack(slices)
    told = label_stack(dark, conditions=Conditions(flat_field=shade, dark_offset=OFFSET))
    assert overlap(even, told) > overlap(even, label_stack(dark))
    brighter = told.scores[even.weak_label] / even.scores[even.weak_label]
    columns = np.nonzero(even.weak_label)[2]
    left, right = (np.median(brighter[part]) for part in (columns < 10, columns >= 20))
    assert left == pytest.approx(right, rel=0.05)
    with pytest.raises(ValueError, match="the flat field is"):
        label_stack(dark, conditions=Conditions(flat_field=np.ones((50, 50))))


def test_a_z_step_above_the_depth_of_field_is_said() -> None:
    seen = Conditions(pixel_size_um=0.1, z_step_um=2.0, numerical_aperture=0.9)
    assert any("z-step" in note for note in label_stack(specimen().slices, conditions=seen).notes)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pixel_size_um": 0.0}, "pixel_size_um is 0"),
        ({"window_um": -1.0}, "window_um is -1"),
        ({"flat_field": np.zeros((4, 4))}, "above 0 everywhere"),
        ({"flat_field": np.full((4, 4), np.inf)}, "finite and above 0"),
        ({"dark_offset": float("nan")}, "dark_offset is nan"),
        ({"numerical_aperture": 1.4}, "immersion"),
    ],
)
def test_conditions_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Conditions(**given)


def test_limits_decide_how_much_is_asked_for() -> None:
    slices = specimen().slices
    usual = label_stack(slices)
    strict = label_stack(slices, ConsensusPreset("strict", "", Limits(rise=0.9, faint=0.6)))
    assert 0 < strict.weak_label.sum() < usual.weak_label.sum()
    assert not (strict.weak_label & ~usual.weak_label).sum() > 0.05 * strict.weak_label.sum()


def test_slices_of_zeros_count_as_missing() -> None:
    slices = specimen().slices.copy()
    labeler = StackLabeler(shape_yx=(200, 240))
    for z in (0, 1, 2, 3, 4, 6, 7, 8):
        labeler.add(z, slices[z])
    want = labeler.finish()
    slices[[5, 9, 10]] = 0
    labels = label_stack(slices)
    assert np.flatnonzero(~labels.arrived).tolist() == [5, 9, 10]
    np.testing.assert_array_equal(labels.weak_label[:9], want.weak_label)
    assert not labels.weak_label[9:].any()
    assert labels.weak_label_slice(10).shape == (200, 240)
    assert "all pixels are 0 at z 5, 9, 10: taken for missing" in labels.notes


def test_stripes_along_one_axis_are_no_drift() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(0, 30, (200, 1)) + rng.normal(0, 3, (6, 200, 240))
    labels = label_stack((1000 + rows).round().astype(np.uint16))
    assert labels.trainable
    half_dark = specimen().slices.copy()
    half_dark[:, :, :60] = 0
    assert label_stack(half_dark).trainable


def test_scores_are_highest_where_an_inverting_place_is_in_focus() -> None:
    rng = np.random.default_rng(3)
    pattern = 500 * ndimage.gaussian_filter(rng.normal(0, 1, (128, 128)), 2) / 0.14
    contrast = np.tanh((np.arange(13) - 6) / 3)[:, None, None]
    stack = 3000 + contrast * pattern + rng.normal(0, 12, (13, 128, 128))
    labels = label_stack(stack.round().astype(np.uint16))
    assert labels.weak_label.any(axis=0).mean() > 0.9
    best = np.take_along_axis(labels.weak_label, labels.scores.argmax(axis=0)[None], axis=0)[0]
    assert best[labels.weak_label.any(axis=0)].mean() > 0.95


@pytest.mark.parametrize(
    ("window_um", "pixel_size_um", "words"),
    [(20.0, None, "without a pixel size"), (900.0, 0.65, "83.2 µm wide, not 900")],
)
def test_a_window_that_cannot_be_had_is_said(
    window_um: float, pixel_size_um: float | None, words: str
) -> None:
    asked = Conditions(window_um=window_um, pixel_size_um=pixel_size_um)
    assert any(words in note for note in label_stack(specimen().slices, conditions=asked).notes)
    assert Conditions(window_um=16.0, pixel_size_um=1.0).window_note is None


def test_what_is_kept_of_a_slice_is_small() -> None:
    labeler = StackLabeler(shape_yx=(200, 240))
    z_slice = specimen().slices[0]
    labeler.add(0, z_slice)
    kept = labeler._kept[0]
    size = sum(array.nbytes for array in vars(kept).values())
    assert size < 0.2 * z_slice.nbytes


def test_peaks_beside_a_specimen_that_inverts_are_undecided() -> None:
    rng = np.random.default_rng(3)
    heights = np.arange(15) - 6
    pattern = ndimage.gaussian_filter(rng.normal(0, 1, (160, 240)), 2)
    pattern *= 500 / pattern.std()
    sign = np.where(np.arange(240) < 160, np.tanh(heights / 3)[:, None, None], 1)
    z_stack = [
        ndimage.gaussian_filter(s, 0.5 * abs(h))
        for s, h in zip(sign * pattern, heights, strict=True)
    ]
    labels = label_stack(rng.normal(2000 + np.array(z_stack), 12).round().astype(np.uint16))
    assert labels.findings is not None
    assert labels.findings.inverted_share > 0.3
    plain = np.s_[6, :, 24:]
    assert not labels.weak_label[plain].any()
    assert labels.undecided[plain].mean() > 0.9
