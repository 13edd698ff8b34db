"""From an opened stack to a labelled one: by rule, and by hand where somebody drew masks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions, StackLabeler, StackLabels, preset_named
from deepfocus_live.frames import Calibration
from deepfocus_live.model import MIN_SIDE
from deepfocus_live.training._examples import (
    HAND_MADE_WEIGHT,
    LEAST_GAP_PX,
    UNKNOWN,
    LabelledStack,
    SliceStack,
    Source,
    block_target,
)
from deepfocus_live.training._sharpness import LEAST_SHARPER, sharpness_over_z

__all__ = ["MaskSlices", "StoredLabels", "with_labels"]

_LEAST_SLICES = 3  # to compare with each other; of fewer no rule says anything
_HAND_MADE_DRAWS = 2.0  # how often their stacks are drawn from, beside others


class MaskSlices(Protocol):
    """Hand-made masks of a stack, read lazily: 0 not in focus, 1 in focus, 2 undecided."""

    @property
    def name(self) -> str:
        """What they are called."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""

    def __getitem__(self, z_index: int, /) -> NDArray[np.uint8]:
        """Return the (Y, X) mask of one slice."""

    def said(self, z_index: int, /) -> bool:
        """Return whether the masks say anything about a slice."""


@dataclass(frozen=True)
class StoredLabels:
    """What a rule said of a stack before, read from where it is stored.

    Attributes
    ----------
    masks : MaskSlices
        Of the whole stack; 2 where the rule would not say.
    trainable : bool
        As of `focus.StackLabels`.
    """

    masks: MaskSlices
    trainable: bool


def with_labels(
    stack: SliceStack,
    *,
    preset: str,
    reduction: int,
    conditions: Conditions | None = None,
    masks: MaskSlices | None = None,
    keep: Collection[int] | None = None,
    source: Source | None = None,
    stored: StoredLabels | None = None,
) -> LabelledStack:
    """Read a stack slice by slice and label it by rule, with what it says of its calibration.

    Parameters
    ----------
    stack : SliceStack
    preset : str
        The rule.
    reduction : int
        Pixels per block of the target.
    conditions : Conditions, optional
        How it was imaged; the stack's own calibration goes before.
    masks : MaskSlices, optional
        Hand-made masks, which replace the rule's labels in every slice they say something about.
    keep : collection of int, optional
        The slices to hold in memory; the rule sees all of them. By default all.
    source : Source, optional
    stored : StoredLabels, optional
        What this very rule said before; it is not asked again then.

    Returns
    -------
    LabelledStack
        Where the specimen drifts sideways and there are hand-made masks, only their slices.

    Raises
    ------
    InputError
        If slices are smaller than 64 x 64, or of a type the network does not take, the masks have
        another size than the stack, stored labels call in focus what is no sharper than the same
        place in other slices, or the preset is unknown.
    """
    _check_size(stack, masks)
    kept = sorted(range(stack.shape[0]) if keep is None else keep)
    how = _calibrated(conditions, stack)
    if stored is None:
        slices, labels = _scan(stack, preset, how, kept)
        target = np.stack([_weak_target(labels, z, reduction) for z in kept])
        trainable, reach_px = labels.trainable, labels.reach_px
    else:
        slices = _read(stack, kept)
        target = np.stack([_stored_target(stored, stack.shape, z, reduction) for z in kept])
        _check_belongs(stored, slices, target)
        trainable, reach_px = stored.trainable, preset_named(preset).open(how).reach_px
    labelled = LabelledStack(
        stack.name,
        slices,
        target,
        gap_px=max(LEAST_GAP_PX, reach_px),
        trainable=trainable,
        source=source,
    )
    return labelled if masks is None else _with_masks(labelled, masks, kept)


def _check_size(stack: SliceStack, masks: MaskSlices | None) -> None:
    if min(stack.shape[1:]) < MIN_SIDE:
        raise InputError(
            f"{stack.name}: slices of {stack.shape[1]} x {stack.shape[2]} pixels are too small to "
            f"learn from; {MIN_SIDE} x {MIN_SIDE} at least"
        )
    if masks is not None and tuple(masks.shape) != tuple(stack.shape):
        raise InputError(
            f"{masks.name}: masks of {_size(masks.shape)} do not fit {stack.name} of "
            f"{_size(stack.shape)} (Z x Y x X); give masks of every slice, of the same size"
        )


