"""What each place of a stack is, from its axial curves: the kernels of the consensus rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._evidence import DETAIL_SPREAD
from deepfocus_live.focus._jit import kernel

__all__ = [
    "BESIDE",
    "BEYOND_FIRST",
    "BEYOND_LAST",
    "BLURRED",
    "FAINT",
    "FIXED",
    "FOUND",
    "INVERTED",
    "IN_FOCUS",
    "MANY",
    "NOISY",
    "NOTHING",
    "SATURATED",
    "UNDECIDED",
    "describe_peaks",
    "judge_places",
    "leave_out_fringes",
    "survey",
]

# What a place is in one slice …
IN_FOCUS, UNDECIDED = 1, 2
# … and what it is in the whole stack.
NOTHING, FOUND, BEYOND_FIRST, BEYOND_LAST, NOISY = 0, 1, 2, 3, 4
BLURRED, FAINT, SATURATED, INVERTED, MANY = 5, 6, 7, 8, 9
BESIDE = 10  # a peak where most of the stack inverts
FIXED = 11  # the same in every slice: dust, hot pixels

_MOST_PEAKS = 3  # more cannot be told from chance
# Of a difference between two slices of nothing but noise, relative to the noise.
_LEAST_SPREAD = DETAIL_SPREAD * 2**0.5


@kernel
def survey(
    contrast: NDArray[np.float32],
    detail: NDArray[np.float32],
    noise: NDArray[np.float32],
    votes: NDArray[np.float32],
    peak: NDArray[np.int16],
    lowest: NDArray[np.int16],
    highest_rise: NDArray[np.float32],
) -> None:
    """Vote on every place of every slice, and say where its curves have their ends.

    Row by row, because slices lie far apart in memory and places side by side.

    Parameters
    ----------
    contrast, detail, noise : (Z, By, Bx) float32
        Corrected for brightness.
    votes : (Z, By, Bx) float32
        Filled with how far both measures have risen on average, 0 to 1.
    peak : (By, Bx) int16
        Filled with the slice of the highest vote.
    lowest : (By, Bx) int16
        Filled with the slice of the least detail.
    highest_rise : (By, Bx) float32
        Filled with a bound that no slice's rise of detail exceeds, in standard deviations
        of the noise.
    """
    n_z, height, width = contrast.shape
    floor = np.empty(width, np.float32)
    quietest = np.empty(width, np.float32)
    low = np.empty(width, np.float32)
    high = np.empty(width, np.float32)
    share = np.float32(1 / n_z)
    for y in range(height):
        for x in range(width):
            floor[x] = 0
            quietest[x] = np.inf
            high[x] = -1
        for z in range(n_z):
            hiss, votes_here = noise[z, y], votes[z, y]
            for x in range(width):
                floor[x] += share * hiss[x]
                quietest[x] = hiss[x] if hiss[x] < quietest[x] else quietest[x]
                votes_here[x] = 0
        _add_votes(contrast, noise, floor, y, votes)
        _add_votes(detail, noise, floor, y, votes)
        best, bottom = peak[y], lowest[y]
        for z in range(n_z):
            votes_here = votes[z, y]
            for x in range(width):
                if votes_here[x] > high[x]:
                    high[x] = votes_here[x]
                    best[x] = z
        for x in range(width):
            low[x] = np.inf
            high[x] = -np.inf
        for z in range(n_z):
            fine, hiss = detail[z, y], noise[z, y]
            for x in range(width):
                energy = fine[x] - hiss[x]
                high[x] = energy if energy > high[x] else high[x]
                if energy < low[x]:
                    low[x] = energy
                    bottom[x] = z
        rise = highest_rise[y]
        for x in range(width):
            gained = high[x] - max(low[x], np.float32(0))
            rise[x] = gained / (np.float32(_LEAST_SPREAD) * quietest[x])


@kernel
def _add_votes(
    measure: NDArray[np.float32],
    noise: NDArray[np.float32],
    floor: NDArray[np.float32],
    y: int,
    votes: NDArray[np.float32],
) -> None:
    """Add half of how far one measure has risen in row `y` to its votes."""
    n_z, width = len(measure), len(floor)
    scores = np.empty((n_z, width), np.float32)
    lowest = np.empty(width, np.float32)
    span = np.empty(width, np.float32)
    for x in range(width):
        lowest[x] = np.inf
        span[x] = 0
    for z in range(n_z):
        energies, hiss, here = measure[z, y], noise[z, y], scores[z]
        for x in range(width):
            signal = energies[x] - hiss[x]
            here[x] = np.sqrt((signal if signal > 0 else np.float32(0)) + floor[x])
        for x in range(width):
            lowest[x] = here[x] if here[x] < lowest[x] else lowest[x]
        for x in range(width):
            span[x] = here[x] if here[x] > span[x] else span[x]
    for x in range(width):
        risen = span[x] - lowest[x]
        span[x] = np.float32(0.5) / risen if risen > 0 else np.float32(0)
    for z in range(n_z):
        here, votes_here = scores[z], votes[z, y]
        for x in range(width):
            votes_here[x] += (here[x] - lowest[x]) * span[x]


@kernel
def _rise(
    seen: float, fine: float, noise: float, fine_lowest: float, noise_lowest: float
) -> tuple[float, float]:
    """Return how far detail rises from its lowest slice to another.

    In standard deviations of the noise, and as the share that it has of the contrast
    `seen` there, 0 to 1. What is there in every slice, like a hot pixel, has not risen.
    """
    gained = fine - noise - max(fine_lowest - noise_lowest, 0.0)
    if gained <= 0:
        return 0.0, 0.0
    variance = noise * (noise + 2 * max(fine - noise, 0.0))
    variance += noise_lowest * (noise_lowest + 2 * max(fine_lowest - noise_lowest, 0.0))
    sigmas = gained / (DETAIL_SPREAD * np.sqrt(variance)) if variance > 0 else np.inf
    return sigmas, gained / max(seen - noise, gained)


@kernel
def describe_peaks(
    contrast: NDArray[np.float32],
    detail: NDArray[np.float32],
    noise: NDArray[np.float32],
    peak: NDArray[np.int16],
    lowest: NDArray[np.int16],
    sigmas: NDArray[np.float32],
    sharpness: NDArray[np.float32],
    amplitude: NDArray[np.float32],
) -> None:
    """Say how good each place is at its best slice.

    Parameters
    ----------
    contrast, detail, noise : (Z, By, Bx) float32
        Corrected for brightness.
    peak, lowest : (By, Bx) int16
        From `survey`.
    sigmas : (By, Bx) float32
        Filled with how far detail has risen there, in standard deviations of the noise.
    sharpness : (By, Bx) float32
        Filled with that rise as a share of the contrast there.
    amplitude : (By, Bx) float32
        Filled with the square root of the contrast there, counts.
    """
    for y in range(peak.shape[0]):
        for x in range(peak.shape[1]):
            best, low = peak[y, x], lowest[y, x]
            sigmas[y, x], sharpness[y, x] = _rise(
                contrast[best, y, x],
                detail[best, y, x],
                noise[best, y, x],
                detail[low, y, x],
                noise[low, y, x],
            )
            amplitude[y, x] = np.sqrt(max(contrast[best, y, x] - noise[best, y, x], 0.0))


@kernel
def judge_places(
    contrast: NDArray[np.float32],
    detail: NDArray[np.float32],
    noise: NDArray[np.float32],
    votes: NDArray[np.float32],
    peak: NDArray[np.int16],
    lowest: NDArray[np.int16],
    highest_rise: NDArray[np.float32],
    white: NDArray[np.bool_],
    inverted: NDArray[np.bool_],
    dips: NDArray[np.bool_],
    cell_blocks: int,
    limits: tuple[float, float, float, float, float, float, float],
    inverting: bool,
    outcome: NDArray[np.uint8],
    reason: NDArray[np.uint8],
) -> None:
    """Say of every place in every slice whether it is in focus, not, or undecided.

    Parameters
    ----------
    contrast, detail, noise : (Z, By, Bx) float32
        Corrected for brightness.
    votes, peak, lowest, highest_rise
        From `survey`.
    white : (Z, By, Bx) bool
        Where the camera was saturated.
    inverted : (Cy, Cx) bool
    dips : (Z, Cy, Cx) bool
        From `find_inversion`, `cell_blocks` blocks to a cell.
    limits : (rise, prominence, perhaps, sure, sharp, end_sharp, faint)
        See `Limits`; `faint` in counts.
    inverting : bool
        Whether most of this stack inverts: a peak is then no focus anywhere.
    outcome : (Z, By, Bx) uint8
        Filled with 0, `IN_FOCUS` or `UNDECIDED`.
    reason : (By, Bx) uint8
        Filled with what the place is, for its main peak.
    """
    n_z, height, width = contrast.shape
    perhaps, faint = limits[2], limits[6]
    curves = np.empty((width, 4, n_z), np.float32)
    for y in range(height):
        for z in range(n_z):
            for x in range(width):
                curves[x, 0, z] = votes[z, y, x]
                curves[x, 1, z] = contrast[z, y, x]
                curves[x, 2, z] = detail[z, y, x]
                curves[x, 3, z] = noise[z, y, x]
                outcome[z, y, x] = 0
        for x in range(width):
            if inverted[y // cell_blocks, x // cell_blocks]:
                seen = np.float32(0)
                for z in range(n_z):
                    seen = max(seen, curves[x, 1, z] - curves[x, 3, z])
                reason[y, x] = INVERTED
                mark = IN_FOCUS if seen > faint * faint else UNDECIDED
                for z in range(n_z):
                    if dips[z, y // cell_blocks, x // cell_blocks]:
                        outcome[z, y, x] = mark
            elif highest_rise[y, x] < perhaps:
                reason[y, x] = NOTHING
            else:
                reason[y, x] = _judge_peaks(
                    curves[x],
                    peak[y, x],
                    lowest[y, x],
                    white[:, y, x],
                    limits,
                    inverting,
                    outcome[:, y, x],
                )


@kernel
def _judge_peaks(
    curves: NDArray[np.float32],
    main: int,
    lowest: int,
    white: NDArray[np.bool_],
    limits: tuple[float, float, float, float, float, float, float],
    inverting: bool,
    outcome: NDArray[np.uint8],
) -> int:
    """Judge one place by its curves (votes, contrast, detail, noise), (4, Z)."""
    rise, prominence, perhaps, sure, sharp, end_sharp, faint = limits
    votes, contrast, detail, noise = curves[0], curves[1], curves[2], curves[3]
    last = len(votes) - 1
    kind = NOTHING
    peaks = 0
    for z in range(last + 1):
        if z > 0 and votes[z] <= votes[z - 1]:
            continue
        if z < last and votes[z] < votes[z + 1]:
            continue
        foot = 0.0 if z == main else _foot(votes, z)
        if votes[z] - foot < prominence:
            continue
        sigmas, sharpness = _rise(contrast[z], detail[z], noise[z], detail[lowest], noise[lowest])
        if sigmas < perhaps:
            this = NOTHING
        elif inverting:
            this = BESIDE
        elif sigmas < sure:
            this = NOISY
        elif sharpness < sharp:
            this = BLURRED
        elif contrast[z] - noise[z] < faint * faint:
            this = FAINT
        elif (z == 0 or z == last) and sharpness < end_sharp:
            this = BEYOND_FIRST if z == 0 else BEYOND_LAST
        else:
            this = FOUND
        if this != NOTHING:
            peaks += 1
            limit = foot + rise * (votes[z] - foot)
            first = end = z
            while first > 0 and votes[first - 1] >= limit:
                first -= 1
            while end <= last and votes[end] >= limit:
                end += 1
            if this == FOUND and white[first:end].any():
                this = SATURATED
            for k in range(first, end):
                if this == FOUND:
                    outcome[k] = IN_FOCUS
                elif outcome[k] != IN_FOCUS:
                    outcome[k] = UNDECIDED
        if z == main:
            kind = this
    if peaks > _MOST_PEAKS:
        for z in range(last + 1):
            if outcome[z] == IN_FOCUS:
                outcome[z] = UNDECIDED
        return MANY
    return kind


@kernel
def _foot(votes: NDArray[np.float32], peak: int) -> float:
    """Return the lowest vote that must be crossed on the way from a peak to a higher one."""
    foot = 0.0
    for step in (-1, 1):
        lowest = votes[peak]
        z = peak + step
        while 0 <= z < len(votes):
            lowest = min(lowest, votes[z])
            # A flat top's own slices are not others as high.
            if votes[z] > votes[peak] or (votes[z] == votes[peak] and lowest < votes[peak]):
                foot = max(foot, lowest)
                break
            z += step
    return foot


@kernel
def leave_out_fringes(
    detail: NDArray[np.float32],
    noise: NDArray[np.float32],
    beside: float,
    ever: float,
    reason: NDArray[np.uint8],
    outcome: NDArray[np.uint8],
) -> None:
    """Make undecided what is in focus only because something sharper is near.

    A window is wider than its block: beside something sharp it scores high with nothing
    of its own; and a blurred edge passes over places that hold little else. In place:
    `outcome` (Z, By, Bx) where the root of a place's `detail`, less `noise`, is below
    `beside` of its neighbours' highest in the same slice, or below `ever` of their
    highest in the stack. Where contrast inverts, detail says nothing.
    """
    n_z, height, width = outcome.shape
    own = np.zeros((height, width))
    for z in range(n_z):
        for y in range(height):
            for x in range(width):
                own[y, x] = max(own[y, x], detail[z, y, x] - noise[z, y, x])
    for y in range(height):
        for x in range(width):
            if reason[y, x] == INVERTED:
                continue
            highest_ever = 0.0
            for j in range(max(y - 1, 0), min(y + 2, height)):
                for i in range(max(x - 1, 0), min(x + 2, width)):
                    highest_ever = max(highest_ever, own[j, i])
            for z in range(n_z):
                if outcome[z, y, x] != IN_FOCUS:
                    continue
                highest = 0.0
                for j in range(max(y - 1, 0), min(y + 2, height)):
                    for i in range(max(x - 1, 0), min(x + 2, width)):
                        highest = max(highest, detail[z, j, i] - noise[z, j, i])
                energy = detail[z, y, x] - noise[z, y, x]
                if energy < max(beside * beside * highest, ever * ever * highest_ever):
                    outcome[z, y, x] = UNDECIDED
