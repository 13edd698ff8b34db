"""The consensus rule's kernels against their plain twin, and what each answer takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfocus_live.focus import Conditions, Limits, _verdict
from deepfocus_live.focus._brightness import Brightness, measure_brightness
from deepfocus_live.focus._consensus import Verdict, _standards, _white_level
from deepfocus_live.focus._findings import findings_of
from deepfocus_live.focus._verdict import (
    BESIDE,
    BEYOND_FIRST,
    BEYOND_LAST,
    BLURRED,
    FAINT,
    FIXED,
    FOUND,
    IN_FOCUS,
    INVERTED,
    MANY,
    NOISY,
    NOTHING,
    SATURATED,
    UNDECIDED,
)
from tests import naive_verdict

REASONS = {
    *(NOTHING, FOUND, BEYOND_FIRST, BEYOND_LAST, NOISY),
    *(BLURRED, FAINT, SATURATED, INVERTED, MANY, BESIDE),
}
USUAL = Limits()
# End slices' sharpness and the least contrast are each stack's own.
LIMITS = (USUAL.rise, USUAL.prominence, USUAL.perhaps, USUAL.sure, USUAL.sharp, 0.3, 5.0)
Floats = NDArray[np.float32]


@dataclass
class Places:
    """Curves of a small stack, with all that `judge_places` asks for.

    Energies are multiples of 1/8, so that float32 subtracts them exactly.
    """

    contrast: Floats
    detail: Floats
    noise: Floats
    votes: Floats
    peak: NDArray[np.int16]
    lowest: NDArray[np.int16]
    highest_rise: Floats
    white: NDArray[np.bool_]
    inverted: NDArray[np.bool_]
    dips: NDArray[np.bool_]
    cell_blocks: int
    limits: naive_verdict.Limits
    inverting: bool

    def judged(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what the kernel makes of them: outcome (Z, By, Bx), reason (By, Bx)."""
        outcome = np.full(self.votes.shape, 99, np.uint8)
        reason = np.full(self.peak.shape, 99, np.uint8)
        arguments: list[Any] = [*vars(self).values(), outcome, reason]
        _verdict.judge_places(*arguments)
        return outcome, reason

    def curves(self, y: int, x: int) -> NDArray[np.float64]:
        stacks = (self.votes, self.contrast, self.detail, self.noise)
        return np.array([stack[:, y, x] for stack in stacks], np.float64)


def surveyed(
    contrast: Floats, detail: Floats, noise: Floats, limits: naive_verdict.Limits = LIMITS
) -> Places:
    """Return places that nothing is the matter with: not saturated, not inverted."""
    shape = contrast.shape
    votes = np.full_like(contrast, np.nan)
    peak, lowest = np.full((2, *shape[1:]), -1, np.int16)
    highest_rise = np.full(shape[1:], np.nan, np.float32)
    _verdict.survey(contrast, detail, noise, votes, peak, lowest, highest_rise)
    nowhere = np.zeros(shape, bool)
    return Places(
        *(contrast, detail, noise, votes, peak, lowest, highest_rise),
        *(nowhere, nowhere[0], nowhere, 1, limits, False),
    )


def curves_of(rng: np.random.Generator, n_z: int) -> tuple[Floats, Floats, Floats]:
    """Return contrast, detail and noise of one place, (Z,) each, with up to 4 peaks."""
    noise = rng.integers(2, 24, n_z) / 8
    detail, contrast = np.zeros((2, n_z))
    tops = np.arange(0, n_z, 2) if rng.random() < 0.3 else rng.integers(0, n_z, 2)
    width = 0.3 if len(tops) > 2 else rng.uniform(0.2, 2)
    strongest = 2 ** rng.uniform(0, 9)
    for top in tops:
        height = strongest * rng.uniform(0.3, 1)
        bump = np.exp(-(((np.arange(n_z) - top) / width) ** 2))
        detail += height * bump
        contrast += height / rng.choice([0.02, 0.3, 0.9]) * bump
    contrast, detail = (
        np.maximum(np.round(8 * (energy + noise * rng.uniform(0.5, 1.5, n_z))) / 8, 0)
        for energy in (contrast, detail)
    )
    return contrast.astype(np.float32), detail.astype(np.float32), noise.astype(np.float32)


