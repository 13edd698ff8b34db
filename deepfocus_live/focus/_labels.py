"""Weak labels of a stack whose slices arrive one at a time, in any z order.

Design Notes
------------
A labeller keeps each slice's scores at block resolution and nothing else: 22 kB a
slice of 1024 × 1344 with blocks of 16 px. Any number of stacks can be open at
once, one labeller each. `finish` asks the rule; labels stay at block resolution
and are enlarged one slice at a time, when they are written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._door import checked_shape
from deepfocus_live.focus._presets import Preset, preset_named
from deepfocus_live.focus._rules import MIN_SLICES, Decision, nothing_in_focus
from deepfocus_live.focus._scan import enlarge_blocks, focus_score_blocks

__all__ = ["StackLabeler", "StackLabels", "label_stack"]


@dataclass(frozen=True)
class StackLabels:
    """Weak labels of one stack, one value per block.

    Arrays are as long as the highest z index that arrived, plus one. Slices that
    never arrived are in focus nowhere, and 0 in the curves; `arrived` tells them.

    Attributes
    ----------
    preset : str
        Name of the preset that made them.
    shape_yx : (int, int)
        Of a slice, in pixels.
    block_px : int
        Side of a block in pixels.
    arrived : (Z,) bool
        Which slices were there.
    weak_label, undecided : (Z, By, Bx) bool
        In focus by rule, and where the rule will not say; never both.
    focus_curve : (Z,) float64
        Share of the slice's pixels that are in focus, 0 to 1.
    mean_focus_score : (Z,) float64
        Mean score over the slice's pixels, in the measure's unit.
    best_z : int or None
        The slice with the largest share in focus, the first of equals; None where
        nothing is in focus.
    threshold : float
        What the rule compared with; NaN for a stack of fewer than 3 slices.
    """

    preset: str
    shape_yx: tuple[int, int]
    block_px: int
    arrived: NDArray[np.bool_]
    weak_label: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    focus_curve: NDArray[np.float64]
    mean_focus_score: NDArray[np.float64]
    best_z: int | None
    threshold: float

    def weak_label_slice(self, z_index: int) -> NDArray[np.uint8]:
        """Return the weak label of one slice, (Y, X) uint8: 1 in focus, 0 not."""
        return self._enlarged(self.weak_label, z_index)

    def undecided_slice(self, z_index: int) -> NDArray[np.uint8]:
        """Return where the rule will not say in one slice, (Y, X) uint8: 1 there, else 0."""
        return self._enlarged(self.undecided, z_index)

    def _enlarged(self, blocks: NDArray[np.bool_], z_index: int) -> NDArray[np.uint8]:
        if not 0 <= z_index < len(blocks):
            raise IndexError(f"this stack has slices 0 to {len(blocks) - 1}, not {z_index}")
        return enlarge_blocks(blocks[z_index].view(np.uint8), self.block_px, self.shape_yx)


class StackLabeler:
    """Labels one stack, slice by slice; one thread at a time.

    Parameters
    ----------
    preset : str or Preset
        How to label.
    shape_yx : (int, int)
        Of every slice, in pixels.

    Raises
    ------
    ValueError
        If the preset is unknown or the shape is not two sizes of at least 1.
    """

    def __init__(self, preset: str | Preset, *, shape_yx: tuple[int, int]) -> None:
        self.preset = preset_named(preset) if isinstance(preset, str) else preset
        self.shape_yx = checked_shape(shape_yx)
        self._scores: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        """Return how many slices have arrived."""
        return len(self._scores)

    def add(self, z_index: int, z_slice: ArrayLike) -> None:
        """Score one slice and keep its scores; a slice that comes again replaces itself.

        Parameters
        ----------
        z_index : int
            Its place in the stack, from 0; slices may come in any order.
        z_slice : (Y, X) uint8, uint16 or float32
            Not kept.

        Raises
        ------
        ValueError
            If the index is negative, the slice has another shape than the stack,
            or it cannot be scored (see `focus_score_blocks`).
        """
        if z_index < 0:
            raise ValueError(f"slices are numbered from 0, not {z_index}")
        if np.shape(z_slice) != self.shape_yx:
            raise ValueError(
                f"slice {z_index} is {np.shape(z_slice)}, the stack is {self.shape_yx}: "
                "slices of one stack have one size"
            )
        preset = self.preset
        self._scores[z_index] = focus_score_blocks(
            z_slice,
            measure=preset.measure,
            windows_px=preset.windows_px,
            strides_px=preset.strides_px,
            overlap=preset.overlap,
            combine=preset.combine,
        ).scores

    def finish(self) -> StackLabels:
        """Return the labels of the slices that have arrived; more may be added after.

        Missing slices are tolerated. A stack of fewer than 3 slices has nothing in
        focus: there is nothing to compare with.
        """
        order = sorted(self._scores)
        blocks = tuple(-(-side // self.preset.block_px) for side in self.shape_yx)
        scores = np.zeros((len(order), *blocks), np.float32)
        for position, z_index in enumerate(order):
            scores[position] = self._scores[z_index]
        if len(order) < MIN_SLICES:
            decision = nothing_in_focus((len(order), blocks[0], blocks[1]))
        else:
            decision = self.preset.rule(scores)
        return self._labels(order, scores, decision)

    def _labels(
        self, order: list[int], scores: NDArray[np.float32], decision: Decision
    ) -> StackLabels:
        n_z = order[-1] + 1 if order else 0
        weak_label = np.zeros((n_z, *scores.shape[1:]), bool)
        undecided = np.zeros_like(weak_label)
        arrived = np.zeros(n_z, bool)
        mean_focus_score = np.zeros(n_z)
        weak_label[order], undecided[order] = decision.weak_label, decision.undecided
        arrived[order] = True
        mean_focus_score[order] = self._pixel_mean(scores)
        focus_curve = self._pixel_mean(weak_label)
        return StackLabels(
            preset=self.preset.name,
            shape_yx=self.shape_yx,
            block_px=self.preset.block_px,
            arrived=arrived,
            weak_label=weak_label,
            undecided=undecided,
            focus_curve=focus_curve,
            mean_focus_score=mean_focus_score,
            best_z=int(focus_curve.argmax()) if focus_curve.any() else None,
            threshold=decision.threshold,
        )

    def _pixel_mean(self, blocks: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the mean over pixels of each slice's blocks: cut blocks count less."""
        rows, columns = (self._block_sides(side) for side in self.shape_yx)
        mean: NDArray[np.float64] = np.einsum("zyx,y,x->z", blocks.astype(float), rows, columns)
        return mean

    def _block_sides(self, side: int) -> NDArray[np.float64]:
        """Return each block's share of one side of the slice."""
        edges = np.append(np.arange(0, side, self.preset.block_px), side)
        return np.diff(edges) / side


def label_stack(z_stack: Iterable[ArrayLike], preset: str | Preset = "axial") -> StackLabels:
    """Label a whole stack at once.

    Parameters
    ----------
    z_stack : (Z, Y, X) array, or any iterable of (Y, X) slices in z order
        uint8, uint16 or float32. Slices of a lazy stack are held one at a time.
    preset : str or Preset
        How to label.

    Returns
    -------
    StackLabels

    Raises
    ------
    ValueError
        If there is no slice, or as `StackLabeler.add` does.
    """
    labeler: StackLabeler | None = None
    for z_index, z_slice in enumerate(z_stack):
        if labeler is None:
            shape = np.shape(z_slice)
            if len(shape) != 2:
                raise ValueError(f"a stack is (Z, Y, X), its slices 2-D, not of shape {shape}")
            labeler = StackLabeler(preset, shape_yx=(shape[0], shape[1]))
        labeler.add(z_index, z_slice)
    if labeler is None:
        raise ValueError("a stack needs at least one slice, this one has none")
    return labeler.finish()
