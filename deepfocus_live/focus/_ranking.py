"""Which focus measure suits a specimen: what each one's axial curves are worth.

Design Notes
------------
There is no truth to ask, so a measure is judged by what its own curves do at
*textured blocks*: places where the slices show detail well above the noise that
was measured in them. The blocks are chosen from the pixels, not from any measure's
scores, so all measures answer for the same ones. What is judged is how surely a
measure finds the best slice, not how many slices around it a rule then marks: a
steeper measure marks fewer.

*Noise.* Each slice is scored as it is, and twice with as much noise added as it has
already. A measure that then finds another slice best was reading noise. What the
two noisy scores differ by is the unit of sensitivity: a measure and its square are
equally good, and come out equally sensitive.

*Inversion.* Where transmitted light inverts through focus, a structure that is
dark on one side is bright on the other and nearly gone in between: measures have
a dip at focus and a maximum on either side. Two things one above the other make
such a dip, too; only an inversion makes the pictures at the two maxima each
other's negative.

*Memory.* A slice leaves its block scores and its picture in sixteen times fewer
pixels, for the question of inversion; never its pixels. What noise does is summed
up as slices come.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._axial_curves import AxialCurves, NoiseEffect
from deepfocus_live.focus._door import checked_slice
from deepfocus_live.focus._measures import MEASURES, measure_named
from deepfocus_live.focus._presets import DEFAULT_PRESET
from deepfocus_live.focus._rules import MIN_SLICES
from deepfocus_live.focus._scan import focus_score_blocks, scan_block_px
from deepfocus_live.focus._texture import (
    REDUCTION,
    SMALLEST_SIDE_PX,
    Patches,
    correlation,
    noise_counts_of,
    reduced_slice,
    with_noise,
)

__all__ = ["MeasureRank", "Ranking", "rank_measures"]

NEGATIVE = -0.3  # correlation; that of 64 unrelated pixels is 0 ± 0.125
INVERTED = 0.2  # share of the textured blocks from which on the specimen inverts
SIGNAL = 4.0  # times the noise power; the largest of 30 slices of noise reaches 1.7
FAINTEST = 0.02  # of the power of the most textured blocks
REPEATED = 0.2  # correlation of neighbouring slices; that of noise is 0
FEWEST_BLOCKS = 4
EVEN = 0.05  # of reliability, a share
SEED = 1998


@dataclass(frozen=True)
class MeasureRank:
    """What one measure is worth on one stack; NaN where there was nothing to judge by.

    Attributes
    ----------
    measure : str
        A name in `MEASURES`.
    mean_focus_score : (Z,) float64
        Mean score over the slice's blocks, in the measure's unit.
    axial_curve : (Z,) float64
        The same from 0 at its lowest to 1 at its best slice; 0 where it never changes.
    best_z : int or None
        The slice with the highest mean score, the first of equals; None where all
        are the same.
    reliable : float
        Share of the textured blocks, 0 to 1, at which the measure can be trusted:
        with noise added its best slice is still a good one, the best slice of all
        measures together is a good one to it, and it is not one side of an
        inversion. "Good" is risen at least 80 % of the way, as in `axial_rule`.
    sensitivity : float
        By how much scores fall one slice away from a block's own best slice, as a
        multiple of the standard deviation that the stack's noise gives them there;
        the median over the textured blocks whose best slice is not the first or the
        last. Higher is steeper. Grows with the z-step: compare measures, not stacks.
    false_peaks : float
        Mean number of further maxima of a textured block's curve, those that stand
        out by more than 0.2 of its rise; the first and last slice can be maxima, and
        things above one another make true ones.
    noise_robustness : float
        Share of the textured blocks, 0 to 1, whose best slice with noise added is
        still a good one without; the mean of two trials.
    inverted : float
        Share of the textured blocks, 0 to 1, whose curve dips between two maxima
        with pictures that are each other's negative (see Design Notes).
    ms_per_slice : float
        Median time of scoring one slice, in milliseconds, one thread, on this machine.
    """

    measure: str
    mean_focus_score: NDArray[np.float64]
    axial_curve: NDArray[np.float64]
    best_z: int | None
    reliable: float
    sensitivity: float
    false_peaks: float
    noise_robustness: float
    inverted: float
    ms_per_slice: float


@dataclass(frozen=True)
class Ranking:
    """The measures in order, and what to label this specimen with.

    Attributes
    ----------
    measures : tuple of MeasureRank
        Best first. Those within 0.05 of the most reliable are even there and come
        in order of their sensitivity, the others in order of their reliability. In
        the order asked for where there was nothing to judge by.
    recommended : str or None
        A name in `PRESETS`; None where no preset would find focus.
    reason : str
        Why, in one line.
    textured_share : float
        Share of the blocks, 0 to 1, that show detail above the noise.
    inverted : float
        The largest of the measures' `inverted`, 0 to 1; NaN where nothing was judged.
    at_ends : float
        Share of the textured blocks, 0 to 1, that all measures together find best in
        the first or the last slice: their focus may lie beyond the stack. NaN where
        nothing was judged.
    noise_counts : float
        Standard deviation of the noise in the stack's pixels, in counts.
    window_px, stride_px : int
        Of the scan that all measures were asked with.
    """

    measures: tuple[MeasureRank, ...]
    recommended: str | None
    reason: str
    textured_share: float
    inverted: float
    at_ends: float
    noise_counts: float
    window_px: int
    stride_px: int

    @property
    def inverts(self) -> bool:
        """Whether contrast inverts through focus: at a fifth of the textured blocks or more."""
        return self.inverted >= INVERTED


def rank_measures(
    z_stack: Iterable[ArrayLike],
    *,
    measures: Sequence[str] | None = None,
    window_px: int = 32,
    stride_px: int = 16,
    on_slice: Callable[[int], None] | None = None,
) -> Ranking:
    """Rank focus measures by what their axial curves do on one stack.

    Parameters
    ----------
    z_stack : (Z, Y, X) array, or any iterable of (Y, X) slices in z order
        uint8, uint16 or float32; at least 3 slices of at least 16 × 16 pixels. Read
        once, one slice held at a time.
    measures : sequence of str, optional
        Names in `MEASURES`; all by default.
    window_px, stride_px : int
        Of the scan, as in `focus_score_blocks`; at least 16 and 4 pixels, the window
        a multiple of the stride.
    on_slice : callable, optional
        Told the index of each slice that is done.

    Returns
    -------
    Ranking
        The same for the same slices, but for the times. A stack without detail above
        its noise is no error: nothing is recommended, and the measures keep their
        mean curves.

    Raises
    ------
    ValueError
        If there are fewer than 3 slices, they are too small or of several sizes,
        hold NaN or are of another dtype, or if an option is unknown or out of range.

    References
    ----------
    .. [1] Li, Kudryashev, Yakimovich (2022), Fig. 1b: mean scores over z.
    .. [2] Pertuz, Puig, Garcia (2013), doi:10.1016/j.patcog.2012.11.011: measures
       compared under noise, contrast and window size. They compare with known
       depths, we with the measures' common opinion.
    .. [3] Subbarao, Tyan (1998), doi:10.1109/34.709612: the best measure is the one
       whose peak noise moves least, its noise over its fall beside the peak. We add
       the noise and look, instead of deriving its effect.
    .. [4] Immerkær (1996), doi:10.1006/cviu.1996.0060: the noise of one image. Ours
       is per block, and the lower quartile of the blocks.
    """
    names = _checked_options(measures, window_px, stride_px)
    gathered: _Gathered | None = None
    n_slices = 0
    for z, z_slice in enumerate(z_stack):
        pixels = checked_slice(z_slice)
        if gathered is None:
            gathered = _Gathered(names, window_px, stride_px, (pixels.shape[0], pixels.shape[1]))
        gathered.add(z, pixels)
        n_slices = z + 1
        if on_slice is not None:
            on_slice(z)
    if gathered is None or n_slices < MIN_SLICES:
        raise ValueError(
            f"ranking needs at least {MIN_SLICES} slices, this stack has {n_slices}: "
            "a best slice needs a neighbour on either side"
        )
    return gathered.ranking()


def _checked_options(
    measures: Sequence[str] | None, window_px: int, stride_px: int
) -> tuple[str, ...]:
    names = tuple(MEASURES) if measures is None else tuple(measures)
    if not names:
        raise ValueError("there is no measure to rank: name at least one, or leave it out for all")
    for name in names:
        measure_named(name)
    if len(set(names)) < len(names):
        raise ValueError(f"a measure is named twice: {', '.join(names)}")
    scan_block_px((window_px,), (stride_px,))
    if window_px < SMALLEST_SIDE_PX or stride_px < REDUCTION:
        raise ValueError(
            f"ranking needs a window of at least {SMALLEST_SIDE_PX} px and a stride of at least "
            f"{REDUCTION} px, not {window_px} and {stride_px}"
        )
    if window_px % stride_px:
        # Blocks are as large as what the two have in common, and every one is kept.
        raise ValueError(f"a window of {window_px} px is no multiple of a stride of {stride_px} px")
    return names


class _Gathered:
    """What is kept of the slices, and what is made of it when all are there."""

    def __init__(
        self, names: tuple[str, ...], window_px: int, stride_px: int, shape_yx: tuple[int, int]
    ) -> None:
        if min(shape_yx) < SMALLEST_SIDE_PX:
            raise ValueError(
                f"slices are {shape_yx}: ranking needs at least {SMALLEST_SIDE_PX} pixels each way"
            )
        self._names = names
        self._window_px = window_px
        self._stride_px = stride_px
        self._shape_yx = shape_yx
        self._patches = Patches(shape_yx, stride_px, window_px)
        self._clean: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        self._noise = {name: NoiseEffect(self._patches.blocks_yx) for name in names}
        self._seconds: dict[str, list[float]] = {name: [] for name in names}
        self._reduced: list[NDArray[np.float32]] = []
        self._noise_counts: list[float] = []
        self._power = np.zeros(self._patches.blocks_yx)  # the highest of any slice

    def add(self, z: int, pixels: NDArray[Any]) -> None:
        """Score one slice with every measure, as it is and with noise added."""
        if pixels.shape != self._shape_yx:
            raise ValueError(
                f"slice {z} is {pixels.shape}, the stack is {self._shape_yx}: "
                "slices of one stack have one size"
            )
        noise_counts = noise_counts_of(pixels)
        noisy = [with_noise(pixels, noise_counts, seed=(SEED, z, trial)) for trial in (0, 1)]
        for name in self._names:
            begin = time.perf_counter()
            scores = self._scored(pixels, name)
            self._seconds[name].append(time.perf_counter() - begin)
            self._clean[name].append(scores)
            self._noise[name].add(z, scores, [self._scored(trial, name) for trial in noisy])
        reduced = reduced_slice(pixels, self._window_px)
        self._reduced.append(reduced)
        self._noise_counts.append(noise_counts)
        np.maximum(self._power, self._patches.mean_square(reduced), out=self._power)

    def _scored(self, pixels: NDArray[Any], name: str) -> NDArray[np.float32]:
        return focus_score_blocks(
            pixels, measure=name, windows_px=(self._window_px,), strides_px=(self._stride_px,)
        ).scores

    def ranking(self) -> Ranking:
        """Return the measures in order, and the preset for this specimen."""
        noise_counts = statistics.median(self._noise_counts)
        reduced = np.stack(self._reduced)
        textured = self._textured(reduced, noise_counts)
        curves = {
            name: AxialCurves(np.stack(self._clean[name])[:, textured]) for name in self._names
        }
        together = np.mean([curve.risen for curve in curves.values()], axis=0).argmax(axis=0)
        at_ends = _mean((together == 0) | (together == len(reduced) - 1))
        ranks = [self._rank(name, curves[name], together, reduced, textured) for name in curves]
        if textured.any():
            ranks = _ordered(ranks)
        inverted = max(rank.inverted for rank in ranks)
        recommended, reason = _recommendation(ranks[0], inverted, at_ends, noise_counts)
        return Ranking(
            measures=tuple(ranks),
            recommended=recommended,
            reason=reason,
            textured_share=float(textured.mean()),
            inverted=inverted,
            at_ends=at_ends,
            noise_counts=noise_counts,
            window_px=self._window_px,
            stride_px=self._stride_px,
        )

    def _textured(self, reduced: NDArray[np.float32], noise_counts: float) -> NDArray[np.bool_]:
        """Return which blocks are judged by, (By, Bx); none where all there is may be noise."""
        noise_power = (noise_counts / REDUCTION) ** 2
        faintest = FAINTEST * float(np.quantile(self._power, 0.95))
        textured = (self._power > SIGNAL * noise_power) & (self._power >= faintest)
        if textured.sum() < FEWEST_BLOCKS:
            return np.zeros_like(textured)
        seen = reduced[:, self._patches.covered(textured)]
        # Where neighbouring pixels share their noise there is more of it than was
        # measured, but noise does not come again in the next slice.
        if max(abs(correlation(seen[:-1], seen[1:]))) < REPEATED:
            return np.zeros_like(textured)
        return textured

    def _rank(
        self,
        name: str,
        curves: AxialCurves,
        together: NDArray[np.intp],
        reduced: NDArray[np.float32],
        textured: NDArray[np.bool_],
    ) -> MeasureRank:
        mean = np.stack(self._clean[name]).mean(axis=(1, 2), dtype=np.float64)
        rise = mean.max() - mean.min()
        noise = self._noise[name]
        robust = np.array([curves.good_at(z[textured]) for z in noise.best_z])
        agreed = curves.good_at(together)
        before, after, dips = curves.deepest_dips()
        patches = self._patches.of(textured)
        inverted = dips & (
            correlation(reduced[before[:, None], patches], reduced[after[:, None], patches])
            < NEGATIVE
        )
        return MeasureRank(
            measure=name,
            mean_focus_score=mean,
            axial_curve=(mean - mean.min()) / rise if rise > 0 else np.zeros_like(mean),
            best_z=int(mean.argmax()) if rise > 0 else None,
            reliable=_mean(robust.all(axis=0) & agreed & ~inverted),
            sensitivity=curves.sensitivity(noise.counts_at_best[textured]),
            false_peaks=_mean(curves.peaks() - 1),
            noise_robustness=_mean(robust),
            inverted=_mean(inverted),
            ms_per_slice=1000 * statistics.median(self._seconds[name]),
        )


def _mean(blocks: NDArray[np.bool_] | NDArray[np.int64]) -> float:
    """Return the mean over the blocks; NaN, and no warning, where there is none."""
    return float(blocks.mean()) if blocks.size else math.nan


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ordered(ranks: Sequence[MeasureRank]) -> list[MeasureRank]:
    """Return the measures best first; see `Ranking.measures`."""
    enough = max(rank.reliable for rank in ranks) - EVEN
    even = [rank for rank in ranks if rank.reliable >= enough]
    others = [rank for rank in ranks if rank.reliable < enough]
    # NaN, where no best slice had two neighbours, comes last.
    even.sort(key=lambda rank: -math.inf if math.isnan(rank.sensitivity) else rank.sensitivity)
    others.sort(key=lambda rank: rank.reliable)
    return even[::-1] + others[::-1]


def _recommendation(
    best: MeasureRank, inverted: float, at_ends: float, noise_counts: float
) -> tuple[str | None, str]:
    """Return the preset for the specimen, and why in one line."""
    if math.isnan(best.reliable):
        return None, (
            "too little signal: nowhere is there detail above the noise "
            f"({noise_counts:.2g} counts) that the next slice shows again"
        )
    recommended = DEFAULT_PRESET
    if inverted >= INVERTED:
        reason = (
            f"contrast inverts through focus at {_percent(inverted)} of the textured places: "
            f"{recommended} allows for that, presets of one measure mark the slices "
            "on either side instead"
        )
    elif best.reliable < 0.5:
        reason = (
            f"the measures disagree, even {best.measure} is reliable at only "
            f"{_percent(best.reliable)} of the textured places"
        )
    else:
        reason = (
            f"nothing inverts through focus; {best.measure} is the steepest of those that "
            f"find the best slice surely, at {_percent(best.reliable)} of the textured places"
        )
    if inverted < INVERTED and best.false_peaks >= 1:
        reason += f"; but places have {best.false_peaks:.1f} further peaks: look at the labels"
    if at_ends > 0.5:
        reason += f"; {_percent(at_ends)} are best in the first or last slice: scan further"
    return recommended, reason
