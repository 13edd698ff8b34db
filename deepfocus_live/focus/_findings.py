"""What the consensus rule found on its way, and what a person should know of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._brightness import Brightness
from deepfocus_live.focus._conditions import Conditions
from deepfocus_live.focus._consensus import Verdict
from deepfocus_live.focus._verdict import (
    BESIDE,
    BEYOND_FIRST,
    BEYOND_LAST,
    BLURRED,
    FAINT,
    FIXED,
    FOUND,
    INVERTED,
    MANY,
    NOISY,
    NOTHING,
    SATURATED,
)

__all__ = ["Findings", "findings_of"]

_DRIFT_SHARE = 0.25  # of a window: what blurs the axial curves
_MOSTLY = 0.5
_SAID_INVERTED = 0.05
_SAID_FIXED = 0.05
_ENDS = (BEYOND_FIRST, BEYOND_LAST)


@dataclass(frozen=True)
class Findings:
    """What was found in one stack.

    Attributes
    ----------
    brightness : Brightness
        Gain of every slice, and the camera's dark offset.
    drift_px : (Z, 2) float64
        Of the specimen along y and x, from the first slice on.
    drifts : bool
        Whether it moves by more than a quarter of a window: nothing should learn from
        this stack.
    noise : float
        Standard deviation of a grain's noise, counts.
    inverted_share, undecided_share : float
        Of the specimen: where contrast inverts through focus, and where nothing was
        decided; 0 to 1.
    fixed_share : float
        Of the field: where every slice shows the same fine pattern, dust and hot pixels.
    notes : tuple of str
        A line each, for people.
    """

    brightness: Brightness
    drift_px: NDArray[np.float64]
    drifts: bool
    noise: float
    inverted_share: float
    undecided_share: float
    fixed_share: float
    notes: tuple[str, ...]


def findings_of(verdict: Verdict, conditions: Conditions, *, window_px: int) -> Findings:
    """Return what there is to say of a verdict.

    Parameters
    ----------
    verdict : Verdict
    conditions : Conditions
        Lengths are said in µm where the z-step is known.
    window_px : int
        Side of the rule's windows.
    """
    moved = float(np.linalg.norm(np.ptp(verdict.drift_px, axis=0)))
    drifts = moved > _DRIFT_SHARE * window_px
    counts = np.bincount(verdict.reason.ravel(), minlength=FIXED + 1)
    fixed_share = float(counts[FIXED] / counts.sum())
    specimen = int(counts[FOUND : BESIDE + 1].sum())
    # What is found and left out as a fringe belongs to something that is decided.
    open_places = verdict.undecided.any(axis=0) & ~verdict.weak_label.any(axis=0)
    causes = np.bincount(verdict.reason[open_places], minlength=FIXED + 1)
    causes[[NOTHING, FOUND, FIXED]] = 0
    share = float(causes.sum() / specimen) if specimen else 0.0
    notes: list[str | None] = [
        conditions.z_step_note,
        conditions.window_note,
        verdict.brightness.note,
    ]
    if drifts:
        notes.append(
            f"the specimen moves sideways by {moved:.0f} px during the scan, over a quarter of "
            f"the {window_px} px window: labels are smeared, and nothing is learned from them"
        )
    if verdict.inverted_share > _SAID_INVERTED:
        notes.append(
            f"contrast inverts through focus at {100 * verdict.inverted_share:.0f} % of the "
            "specimen: there focus is taken to be where it vanishes"
        )
    if fixed_share > _SAID_FIXED:
        notes.append(
            f"{100 * fixed_share:.0f} % of the field shows the same fine pattern in every slice "
            "(dust, hot pixels, or a specimen that never leaves focus): ignored"
        )
    if share > _MOSTLY:
        notes.append(_why_undecided(verdict, conditions, causes, share))
    return Findings(
        brightness=verdict.brightness,
        drift_px=verdict.drift_px,
        drifts=drifts,
        noise=verdict.noise,
        inverted_share=verdict.inverted_share,
        undecided_share=share,
        fixed_share=fixed_share,
        notes=tuple(note for note in notes if note),
    )


def _why_undecided(
    verdict: Verdict, conditions: Conditions, causes: NDArray[np.intp], share: float
) -> str:
    """Return one line that says why most of a stack is undecided, and what to do."""
    main = int(causes.argmax())
    where = f"{100 * share:.0f} % of the specimen is undecided, mostly because "
    if main in _ENDS:
        end = "first" if main == BEYOND_FIRST else "last"
        far = _how_far_beyond(verdict, main)
        step = conditions.z_step_um
        slices = "1 slice" if far == 1 else f"{far} slices"
        length = slices if not step else f"{_rounded(far * abs(step))} µm"
        return where + f"focus lies beyond the {end} slice: extend by about {length}"
    return where + dict(_REASONS)[main]


_REASONS = (
    (NOISY, "it hardly rises above the noise: expose longer, or bin the camera"),
    (
        BLURRED,
        "nothing in it is ever sharp: focus lies beyond the scan, or the window is too small "
        "for these optics (give numerical aperture and pixel size)",
    ),
    (FAINT, "it is faint beside the strongest things in view"),
    (SATURATED, "the camera is saturated: expose less"),
    (INVERTED, "contrast inverts through focus, and is too faint to say where"),
    (BESIDE, "contrast inverts through focus nearby"),
    (MANY, "focus curves have many maxima: take larger z-steps or expose longer"),
)


def _how_far_beyond(verdict: Verdict, end: int) -> int:
    """Return by how many slices focus lies beyond an end, extrapolated; at least 1.

    The inverse of a score is close to a parabola around focus; its vertex through the
    three slices nearest to the end is looked for, at each place.
    """
    scores = verdict.scores if end == BEYOND_LAST else verdict.scores[::-1]
    places = scores[-3:, verdict.reason == end]
    inverse = 1 / np.maximum(places, np.finfo(np.float32).tiny ** 0.5)
    bend = inverse[0] - 2 * inverse[1] + inverse[2]
    slope = inverse[2] - inverse[0]
    farthest = len(scores)
    convex = bend > 0
    vertex = np.full(bend.shape, float(farthest))
    np.divide(-slope, 2 * bend, out=vertex, where=convex)
    beyond = np.clip(vertex - 1, 1, farthest)
    return max(1, int(np.ceil(float(np.median(beyond)))))


def _rounded(length_um: float) -> str:
    return f"{length_um:.0f}" if length_um >= 10 else f"{length_um:.2g}"
