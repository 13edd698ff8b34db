"""Weak labels of a stack whose slices arrive one at a time, in any z order.

Design Notes
------------
A labeller keeps what its preset needs of each slice at block resolution and nothing
else: for the `consensus` preset a fifth of the slice, for `axial` 22 kB of a slice of
1024 × 1344. Any number of stacks can be open at once, one labeller each. `finish`
asks the rule; labels stay at block resolution and are enlarged one slice at a time,
when they are written.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._conditions import Conditions
from deepfocus_live.focus._door import checked_shape
from deepfocus_live.focus._findings import Findings
from deepfocus_live.focus._presets import DEFAULT_PRESET, Judgement, Preset, preset_named
from deepfocus_live.focus._rules import MIN_SLICES, nothing_in_focus
from deepfocus_live.focus._scan import enlarge_blocks

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
    scores : (Z, By, Bx) float32
        By which slices may be compared at one place, higher is sharper: counts with the
        `consensus` preset, else the measure's unit.
    focus_curve : (Z,) float64
        Share of the slice's pixels that are in focus, 0 to 1.
    mean_focus_score : (Z,) float64
        Mean score over the slice's pixels, in the unit of `scores`.
    best_z : int or None
        The slice with the largest share in focus, the first of equals; None where
        nothing is in focus.
    threshold : float
        What the rule compared scores or contrast with, in the unit of `scores`; NaN for a
        stack of fewer than 3 slices, infinite where `consensus` found nothing beyond doubt.
    reach_px : int
        How far from a pixel its label looks, in pixels.
    findings : Findings or None
        Brightness, drift, noise and inversion, by presets that look for them.
    notes : tuple of str
        What a person should know, a line each.
    """

    preset: str
    shape_yx: tuple[int, int]
    block_px: int
    arrived: NDArray[np.bool_]
    weak_label: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    scores: NDArray[np.float32]
    focus_curve: NDArray[np.float64]
    mean_focus_score: NDArray[np.float64]
    best_z: int | None
    threshold: float
    reach_px: int
    findings: Findings | None = None
    notes: tuple[str, ...] = ()

    @property
    def trainable(self) -> bool:
        """Whether a network may learn from them, which it may not where the specimen drifts."""
        return self.findings is None or not self.findings.drifts

    def weak_label_slice(self, z_index: int) -> NDArray[np.uint8]:
        """Return the weak label of one slice, (Y, X) uint8: 1 in focus, 0 not.

        Raises
        ------
        IndexError
            If there is no such slice; negative numbers do not count from the end.
        """
        return self._enlarged(self.weak_label, z_index)

    def undecided_slice(self, z_index: int) -> NDArray[np.uint8]:
        """Return where the rule will not say in one slice, (Y, X) uint8: 1 there, else 0.

        Raises
        ------
        IndexError
            If there is no such slice; negative numbers do not count from the end.
        """
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
    conditions : Conditions, optional
        How the stack was imaged.

    Raises
    ------
    ValueError
        If the preset is unknown, the shape is not two sizes of at least 1, or the flat
        field has another.
    """

    def __init__(
        self,
        preset: str | Preset = DEFAULT_PRESET,
        *,
        shape_yx: tuple[int, int],
        conditions: Conditions | None = None,
    ) -> None:
        self.preset = preset_named(preset) if isinstance(preset, str) else preset
        self.shape_yx = checked_shape(shape_yx)
        self._labeling = self.preset.open(conditions or Conditions())
        self._kept: dict[int, Any] = {}
        self._blank: set[int] = set()
        self._dtype: np.dtype[Any] | None = None
        flat = None if conditions is None else conditions.flat_field
        if flat is not None and np.shape(flat) != self.shape_yx:
            raise ValueError(
                f"the flat field is {np.shape(flat)}, the slices are {self.shape_yx}: "
                "it must be taken with the same camera settings"
            )

    def __len__(self) -> int:
        """Return how many slices have arrived."""
        return len(self._kept)

    @property
    def block_px(self) -> int:
        """Side of the blocks that labels are made on, in pixels."""
        return self._labeling.block_px

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are kept of the slices so far."""
        return sum(self._labeling.nbytes(kept) for kept in self._kept.values())

    def clear(self) -> None:
        """Forget all slices; they may be added again."""
        self._kept.clear()
        self._blank.clear()
        self._dtype = None

    def add(self, z_index: int, z_slice: ArrayLike) -> NDArray[np.float32]:
        """Score one slice and keep its scores; a slice that comes again replaces itself.

        A slice of nothing but zeros was never written, or the camera failed: it counts
        as missing.

        Parameters
        ----------
        z_index : int
            Its place in the stack, from 0; slices may come in any order.
        z_slice : (Y, X) uint8, uint16 or float32
            Not kept.

        Returns
        -------
        (By, Bx) float32
            Its scores, higher is sharper; not corrected for brightness.

        Raises
        ------
        ValueError
            If the index is negative, the slice has another shape or dtype than the stack,
            or it cannot be scored (see `focus_score_map`).
        """
        if z_index < 0:
            raise ValueError(f"slices are numbered from 0, not {z_index}")
        if np.shape(z_slice) != self.shape_yx:
            raise ValueError(
                f"slice {z_index} is {np.shape(z_slice)}, the stack is {self.shape_yx}: "
                "slices of one stack have one size"
            )
        dtype = np.asarray(z_slice).dtype.newbyteorder("=")
        if self._dtype not in (None, dtype):
            raise ValueError(
                f"slice {z_index} is {dtype}, the stack is {self._dtype}: "
                "slices of one stack have one type"
            )
        z_index, self._dtype = operator.index(z_index), dtype
        self._kept.pop(z_index, None)
        if _is_blank(np.asarray(z_slice)):
            self._blank.add(z_index)
            return np.zeros(self._blocks, np.float32)
        kept = self._labeling.scan(z_slice)
        self._kept[z_index] = kept
        self._blank.discard(z_index)
        return self._labeling.scores(kept)

    def finish(self) -> StackLabels:
        """Return the labels of the slices that have arrived; more may be added after.

        Missing slices are tolerated. A stack of fewer than 3 slices has nothing in
        focus: there is nothing to compare with.
        """
        order = sorted(self._kept)
        if len(order) < MIN_SLICES:
            shape = (len(order), *self._blocks)
            scores = np.zeros(shape, np.float32)
            for position, z_index in enumerate(order):
                scores[position] = self._labeling.scores(self._kept[z_index])
            judgement = Judgement(nothing_in_focus(shape), scores)
        else:
            judgement = self._labeling.judge([self._kept[z_index] for z_index in order])
        return self._labels(order, judgement)

    def _labels(self, order: list[int], judgement: Judgement) -> StackLabels:
        n_z = 1 + max((*order, *self._blank), default=-1)
        decision = judgement.decision
        arrived = np.zeros(n_z, bool)
        arrived[order] = True

        def placed(planes: NDArray[Any]) -> NDArray[Any]:
            if len(planes) == n_z:
                return planes
            everywhere = np.zeros((n_z, *planes.shape[1:]), planes.dtype)
            everywhere[order] = planes
            return everywhere

        focus_curve = placed(self._pixel_mean(decision.weak_label))
        return StackLabels(
            preset=self.preset.name,
            shape_yx=self.shape_yx,
            block_px=self.block_px,
            arrived=arrived,
            weak_label=placed(decision.weak_label),
            undecided=placed(decision.undecided),
            scores=placed(judgement.scores),
            focus_curve=focus_curve,
            mean_focus_score=placed(self._pixel_mean(judgement.scores)),
            best_z=int(focus_curve.argmax()) if focus_curve.any() else None,
            threshold=decision.threshold,
            reach_px=self._labeling.reach_px,
            findings=judgement.findings,
            notes=(*self._blank_note(), *(judgement.findings.notes if judgement.findings else ())),
        )

    @property
    def _blocks(self) -> tuple[int, int]:
        height, width = self.shape_yx
        return -(-height // self.block_px), -(-width // self.block_px)

    def _blank_note(self) -> tuple[str, ...]:
        if not self._blank:
            return ()
        some = ", ".join(str(z) for z in sorted(self._blank)[:5])
        more = ", …" if len(self._blank) > 5 else ""
        return (f"all pixels are 0 at z {some}{more}: taken for missing",)

    def _pixel_mean(self, blocks: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the mean over pixels of each slice's blocks: cut blocks count less."""
        rows, columns = (self._block_sides(side) for side in self.shape_yx)
        along_x = blocks.astype(np.float32, copy=False) @ columns.astype(np.float32)
        mean: NDArray[np.float64] = along_x.astype(np.float64) @ rows
        return mean

    def _block_sides(self, side: int) -> NDArray[np.float64]:
        """Return each block's share of one side of the slice."""
        edges = np.append(np.arange(0, side, self.block_px), side)
        return np.diff(edges) / side


def _is_blank(z_slice: NDArray[Any]) -> bool:
    """Return whether all pixels are 0; nearly free where they are not."""
    return not (z_slice[::61, ::67].any() or z_slice.any())


def label_stack(
    z_stack: Iterable[ArrayLike],
    preset: str | Preset = DEFAULT_PRESET,
    *,
    conditions: Conditions | None = None,
) -> StackLabels:
    """Label a whole stack at once.

    Parameters
    ----------
    z_stack : (Z, Y, X) array, or any iterable of (Y, X) slices in z order
        uint8, uint16 or float32. Slices of a lazy stack are held one at a time.
    preset : str or Preset
        How to label, by a name in `PRESETS`.
    conditions : Conditions, optional
        How the stack was imaged.

    Returns
    -------
    StackLabels
        One value per block. Of fewer than 3 slices nothing is in focus.

    Raises
    ------
    ValueError
        If there is no slice, slices are not 2-D, of one size and of one of these types,
        hold NaN or infinity, or are not of the flat field's size, or if there is no such
        preset.

    Examples
    --------
    The rule finds the sharpest slice of a simulated layer of cells:

    >>> from deepfocus_live.focus import label_stack
    >>> from deepfocus_live.simulation import simulate_focal_stack
    >>> scan = simulate_focal_stack("flat_layer", shape=(9, 96, 96), z_step_um=8.0, seed=1)
    >>> labels = label_stack(scan.slices)
    >>> labels.best_z == int(scan.in_focus.mean(axis=(1, 2)).argmax())
    True
    >>> labels.weak_label_slice(labels.best_z).shape, labels.weak_label.shape
    ((96, 96), (9, 12, 12))
    """
    labeler: StackLabeler | None = None
    for z_index, z_slice in enumerate(z_stack):
        if labeler is None:
            shape = np.shape(z_slice)
            if len(shape) != 2:
                raise ValueError(f"a stack is (Z, Y, X), its slices 2-D, not of shape {shape}")
            labeler = StackLabeler(preset, shape_yx=(shape[0], shape[1]), conditions=conditions)
        labeler.add(z_index, z_slice)
    if labeler is None:
        raise ValueError("a stack needs at least one slice, this one has none")
    return labeler.finish()
