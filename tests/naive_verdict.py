"""Plain twin of the consensus rule's kernels: slow, short, and obviously right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._evidence import DETAIL_SPREAD
from deepfocus_live.focus._verdict import (
    BESIDE,
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

__all__ = ["judge_place", "leave_out_fringes", "rise_of_detail", "votes_of"]

Floats = NDArray[np.float64]
Limits = tuple[float, ...]


def votes_of(contrast: Floats, detail: Floats, noise: Floats) -> Floats:
    """Return the mean of how far both amplitudes have risen at each place, (Z, By, Bx)."""
    floor = noise.mean(axis=0)
    votes = np.zeros_like(contrast)
    for energy in (contrast, detail):
        amplitude = np.sqrt(np.maximum(energy - noise, 0) + floor)
        lowest, highest = amplitude.min(axis=0), amplitude.max(axis=0)
        rises = highest > lowest
        span = np.where(rises, highest - lowest, 1)
        votes += np.where(rises, (amplitude - lowest) / span, 0) / 2
    return votes


def rise_of_detail(
    contrast: Floats, detail: Floats, noise: Floats, *, z: int, lowest: int
) -> tuple[float, float]:
    """Return how far one place's detail has risen at `z`: in sigmas, and as share of contrast."""
    signal = np.maximum(detail - noise, 0)
    gained = float(signal[z] - signal[lowest])
    if gained <= 0:
        return 0.0, 0.0
    # Noise in what is seen, and its product with what is there.
    variance = noise**2 + 2 * noise * signal
    sigma = DETAIL_SPREAD * np.sqrt(variance[z] + variance[lowest])
    return gained / float(sigma), gained / max(float(contrast[z] - noise[z]), gained)


def judge_place(
    curves: Floats, white: NDArray[np.bool_], lowest: int, limits: Limits, inverting: bool
) -> tuple[list[int], int]:
    """Return the outcome in each slice and the reason, of one place that does not invert.

    `curves` are its votes, contrast, detail and noise, (4, Z).
    """
    rise, prominence, perhaps, *_ = limits
    votes, *energies = curves
    n_z, main = len(votes), int(votes.argmax())
    in_focus, undecided = np.zeros((2, n_z), bool)
    reasons = {main: NOTHING}
    for z in range(n_z):
        foot = 0.0 if z == main else foot_of(votes, z)
        if not is_peak(votes, z) or votes[z] - foot < prominence:
            continue
        sigmas, sharpness = rise_of_detail(*energies, z=z, lowest=lowest)
        if sigmas < perhaps:
            continue
        extent = extent_of(votes, z, foot + rise * (votes[z] - foot))
        signal = energies[0][z] - energies[2][z]
        doubts = doubts_of(z, n_z, sigmas, sharpness, signal, bool(white[extent].any()), limits)
        reasons[z] = BESIDE if inverting else (doubts or [FOUND])[0]
        (in_focus if reasons[z] == FOUND else undecided)[extent] = True
    if sum(reason != NOTHING for reason in reasons.values()) > 3:
        reasons[main] = MANY
        undecided |= in_focus
        in_focus[:] = False
    return np.where(in_focus, IN_FOCUS, np.where(undecided, UNDECIDED, 0)).tolist(), reasons[main]


def doubts_of(
    z: int, n_z: int, sigmas: float, sharpness: float, signal: float, white: bool, limits: Limits
) -> list[int]:
    """Return why a peak that is more than noise cannot be trusted, gravest first."""
    _, _, _, sure, sharp, end_sharp, faint = limits
    asked = {
        NOISY: sigmas < sure,
        BLURRED: sharpness < sharp,
        FAINT: signal < faint**2,
        BEYOND_FIRST: z == 0 and sharpness < end_sharp,
        BEYOND_LAST: z == n_z - 1 and sharpness < end_sharp,
        SATURATED: white,
    }
    return [doubt for doubt, holds in asked.items() if holds]


def is_peak(votes: Floats, z: int) -> bool:
    """Return whether `z` is the first slice of a rise's end."""
    before = votes[z - 1] if z > 0 else -np.inf
    after = votes[z + 1] if z + 1 < len(votes) else -np.inf
    return bool(before < votes[z] >= after)


def foot_of(votes: Floats, z: int) -> float:
    """Return the lowest vote on the way to one as high, of the two ways the one less low.

    A flat top is one peak: its own slices are not others as high.
    """
    top, feet = votes[z], [0.0]
    for way in (votes[:z][::-1], votes[z + 1 :]):
        beyond = np.flatnonzero(np.minimum.accumulate(way) < top)
        start = int(beyond[0]) if len(beyond) else len(way)
        if (way[:start] > top).any():
            feet.append(float(top))  # the top is a step on the way up
        elif (way[start:] >= top).any():
            feet.append(float(way[: start + int((way[start:] >= top).argmax())].min()))
    return max(feet)


def extent_of(votes: Floats, z: int, limit: float) -> slice:
    """Return the slices around `z` that reach `limit` without a gap."""
    first = last = z
    while first > 0 and votes[first - 1] >= limit:
        first -= 1
    while last + 1 < len(votes) and votes[last + 1] >= limit:
        last += 1
    return slice(first, last + 1)


def leave_out_fringes(
    detail: Floats,
    noise: Floats,
    beside: float,
    ever: float,
    reason: NDArray[np.uint8],
    outcome: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Return `outcome` (Z, By, Bx), undecided where only the neighbours are sharp."""
    signal = np.maximum(detail - noise, 0)
    left = outcome.copy()
    for z, y, x in zip(*np.nonzero(outcome == IN_FOCUS), strict=True):
        around = np.s_[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        highest, ever_highest = signal[z][around].max(), signal[:, *around].max()
        # As energies: roots would round otherwise.
        below = beside * beside * highest, ever * ever * ever_highest
        if reason[y, x] != INVERTED and (detail - noise)[z, y, x] < max(below):
            left[z, y, x] = UNDECIDED
    return left