def _scan(
    stack: SliceStack, preset: str, conditions: Conditions, keep: Sequence[int]
) -> tuple[NDArray[Any], StackLabels]:
    """Return the slices to keep and the labels of all, with one slice at a time in memory."""
    kept: NDArray[Any] | None = None
    try:
        labeler = StackLabeler(preset, shape_yx=stack.shape[1:], conditions=conditions)
        for z in range(stack.shape[0]):
            plane = _plane(stack, z)
            labeler.add(z, plane)
            if kept is None:
                kept = np.empty((len(keep), *plane.shape), plane.dtype)
            if z in keep:
                kept[keep.index(z)] = plane
        return kept if kept is not None else _read(stack, keep), labeler.finish()
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{stack.name}: {error}") from error


def _read(stack: SliceStack, keep: Sequence[int]) -> NDArray[Any]:
    """Return some slices; each is copied once, as a stack may be half of all there is room for."""
    kept: NDArray[Any] | None = None
    for place, z in enumerate(keep):
        plane = _plane(stack, z)
        if kept is None:
            kept = np.empty((len(keep), *plane.shape), plane.dtype)
        kept[place] = plane
    if kept is None:
        raise InputError(f"{stack.name}: no slice of it is to be learnt from")
    return kept


def _plane(stack: SliceStack, z: int) -> NDArray[Any]:
    plane = np.asarray(stack[z])
    if plane.dtype.kind != "u" or plane.dtype.itemsize > 2:
        raise InputError(f"{stack.name}: slices must be uint8 or uint16, not {plane.dtype}")
    return plane


def _stored_target(
    stored: StoredLabels, shape: tuple[int, int, int], z: int, reduction: int
) -> NDArray[np.uint8]:
    if tuple(stored.masks.shape) != tuple(shape):
        raise InputError(
            f"{stored.masks.name}: stored labels of {_size(stored.masks.shape)} do not fit slices "
            f"of {_size(shape)} (Z x Y x X)"
        )
    mask = stored.masks[z]
    target = block_target(mask == 1, mask == 2, reduction)
    if shape[0] < _LEAST_SLICES:
        target[:] = UNKNOWN
    return target


def _check_belongs(stored: StoredLabels, slices: NDArray[Any], target: NDArray[np.uint8]) -> None:
    sharper = sharpness_over_z(slices, target)
    if sharper is not None and sharper < LEAST_SHARPER:
        raise InputError(
            f"stored labels are not of the sharper slices (gradients x {sharper:.2f} in focus)"
        )


def _weak_target(labels: StackLabels, z: int, reduction: int) -> NDArray[np.uint8]:
    target = block_target(labels.weak_label_slice(z), labels.undecided_slice(z), reduction)
    if not labels.arrived[z] or labels.arrived.sum() < _LEAST_SLICES:
        target[:] = UNKNOWN
    return target


def _with_masks(labelled: LabelledStack, masks: MaskSlices, kept: list[int]) -> LabelledStack:
    """Put hand-made masks in the place of weak labels, with the weight that they carry."""
    hand_made = np.array([masks.said(z) for z in kept])
    if not hand_made.any():
        return labelled
    target = labelled.target.copy()
    for place in np.flatnonzero(hand_made):
        mask = masks[kept[place]]
        target[place] = block_target(mask == 1, mask == 2, labelled.reduction)
    chosen = np.ones(len(kept), bool) if labelled.trainable else hand_made
    return replace(
        labelled,
        slices=labelled.slices[chosen],
        target=target[chosen],
        weight=labelled.weight * _HAND_MADE_DRAWS,
        trainable=True,
        slice_weight=np.where(hand_made, HAND_MADE_WEIGHT, 1.0).astype(np.float32)[chosen],
        hand_made=hand_made[chosen],
    )


def _calibrated(conditions: Conditions | None, stack: SliceStack) -> Conditions:
    """Return `conditions` with the calibration of a stack that has one."""
    # Stacks from files do; the least that a stack must be does not.
    lengths: dict[str, Any] = {}
    for name in ("pixel_size_um", "z_step_um"):
        said: Calibration | None = getattr(stack, name, None)
        if said is not None:
            lengths[name] = said.um
    return replace(conditions or Conditions(), **lengths)


def _size(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