def random_places(seed: int) -> Places:
    """Return 1 to 5 × 1 to 5 places over 3 to 8 slices, of every kind."""
    rng = np.random.default_rng(seed)
    n_z, height, width = rng.integers([3, 1, 1], [9, 6, 6])
    stacks = np.empty((3, n_z, height, width), np.float32)
    for y, x in np.ndindex(height, width):
        stacks[:, :, y, x] = curves_of(rng, n_z)
    limits = (
        *(float(rng.choice([0.3, 0.63, 0.9])), float(rng.choice([0.05, 0.25])), 4.5),
        *(float(rng.choice([6.0, 9.0])), float(rng.choice([0.04, 0.15]))),
        *(float(rng.choice([0.1, 0.5, np.inf])), float(rng.choice([0.0, 2.0, 10.0]))),
    )
    places = surveyed(stacks[0], stacks[1], stacks[2], limits)
    if rng.random() < 0.4:  # votes that tie, as those of a survey hardly do
        places.votes[:] = rng.integers(0, 9, places.votes.shape) / 8
        places.peak[:] = places.votes.argmax(axis=0)
    places.cell_blocks = int(rng.integers(1, 5))
    cells = tuple(-(-side // places.cell_blocks) for side in (height, width))
    places.white = rng.random(places.votes.shape) < rng.choice([0, 0.1])
    places.inverted = rng.random(cells) < 0.1
    places.dips = rng.random((n_z, *cells)) < 0.5
    places.inverting = bool(rng.random() < 0.1)
    return places


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_votes_and_ends_of_curves_equal_their_plain_twin(seed: int) -> None:
    places = random_places(seed)
    energies = places.contrast, places.detail, places.noise
    fast = surveyed(*energies)
    wide = [energy.astype(np.float64) for energy in energies]
    # Roots of up to 25000 / 8 round where they hardly rise.
    np.testing.assert_allclose(fast.votes, naive_verdict.votes_of(*wide), atol=2e-3)
    np.testing.assert_array_equal(fast.peak, fast.votes.argmax(axis=0))
    signal = places.detail - places.noise
    np.testing.assert_array_equal(fast.lowest, signal.argmin(axis=0))


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_no_slice_rises_above_its_bound(seed: int) -> None:
    places = random_places(seed)
    for y, x in np.ndindex(places.peak.shape):
        _, *energies = places.curves(y, x)
        low = int(places.lowest[y, x])
        rises = [
            naive_verdict.rise_of_detail(*energies, z=z, lowest=low)[0]
            for z in range(len(places.votes))
        ]
        assert max(rises) <= max(float(places.highest_rise[y, x]), 0.0) * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_best_slices_are_described_as_by_the_plain_twin(seed: int) -> None:
    places = random_places(seed)
    described = np.full((3, *places.peak.shape), np.nan, np.float32)
    energies = places.contrast, places.detail, places.noise
    _verdict.describe_peaks(*energies, places.peak, places.lowest, *described)
    for y, x in np.ndindex(places.peak.shape):
        _, contrast, detail, noise = places.curves(y, x)
        best, low = int(places.peak[y, x]), int(places.lowest[y, x])
        rise = naive_verdict.rise_of_detail(contrast, detail, noise, z=best, lowest=low)
        amplitude = max(contrast[best] - noise[best], 0) ** 0.5
        np.testing.assert_allclose(described[:, y, x], [*rise, amplitude], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_judgement_equals_its_plain_twin(seed: int) -> None:
    places = random_places(seed)
    outcome, reason = places.judged()
    for y, x in np.ndindex(reason.shape):
        curves = places.curves(y, x)
        cell = y // places.cell_blocks, x // places.cell_blocks
        if places.inverted[cell]:
            seen = (curves[1] - curves[3]).max() > places.limits[-1] ** 2
            seen &= (curves[1] > curves[3]).any()
            mark = IN_FOCUS if seen else UNDECIDED
            expected = np.where(places.dips[:, *cell], mark, 0).tolist(), INVERTED
        else:
            expected = naive_verdict.judge_place(
                curves,
                places.white[:, y, x],
                int(places.lowest[y, x]),
                places.limits,
                places.inverting,
            )
        assert (outcome[:, y, x].tolist(), int(reason[y, x])) == expected


def test_every_reason_occurs_among_random_places() -> None:
    seen = Counter[int]()
    for seed in range(150):
        seen.update(random_places(seed).judged()[1].ravel().tolist())
    assert set(seen) == REASONS
    assert min(seen.values()) >= 10, seen


def one_place(
    signal: list[float],
    *,
    share: float | list[float] = 0.5,
    limits: naive_verdict.Limits = LIMITS,
) -> Places:
    """Return a place with that much detail above a noise of 1, a `share` of its contrast."""
    detail = np.array(signal, np.float32)[:, None, None]
    noise = np.ones_like(detail)
    contrast = detail / np.array(share, np.float32).reshape(-1, 1, 1)
    return surveyed(contrast + noise, detail + noise, noise, limits)


def verdict_of(places: Places) -> tuple[list[int], int]:
    outcome, reason = places.judged()
    return outcome[:, 0, 0].tolist(), int(reason[0, 0])


@pytest.mark.parametrize(
    ("signal", "share", "outcome", "reason"),
    [
        pytest.param([0, 0, 400, 0, 0], 0.5, [0, 0, 1, 0, 0], FOUND, id="sharp"),
        pytest.param([0, 300, 400, 300, 0], 0.5, [0, 1, 1, 1, 0], FOUND, id="thick"),
        pytest.param([0, 0, 1.5, 0, 0], 0.5, [0, 0, 0, 0, 0], NOTHING, id="noise"),
        pytest.param([400, 400, 400], 0.5, [0, 0, 0], NOTHING, id="hot-pixel"),
        pytest.param([0, 0, 2.5, 0, 0], 0.05, [0, 0, 2, 0, 0], NOISY, id="hardly-more-than-noise"),
        pytest.param([0, 0, 400, 0, 0], 0.03, [0, 0, 2, 0, 0], BLURRED, id="shadow"),
        pytest.param([0, 0, 20, 0, 0], 0.9, [0, 0, 2, 0, 0], FAINT, id="faint"),
        pytest.param([400, 99, 0, 0, 0], 0.2, [2, 0, 0, 0, 0], BEYOND_FIRST, id="before-first"),
        pytest.param([0, 0, 0, 99, 400], 0.2, [0, 0, 0, 0, 2], BEYOND_LAST, id="behind-last"),
        pytest.param([0, 0, 0, 99, 400], 0.5, [0, 0, 0, 0, 1], FOUND, id="sharp-at-the-end"),
        pytest.param([0, 400, 0, 300, 0], 0.5, [0, 1, 0, 1, 0], FOUND, id="two-layers"),
        pytest.param([0, 400, 0, 10, 0], 0.5, [0, 1, 0, 0, 0], FOUND, id="small-second-peak"),
        pytest.param([0, 900, 0, 1.5, 0], [1, 1, 1, 0.002, 1], [0, 1, 0, 0, 0], FOUND, id="fog"),
        pytest.param([0, 900, 0, 300], [1, 0.5, 1, 0.2], [0, 1, 0, 2], FOUND, id="one-beyond"),
        pytest.param([0, 100, 100, 900, 0], 0.5, [0, 0, 0, 1, 0], FOUND, id="step-on-the-way"),
        pytest.param([9, 0, 9, 0, 9], 0.3, [1, 0, 1, 0, 1], FOUND, id="three-peaks"),
        pytest.param([9, 0, 9, 0, 9, 0, 9], 0.3, [2, 0, 2, 0, 2, 0, 2], MANY, id="four-peaks"),
        pytest.param(
            [0, 900, 0, 400, 400, 0],
            *(0.5, [0, 1, 0, 1, 1, 0], FOUND),
            id="two-equal-slices-of-a-second-layer",
        ),
    ],
)
def test_each_answer(
    signal: list[float], share: float | list[float], outcome: list[int], reason: int
) -> None:
    assert verdict_of(one_place(signal, share=share)) == (outcome, reason)


@pytest.mark.parametrize(
    ("white", "outcome", "reason"),
    [
        pytest.param(0, [0, 1, 1, 1, 0], FOUND, id="outside"),
        pytest.param(1, [0, 2, 2, 2, 0], SATURATED, id="before"),
        pytest.param(2, [0, 2, 2, 2, 0], SATURATED, id="top"),
        pytest.param(3, [0, 2, 2, 2, 0], SATURATED, id="behind"),
    ],
)
def test_one_saturated_slice_makes_its_whole_peak_undecided(
    white: int, outcome: list[int], reason: int
) -> None:
    places = one_place([0, 300, 400, 300, 0])
    places.white = places.white.copy()
    places.white[white] = True
    assert verdict_of(places) == (outcome, reason)


def test_peaks_are_no_focus_in_a_stack_that_inverts() -> None:
    places = one_place([0, 400, 0, 300, 0])
    places.inverting = True
    assert verdict_of(places) == ([0, 2, 0, 2, 0], BESIDE)


@pytest.mark.parametrize(("contrast", "outcome"), [(26, [0, 0, 1, 0, 0]), (25, [0, 0, 2, 0, 0])])
def test_an_inverted_place_is_in_focus_at_its_dip_or_undecided_where_faint(
    contrast: float, outcome: list[int]
) -> None:
    places = one_place([contrast / 2, 0, 0, 0, 0])
    places.inverted = np.ones((1, 1), bool)
    places.dips = np.arange(5)[:, None, None] == 2
    assert verdict_of(places) == (outcome, INVERTED)


@pytest.mark.parametrize(
    ("k", "limit", "reason"),
    [
        pytest.param(1, 1.0, NOTHING, id="prominence"),
        pytest.param(2, None, NOTHING, id="perhaps"),
        pytest.param(3, None, NOISY, id="sure"),
        pytest.param(4, 0.5, BLURRED, id="sharp"),
        pytest.param(5, 0.5, BEYOND_FIRST, id="end-sharp"),
        pytest.param(6, 8.0, FAINT, id="faint"),
    ],
)
def test_what_just_reaches_a_limit_passes(k: int, limit: float | None, reason: int) -> None:
    places = one_place([32, 0, 0, 0])
    if limit is None:
        limit, _ = naive_verdict.rise_of_detail(*places.curves(0, 0)[1:], z=0, lowest=1)
    for least, expected in ((limit, FOUND), (float(np.nextafter(limit, np.inf)), reason)):
        places.limits = (*LIMITS[:k], least, *LIMITS[k + 1 :])
        assert verdict_of(places)[1] == expected


@settings(max_examples=60, deadline=None)
@given(seed=seeds, perhaps=st.sampled_from([0.01, 1.0, 4.5, 20.0]))
def test_leaving_early_where_nothing_rises_changes_no_answer(seed: int, perhaps: float) -> None:
    places = random_places(seed)
    places.limits = (*places.limits[:2], perhaps, *places.limits[3:])
    soon = places.judged()
    places.highest_rise = np.full_like(places.highest_rise, np.inf)
    late = places.judged()
    for one, other in zip(soon, late, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, beside=st.sampled_from([0.0, 0.6, 0.9]), ever=st.sampled_from([0.0, 0.35, 0.8]))
def test_fringes_equal_their_plain_twin(seed: int, beside: float, ever: float) -> None:
    places = random_places(seed)
    outcome, reason = places.judged()
    detail, noise = (energy.astype(np.float64) for energy in (places.detail, places.noise))
    expected = naive_verdict.leave_out_fringes(detail, noise, beside, ever, reason, outcome)
    _verdict.leave_out_fringes(places.detail, places.noise, beside, ever, reason, outcome)
    np.testing.assert_array_equal(outcome, expected)


def beside_each_other(*places: Places) -> Places:
    contrast, detail, noise = (
        np.concatenate([getattr(place, name) for place in places], axis=2)
        for name in ("contrast", "detail", "noise")
    )
    return surveyed(contrast, detail, noise)


def standards_of(places: Places) -> tuple[float, float]:
    energies = places.contrast, places.detail, places.noise
    return _standards(*energies, places.peak, places.lowest, USUAL)


def test_ends_must_be_as_sharp_as_three_quarters_of_what_lies_inside() -> None:
    shares = np.linspace(0.2, 0.9, 41)
    inside = [one_place([0, 0, 1000 * float(share), 0], share=float(share)) for share in shares]
    at_end = [one_place([0, 0, 0, 100], share=0.1)] * 40
    end_sharp, faint = standards_of(beside_each_other(*inside, *at_end))
    assert (shares >= end_sharp - 1e-6).mean() == pytest.approx(0.75, abs=0.02)
    assert faint == pytest.approx(USUAL.faint * 1000**0.5, rel=1e-3)


def test_what_is_faint_says_nothing_of_how_sharp_ends_must_be() -> None:
    strong = [one_place([0, 0, 4000, 0], share=0.5)] * 10
    weak = [one_place([0, 0, 20, 0], share=0.9)] * 100
    assert standards_of(beside_each_other(*strong))[0] == pytest.approx(0.5)
    assert standards_of(beside_each_other(*strong, *weak))[0] == pytest.approx(0.5)


def test_no_end_is_sharp_enough_where_hardly_anything_lies_inside() -> None:
    inside = one_place([0, 0, 400, 0], share=0.5)
    at_end = one_place([0, 0, 0, 400], share=0.5)
    assert standards_of(beside_each_other(inside, *[at_end] * 8))[0] == pytest.approx(0.5)
    assert standards_of(beside_each_other(inside, *[at_end] * 10))[0] == np.inf


@pytest.mark.parametrize(("share", "decides"), [(0.07, False), (0.09, True)])
def test_nothing_is_decided_where_nothing_is_clearly_sharp(share: float, decides: bool) -> None:
    standards = standards_of(one_place([0, 0, 400, 0], share=share))
    assert np.isfinite(standards).tolist() == [decides, decides]


@pytest.mark.parametrize(
    ("dtype", "highest", "saturates"),
    [
        *(("uint8", 255, True), ("uint8", 254, False), ("uint16", 255, True)),
        *(("uint16", 4095, True), ("uint16", 4096, False), ("uint16", 127, False)),
        *(("uint16", 65535, True), ("float32", 255, False)),
    ],
)
def test_cameras_saturate_at_the_counts_they_can_end_at(
    dtype: str, highest: float, saturates: bool
) -> None:
    planes = [np.full((2, 2), count, np.float32) for count in (7, highest, 3)]
    white = _white_level(planes, np.dtype(dtype))
    assert white == (highest if saturates else np.inf)


def verdict_with(
    reasons: list[int],
    *,
    scores: NDArray[np.float32] | None = None,
    drift: float = 0.0,
    inverted_share: float = 0.0,
    gain: float = 1.0,
) -> Verdict:
    reason = np.array([reasons], np.uint8)
    if scores is None:
        scores = np.ones((4, *reason.shape), np.float32)
    found, undecided = np.zeros((2, *scores.shape), bool)
    found[0] = np.isin(reason, (FOUND, INVERTED))
    undecided[0] = ~np.isin(reason, (NOTHING, FIXED, FOUND, INVERTED))
    drift_px = np.zeros((len(scores), 2))
    drift_px[-1] = drift * 0.6, drift * 0.8
    brightness = Brightness(np.array([1.0, gain]), 0.0, "assumed")
    return Verdict(
        *(found, undecided, reason, scores, brightness, drift_px, 1.0, inverted_share, 1.0)
    )


def notes_of(verdict: Verdict, conditions: Conditions | None = None) -> str:
    return "\n".join(findings_of(verdict, conditions or Conditions(), window_px=16).notes)


def test_the_specimen_is_what_rises_and_undecided_what_has_no_answer() -> None:
    reasons = [NOTHING, NOTHING, FIXED, FOUND, INVERTED, NOISY, FAINT]
    found = findings_of(verdict_with(reasons), Conditions(), window_px=16)
    assert found.undecided_share == 0.5
    assert found.fixed_share == pytest.approx(1 / 7)
    assert "undecided" not in "".join(found.notes)
    assert findings_of(verdict_with([NOTHING]), Conditions(), window_px=16).undecided_share == 0


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (BEYOND_FIRST, "beyond the first slice"),
        (BEYOND_LAST, "beyond the last slice"),
        (NOISY, "above the noise"),
        (BLURRED, "nothing in it is ever sharp"),
        (FAINT, "faint beside the strongest"),
        (SATURATED, "the camera is saturated"),
        (MANY, "many maxima"),
        (BESIDE, "inverts through focus nearby"),
    ],
)
def test_the_main_reason_is_said_where_most_is_undecided(reason: int, words: str) -> None:
    other = FAINT if reason != FAINT else NOISY
    assert words in notes_of(verdict_with([FOUND, FOUND, reason, reason, other]))
    assert words not in notes_of(verdict_with([FOUND, FOUND, reason, reason]))


@pytest.mark.parametrize(("end", "order"), [(BEYOND_LAST, 1), (BEYOND_FIRST, -1)])
def test_focus_beyond_an_end_is_where_the_parabola_has_its_vertex(end: int, order: int) -> None:
    heights = np.arange(6) - (5 + 2.6)
    scores = (1 / (1 + heights**2))[::order, None, None].astype(np.float32)
    verdict = verdict_with([end], scores=scores)
    assert notes_of(verdict).endswith("extend by about 3 slices")
    for z_step_um in (6.0, -6.0):
        note = notes_of(verdict, Conditions(z_step_um=z_step_um))
        assert note.endswith("extend by about 18 µm")


def test_small_drift_inversion_and_flicker_are_not_said() -> None:
    quiet = verdict_with([FOUND], drift=3.9, inverted_share=0.04, gain=1.09)
    assert notes_of(quiet) == ""
    loud = notes_of(verdict_with([FOUND], drift=4.1, inverted_share=0.06, gain=1.11))
    for words in ("moves sideways", "contrast inverts", "brightness changes"):
        assert words in loud


def test_direction_of_a_scan_does_not_change_what_is_said_of_its_step() -> None:
    up, down = (
        Conditions(pixel_size_um=0.1, z_step_um=step, numerical_aperture=0.9) for step in (2, -2)
    )
    assert up.z_step_note == down.z_step_note
    assert up.z_step_note is not None


@pytest.mark.parametrize(
    ("given_um", "grain_px"),
    [
        ({}, 2),
        ({"numerical_aperture": 0.1}, 2),
        ({"pixel_size_um": 0.5, "window_um": 0.1}, 1),
        ({"pixel_size_um": 0.5, "window_um": 32.0}, 8),
        ({"pixel_size_um": 0.1, "window_um": 500.0}, 16),
        ({"pixel_size_um": 5.0, "numerical_aperture": 0.3}, 2),
        ({"pixel_size_um": 0.01, "numerical_aperture": 0.1}, 16),
    ],
)
def test_grain_follows_window_or_optics_within_bounds(
    given_um: dict[str, Any], grain_px: int
) -> None:
    assert Conditions(**given_um).grain_px == grain_px


def scene(gain: list[float], offset: float) -> Floats:
    light = 500 + 400 * np.random.default_rng(0).random((16, 20))
    return (np.array(gain)[:, None, None] * light + offset).astype(np.float32)


def test_a_lamp_that_changes_tells_the_dark_offset() -> None:
    gain = [0.5, 1.0, 1.5, 1.0, 2.0]
    measured = measure_brightness(scene(gain, 100))
    assert measured.offset_source == "estimated"
    assert measured.dark_offset == pytest.approx(100, abs=1)
    np.testing.assert_allclose(measured.gain, gain, rtol=1e-3)


def test_an_offset_that_slices_contradict_is_not_believed() -> None:
    z_stack = scene([1.0, 1.2, 0.9, 1.1, 1.0], 100)
    z_stack += np.array([0, 90, 90, -60, 0], np.float32)[:, None, None]
    measured = measure_brightness(z_stack)
    assert (measured.offset_source, measured.dark_offset) == ("assumed", 0.0)


@pytest.mark.parametrize(
    ("gain", "offset"),
    [
        pytest.param([1.0, 0.0, 1.0], 100.0, id="shutter-closed-once"),
        pytest.param([0.0, 0.0, 0.0], 100.0, id="dark"),
        pytest.param([1.0, 1.0, 30.0], 100.0, id="flash"),
    ],
)
def test_brightness_is_left_alone_where_it_cannot_be_lamp_light(
    gain: list[float], offset: float
) -> None:
    measured = measure_brightness(scene(gain, 100), offset)
    assert measured.offset_source == "given"
    np.testing.assert_array_equal(measured.gain, 1)


def test_an_offset_above_the_light_is_refused_and_said() -> None:
    measured = measure_brightness(scene([1.0, 1.3, 1.0], 100), 5000.0)
    assert measured.offset_source == "refused"
    np.testing.assert_array_equal(measured.gain, 1)
    assert measured.note is not None
    assert "5000 counts is above the slices' mean" in measured.note


def test_what_is_left_out_as_a_fringe_is_not_called_undecided() -> None:
    fringe = verdict_with([FOUND, FOUND, FOUND])
    fringe.weak_label[:, 0, 0], fringe.undecided[0, 0, 0] = False, True
    assert findings_of(fringe, Conditions(), window_px=16).undecided_share == 0


@pytest.mark.parametrize(
    ("beside", "share", "outcome"),
    [
        pytest.param(1, 0.55, [0, 2, 0, 0, 0], id="edge-of-something-sharp"),
        pytest.param(1, 0.65, [0, 1, 0, 0, 0], id="sharp-itself"),
        pytest.param(3, 0.3, [0, 2, 0, 0, 0], id="where-a-blurred-edge-passes"),
        pytest.param(3, 0.4, [0, 1, 0, 0, 0], id="another-layer"),
    ],
)
def test_beside_something_sharper_a_place_needs_a_share_of_its_amplitude(
    beside: int, share: float, outcome: list[int]
) -> None:
    place = one_place([0, 1000 * share**2, 0, 0, 0])
    neighbour = one_place([1000.0 * (z == beside) for z in range(5)])
    places = beside_each_other(place, neighbour)
    outcomes, reason = places.judged()
    assert outcomes[:, 0, 0].tolist() == [0, 1, 0, 0, 0]
    energies = places.detail, places.noise
    _verdict.leave_out_fringes(*energies, USUAL.fringe, USUAL.halo, reason, outcomes)
    assert outcomes[:, 0, 0].tolist() == outcome
