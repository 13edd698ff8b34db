"""How well masks made from single slices agree with simulated truth.

Design Notes
------------
Every figure is given twice: over *decided* pixels, for one slice does not tell all (see
`deepfocus_live.simulation`), and *strict*, over all pixels against the exact limit of the depth of
field. A slice counts where at least 0.5 % of its decided pixels are in focus; slices with less say
only how much is called in focus that is not. A *mixed* slice holds both, at least 2 % of it decided
specimen in focus and at least 2 % decided specimen out of focus.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.evaluation._overlap import iou
from deepfocus_live.simulation import SPECIMENS, FocalStack, VariedStack, varied_focal_stack

__all__ = [
    "DEFOCUS_EDGES",
    "SimulatedScore",
    "SimulatedSlice",
    "mean_with_interval",
    "score_on_simulation",
]

MaskOf = Callable[[NDArray[np.uint16]], NDArray[np.uint8]]

DEFOCUS_EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, np.inf)
"""Limits of the bins of defocus, in total depths of field."""

_COUNTS = 0.005
_MIXED = 0.02


@dataclass(frozen=True)
class SimulatedSlice:
    """One slice of one simulated stack.

    Attributes
    ----------
    stack : int
        Which stack; slices of one stack are not independent.
    specimen, modality, noise_level : str
        As in `deepfocus_live.simulation.VariedStack`.
    z : int
        Which slice of the stack.
    counts : bool
        Whether at least 0.5 % of its decided pixels are in focus, enough for an IoU to mean
        something.
    mixed : bool
        Whether at least 2 % of it is decided specimen in focus, and 2 % decided specimen out of
        focus.
    iou, strict_iou : float
        0..1, over decided and over all pixels.
    false_share : float
        Of the decided pixels that are not in focus, the part called in focus, 0..1.
    """

    stack: int
    specimen: str
    modality: str
    noise_level: str
    z: int
    counts: bool
    mixed: bool
    iou: float
    strict_iou: float
    false_share: float


@dataclass(frozen=True)
class SimulatedScore:
    """All slices, and what is called in focus by how far it is out of focus.

    Attributes
    ----------
    slices : list of SimulatedSlice
    called : (bins,) int64
        Pixels of specimen called in focus, by defocus; the bins are those of `DEFOCUS_EDGES`.
    seen : (bins,) int64
        Pixels of specimen by defocus, those left out where something above or below is in focus.
    """

    slices: list[SimulatedSlice]
    called: NDArray[np.int64]
    seen: NDArray[np.int64]

    @property
    def counting(self) -> list[SimulatedSlice]:
        """Slices with enough in focus for an IoU."""
        return [one for one in self.slices if one.counts]


def score_on_simulation(
    mask_of: MaskOf,
    *,
    seeds: Sequence[int],
    stacks_per_seed: int = len(SPECIMENS),
    shape: tuple[int, int, int] = (7, 320, 320),
) -> SimulatedScore:
    """Segment simulated stacks slice by slice and compare with their truth.

    Parameters
    ----------
    mask_of : callable
        Takes a slice, (Y, X) uint16 counts, and returns its mask, (Y, X), non-zero in focus.
    seeds : sequence of int
        Of the simulation; give seeds that nobody trains on.
    stacks_per_seed : int
        Specimens take turns.
    shape : (int, int, int)
        Of a stack.

    Returns
    -------
    SimulatedScore
    """
    scores: list[SimulatedSlice] = []
    bins = len(DEFOCUS_EDGES) - 1
    called, seen = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
    for number, varied in enumerate(_stacks(seeds, stacks_per_seed, shape)):
        stack = varied.stack
        for z, z_slice in enumerate(stack.slices):
            mask = np.asarray(mask_of(z_slice)) != 0
            scores.append(_score(number, varied, z, mask))
            away = _defocus(stack, z)
            near = np.digitize(away, DEFOCUS_EDGES) - 1
            # Not where something else above or below is in focus, or nearly.
            alone = (away < 1) | ~(stack.in_focus[z] | stack.undecided[z])
            specimen = ~np.isnan(stack.depth_um) & alone
            seen += np.bincount(near[specimen], minlength=bins)[:bins]
            called += np.bincount(near[specimen & mask], minlength=bins)[:bins]
    return SimulatedScore(scores, called, seen)


def mean_with_interval(
    values: ArrayLike, groups: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return a mean and its 95 % interval by bootstrap over groups [EfronTibshirani1993]_.

    Parameters
    ----------
    values : (N,) array_like
    groups : (N,) array_like
        Values of one group are drawn together: slices of a stack resemble each other.
    draws : int
        How often groups are drawn anew.
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    mean, low, high : float
        In the unit of `values`; NaN without values.

    References
    ----------
    .. [EfronTibshirani1993] Efron and Tibshirani (1993), An Introduction to the Bootstrap.
    """
    values, groups = np.asarray(values, np.float64), np.asarray(groups)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    _, member = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _stacks(
    seeds: Sequence[int], stacks_per_seed: int, shape: tuple[int, int, int]
) -> Iterator[VariedStack]:
    for seed in seeds:
        specimens = itertools.islice(itertools.cycle(SPECIMENS), stacks_per_seed)
        for number, specimen in enumerate(specimens):
            yield varied_focal_stack(specimen, seed=(seed, number), shape=shape)


def _defocus(stack: FocalStack, z: int) -> NDArray[np.float64]:
    """Return how far the specimen is from slice `z`, in depths of field; 0 where there is none."""
    away: NDArray[np.float64] = np.abs(np.nan_to_num(stack.depth_um) - stack.z_um[z])
    return away / stack.depth_of_field_um


def _score(number: int, varied: VariedStack, z: int, mask: NDArray[np.bool_]) -> SimulatedSlice:
    stack = varied.stack
    truth, known = stack.in_focus[z], ~stack.undecided[z]
    blurred = ~np.isnan(stack.depth_um) & ~truth & known
    outside = ~truth & known
    return SimulatedSlice(
        stack=number,
        specimen=varied.specimen,
        modality=varied.modality,
        noise_level=varied.noise_level,
        z=z,
        counts=known.any() and float(truth[known].mean()) >= _COUNTS,
        mixed=float((truth & known).mean()) >= _MIXED and float(blurred.mean()) >= _MIXED,
        iou=iou(mask, truth, known),
        strict_iou=iou(mask, truth),
        false_share=float(mask[outside].mean()) if outside.any() else 0.0,
    )
