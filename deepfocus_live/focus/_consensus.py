"""The consensus rule: two measures vote, and say where they do not know.

Design Notes
------------
The axial rule asks where a place is sharpest, and always finds an answer. This one
asks first whether the answer can be trusted, of each peak of each place:

- Has detail risen above the noise that was measured in this stack?
- Is enough of the contrast fine? A shadow has contrast and no detail.
- Is there enough of it, beside the strongest things in this stack?
- If it is the first or last slice: is it as sharp there as others are at theirs?
- Does contrast invert here? Then the dip between two peaks is focus.

What fails becomes *undecided* in the slices that would have been in focus, and what
has not risen at all is not in focus. The same numbers serve every stack; they were
chosen on simulated truth and on A01, see docs/labels.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._brightness import Brightness, measure_brightness
from deepfocus_live.focus._drift import measure_drift
from deepfocus_live.focus._evidence import DETAIL_SPREAD, GRAINS_PER_BLOCK, Evidence
from deepfocus_live.focus._inversion import CELL_BLOCKS, find_inversion
from deepfocus_live.focus._noise import measure_noise
from deepfocus_live.focus._verdict import (
    FIXED,
    IN_FOCUS,
    INVERTED,
    NOTHING,
    UNDECIDED,
    describe_peaks,
    judge_places,
    leave_out_fringes,
    survey,
)

__all__ = ["Limits", "Verdict", "consensus_rule"]

_STRONG = 0.98  # quantile of the amplitudes of what was found
_BEST, _CLEARLY = 0.9, 2.0  # quantile of sharpness, and how far it must be above the least
# Rounding to whole counts draws contours on what is smooth: no integer image has less noise.
_ROUNDING = 0.25
_FEWEST_INSIDE = 0.1  # of what was found: below it nothing tells how sharp sharp is
_MOSTLY_INVERTED = 0.3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the rule asks for.

    Attributes
    ----------
    rise : float
        How far the vote has risen from a peak's foot to its top, in slices that are in
        focus; 0 to 1.
    prominence : float
        Of a further peak, as a share of the place's whole range.
    perhaps, sure : float
        Rise of detail in standard deviations of the noise: what is below `perhaps` is
        noise, what is between them undecided.
    sharp : float
        Least share that detail has of the contrast, in a peak that is sharp.
    end_sharp : float
        Quantile of the sharpness of peaks inside the stack that a peak on its first or
        last slice must reach.
    faint : float
        Least contrast, as a share of the strongest things' in this stack.
    fringe : float
        Least detail beside the neighbours' highest in the same slice.
    halo : float
        Least detail beside the neighbours' highest in the whole stack.
    """

    rise: float = 0.63
    prominence: float = 0.25
    perhaps: float = 4.5
    sure: float = 6.0
    sharp: float = 0.04
    end_sharp: float = 0.25
    faint: float = 0.3
    fringe: float = 0.6
    halo: float = 0.35


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one stack, and what it found on the way.

    Attributes
    ----------
    weak_label, undecided : (Z, By, Bx) bool
        In focus, and where the rule will not say; never both.
    reason : (By, Bx) uint8
        What each place is: the constants of `_verdict`.
    scores : (Z, By, Bx) float32
        Root of the detail less its noise, corrected for brightness; counts, >= 0. Where
        contrast inverts: upside down in the slices of the dip, 0 in the others.
    brightness : Brightness
    drift_px : (Z, 2) float64
        Of the specimen, along y and x, from the first slice on.
    noise : float
        Standard deviation of a grain's noise at the median brightness, counts.
    inverted_share : float
        Of the specimen, 0 to 1.
    faint : float
        Contrast below which nothing was decided, counts; infinite where nothing stands
        beyond doubt.
    """

    weak_label: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    reason: NDArray[np.uint8]
    scores: NDArray[np.float32]
    brightness: Brightness
    drift_px: NDArray[np.float64]
    noise: float
    inverted_share: float
    faint: float


def consensus_rule(
    evidence: Sequence[Evidence],
    *,
    grain_px: int = 2,
    dtype: np.dtype[Any] | None = None,
    dark_offset: float | None = None,
    flat_field: NDArray[np.float32] | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Judge a stack of at least 3 slices.

    Parameters
    ----------
    evidence : sequence of Evidence
        The slices that arrived, in z order.
    grain_px : int
        That they were measured with.
    dtype : numpy.dtype, optional
        Of the pixels; uint16 by default.
    dark_offset : float, optional
        Counts of a pixel that saw no light; estimated where None.
    flat_field : (By, Bx) float32, optional
        How bright an empty field is, 1 on average.
    limits : Limits, optional

    Returns
    -------
    Verdict
    """
    limits = limits or Limits()
    mean = np.stack([one.mean for one in evidence])
    brightness = measure_brightness(mean, dark_offset)
    drift_px = measure_drift(mean, GRAINS_PER_BLOCK * grain_px)
    contrast = np.stack([one.contrast for one in evidence])
    detail = np.stack([one.detail for one in evidence])
    noise = measure_noise(detail, mean).at(mean)
    dtype = np.dtype(np.uint16) if dtype is None else dtype
    if dtype.kind == "u":
        np.maximum(noise, np.float32(_ROUNDING), out=noise)
    dimming = (brightness.gain**2).astype(np.float32)[:, None, None]
    if flat_field is not None:
        dimming = dimming * flat_field**2
    for energies in (contrast, detail, noise):
        energies /= dimming
    middle_noise = float(np.median(noise[:, ::4, ::3]))
    inversion = find_inversion(
        [one.high_pass for one in evidence],
        np.maximum(contrast - noise, 0),
        noise=middle_noise / 4,
        rise=limits.rise,
    )
    votes = np.empty_like(contrast)
    peak, lowest = np.empty((2, *contrast.shape[1:]), np.int16)
    highest_rise = np.empty(contrast.shape[1:], np.float32)
    survey(contrast, detail, noise, votes, peak, lowest, highest_rise)
    end_sharp, faint = _standards(contrast, detail, noise, peak, lowest, limits)
    outcome = np.empty(contrast.shape, np.uint8)
    reason = np.empty(contrast.shape[1:], np.uint8)
    white = _white_level([one.brightest for one in evidence], dtype)
    judge_places(
        contrast,
        detail,
        noise,
        votes,
        peak,
        lowest,
        highest_rise,
        np.stack([one.brightest >= white for one in evidence]),
        inversion.inverted,
        inversion.in_focus,
        CELL_BLOCKS,
        (
            limits.rise,
            limits.prominence,
            limits.perhaps,
            limits.sure,
            limits.sharp,
            end_sharp,
            faint,
        ),
        inversion.share > _MOSTLY_INVERTED,
        outcome,
        reason,
    )
    leave_out_fringes(detail, noise, limits.fringe, limits.halo, reason, outcome)
    at = lowest[None].astype(np.intp)
    least, hiss = (np.take_along_axis(plane, at, axis=0)[0] for plane in (detail, noise))
    reason[(reason == NOTHING) & (least > (1 + limits.sure * DETAIL_SPREAD) * hiss)] = FIXED
    scores = np.sqrt(np.maximum(detail - noise, 0))
    turned = reason == INVERTED
    flipped = scores[:, turned].max(axis=0) - scores[:, turned]
    scores[:, turned] = np.where(outcome[:, turned] != 0, flipped, 0)
    return Verdict(
        weak_label=outcome == IN_FOCUS,
        undecided=outcome == UNDECIDED,
        reason=reason,
        scores=scores,
        brightness=brightness,
        drift_px=drift_px,
        noise=middle_noise**0.5,
        inverted_share=inversion.share,
        faint=faint,
    )


