"""The consensus rule's kernels against their plain twin, and what each answer takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfocus_live.focus import _verdict
from deepfocus_live.focus._verdict import (
    BEYOND_FIRST,
    BEYOND_LAST,
    BLURRED,
    FAINT,
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
    name: getattr(_verdict, name)
    for name in (
        *("NOTHING", "FOUND", "BEYOND_FIRST", "BEYOND_LAST", "NOISY"),
        *("BLURRED", "FAINT", "SATURATED", "INVERTED", "MANY"),
    )
}
LIMITS = (0.63, 0.25, 4.5, 6.0, 0.04, 0.3, 5.0)
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
        _verdict.judge_places(*vars(self).values(), outcome, reason)
        return outcome, reason

    def cell(self, y: int, x: int) -> tuple[int, int]:
        return y // self.cell_blocks, x // self.cell_blocks

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
        contrast += height / rng.choice([0.02, 0.2, 0.9]) * bump
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
    places = surveyed(
        *stacks,
        (
            *(rng.choice([0.3, 0.63, 0.9]), rng.choice([0.05, 0.25])),
            *(4.5, rng.choice([6.0, 9.0]), rng.choice([0.04, 0.15])),
            *(rng.choice([0.1, 0.5, np.inf]), rng.choice([0.0, 5.0, 20.0, np.inf])),
        ),
    )
    if rng.random() < 0.4:  # votes that tie, as those of a survey hardly do
        places.votes[:] = rng.integers(0, 9, places.votes.shape) / 8
        places.peak[:] = places.votes.argmax(axis=0)
    places.cell_blocks = int(rng.integers(1, 5))
    cells = tuple(-(-side // places.cell_blocks) for side in (height, width))
    places.white = rng.random(places.votes.shape) < rng.choice([0, 0.15])
    places.inverted = rng.random(cells) < 0.15
    places.dips = rng.random((n_z, *cells)) < 0.5
    places.inverting = bool(rng.random() < 0.15)
    return places


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_no_slice_rises_above_its_bound(seed: int) -> None:
    places = random_places(seed)
    for y, x in np.ndindex(places.peak.shape):
        _, *energies = places.curves(y, x)
        low = int(places.lowest[y, x])
        rises = [naive_verdict.rise_of_detail(*energies, z, low)[0] for z in range(len(low_z(places)))]
        assert max(rises) <= max(places.highest_rise[y, x], 0) * (1 + 1e-6)


def low_z(places: Places) -> Floats:
    return places.votes[:, 0, 0]


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_best_slices_are_described_as_by_the_plain_twin(seed: int) -> None:
    places = random_places(seed)
    described = np.full((3, *places.peak.shape), np.nan, np.float32)
    energies = places.contrast, places.detail, places.noise
    _verdict.describe_peaks(*energies, places.peak, places.lowest, *described)
    for y, x in np.ndindex(places.peak.shape):
        _, contrast, detail, noise = places.curves(y, x)
        best, low = int(places.peak[y, x]), int(places.lowest[y, x])
        rise = naive_verdict.rise_of_detail(contrast, detail, noise, best, low)
        amplitude = max(contrast[best] - noise[best], 0) ** 0.5
        np.testing.assert_allclose(described[:, y, x], [*rise, amplitude], rtol=1e-6)


def check_judgement(places: Places) -> Counter[int]:
    """Compare with the plain twin, and return how often each reason occurred."""
    outcome, reason = places.judged()
    for y, x in np.ndindex(reason.shape):
        curves = places.curves(y, x)
        cell = places.cell(y, x)
        if places.inverted[cell]:
            seen = (curves[1] - curves[3]).max() > max(places.limits[-1] ** 2, 0)
            expected = (places.dips[:, *cell] & seen).astype(int).tolist(), INVERTED
        else:
            expected = naive_verdict.judge_place(
                curves,
                places.white[:, y, x],
                int(places.lowest[y, x]),
                places.limits,
                places.inverting,
            )
        assert (outcome[:, y, x].tolist(), int(reason[y, x])) == expected
    return Counter(reason.ravel().tolist())


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_judgement_equals_its_plain_twin(seed: int) -> None:
    check_judgement(random_places(seed))


def test_every_reason_occurs_among_random_places() -> None:
    seen = sum((check_judgement(random_places(seed)) for seed in range(150)), Counter())
    assert set(seen) == set(REASONS.values())
    assert min(seen.values()) >= 10, seen


@settings(max_examples=100, deadline=None)
@given(seed=seeds, perhaps=st.sampled_from([0.01, 1.0, 4.5, 20.0]))
def test_leaving_early_where_nothing_rises_changes_no_answer(seed: int, perhaps: float) -> None:
    places = random_places(seed)
    places.limits = (*places.limits[:2], perhaps, *places.limits[3:])
    soon = places.judged()
    places.highest_rise = np.full_like(places.highest_rise, np.inf)
    late = places.judged()
    for one, other in zip(soon, late, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, beside=st.sampled_from([0.0, 0.6, 0.9]), ever=st.sampled_from([0.0, 0.35, 0.8]))
def test_fringes_equal_their_plain_twin(seed: int, beside: float, ever: float) -> None:
    places = random_places(seed)
    outcome, reason = places.judged()
    detail, noise = (energy.astype(np.float64) for energy in (places.detail, places.noise))
    expected = naive_verdict.leave_out_fringes(detail, noise, beside, ever, reason, outcome)
    _verdict.leave_out_fringes(places.detail, places.noise, beside, ever, reason, outcome)
    np.testing.assert_array_equal(outcome, expected)