def _white_level(brightest: Sequence[NDArray[np.float32]], dtype: np.dtype[Any]) -> float:
    """Return the count at which the camera is saturated.

    The highest that occurs, if a camera can end there: one less than a power of 2 from
    8 bit on.
    """
    if dtype.kind != "u":
        return float("inf")
    highest = float(max(plane.max() for plane in brightest))
    ends = [2.0**bits - 1 for bits in range(8, 8 * dtype.itemsize + 1)]
    return highest if highest in ends else float("inf")


def _standards(
    contrast: NDArray[np.float32],
    detail: NDArray[np.float32],
    noise: NDArray[np.float32],
    peak: NDArray[np.int16],
    lowest: NDArray[np.int16],
    limits: Limits,
) -> tuple[float, float]:
    """Return how sharp a peak on an end slice must be, and the contrast below which all is faint.

    Both are set by what stands beyond doubt in this stack; infinite where nothing does.
    """
    sigmas, sharpness, amplitude = np.empty((3, *peak.shape), np.float32)
    describe_peaks(contrast, detail, noise, peak, lowest, sigmas, sharpness, amplitude)
    found = (sigmas >= limits.sure) & (sharpness >= limits.sharp)
    # Where nothing is sharp, the least blurred of it still passes here and there.
    if not found.any() or np.quantile(sharpness[found], _BEST) < _CLEARLY * limits.sharp:
        return float("inf"), float("inf")
    faint = limits.faint * float(np.quantile(amplitude[found], _STRONG))
    found &= amplitude >= faint
    inside = found & (peak > 0) & (peak < len(contrast) - 1)
    if inside.sum() < max(1, _FEWEST_INSIDE * found.sum()):
        return float("inf"), faint
    return float(np.quantile(sharpness[inside], limits.end_sharp)), faint
