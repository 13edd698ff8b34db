"""How well masks agree with targets, and how much is called in focus where nothing is.

Loads torch only where a torch network is judged: the daemon judges loaded models by the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.inference import InFocusModel
from deepfocus_live.training._empty import empty_field
from deepfocus_live.training._examples import UNKNOWN, LabelledStack

if TYPE_CHECKING:
    from deepfocus_live.model.network import FocusNetwork

__all__ = [
    "Example",
    "JudgedSlice",
    "by_hand",
    "empty_share",
    "held_out_slices",
    "model_iou",
    "network_empty_share",
    "network_iou",
    "score_slices",
]

_EMPTY_SHAPE = (512, 512)
_EMPTY_SEED = 20_011  # not a seed that training draws from: these fields judge
_QUIET_SHAPE = (256, 256)
_QUIET_SEED = 20_021  # these choose a checkpoint, and do not judge
_QUIET_FIELDS = 12

Example = tuple[NDArray[Any], NDArray[np.uint8]]
"""A slice and its target."""


@dataclass(frozen=True)
class JudgedSlice:
    """One slice, its target, the mask of a model (by blocks too), and how well they agree."""

    name: str
    z_slice: NDArray[Any]
    target: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    iou: float


def held_out_slices(stacks: Sequence[LabelledStack], most: int = 32) -> list[Example]:
    """Return at most `most` slices with their targets, evenly spread over the stacks.

    Returns
    -------
    list of ((Y, X), (Y // reduction, X // reduction) uint8)
        Raw counts, and 0, 1 or `UNKNOWN`.
    """
    return [(stack.slices[z], stack.target[z]) for stack, z in _spread(stacks, most)]


def _spread(stacks: Sequence[LabelledStack], most: int) -> list[tuple[LabelledStack, int]]:
    everything = [(stack, z) for stack in stacks for z in range(len(stack.slices))]
    if not everything:
        return []
    picks = np.unique(np.linspace(0, len(everything) - 1, most).round().astype(int))
    return [everything[pick] for pick in picks]


def by_hand(stacks: Sequence[LabelledStack]) -> list[LabelledStack]:
    """Return what of the stacks was labelled by hand, slices labelled by rule taken out.

    Empty where nothing in it is in focus: agreement about nothing decides nothing.
    """
    found = []
    for stack in stacks:
        if stack.hand_made is not None and stack.hand_made.any():
            chosen = stack.hand_made
            found.append(
                replace(
                    stack,
                    slices=stack.slices[chosen],
                    target=stack.target[chosen],
                    hand_made=chosen[chosen],
                    slice_weight=None,
                )
            )
    return found if any(stack.any_in_focus for stack in found) else []


def network_iou(network: FocusNetwork, examples: Sequence[Example]) -> float:
    """Return the intersection over union of a torch network's masks, all slices pooled, 0..1.

    Where nothing is and nothing is called in focus it is 1.
    """
    return _iou((_network_mask(network, z_slice), target) for z_slice, target in examples)


def network_empty_share(network: FocusNetwork) -> float:
    """Return what `empty_share` does, of a torch network and other, smaller fields."""
    fields = _fields(_QUIET_FIELDS, _QUIET_SEED, _QUIET_SHAPE)
    return max(float(_network_mask(network, field).mean()) for field in fields)


def _network_mask(network: FocusNetwork, z_slice: NDArray[Any]) -> NDArray[np.bool_]:
    import torch

    with torch.inference_mode():
        counts = torch.from_numpy(z_slice.astype(np.float32))[None].to(network.threshold.device)
        probability = torch.sigmoid(network.logits(counts)[0])
        mask: NDArray[np.bool_] = (255.0 * probability >= network.threshold).cpu().numpy()
    return mask


def model_iou(model: InFocusModel, examples: Sequence[Example]) -> float:
    """Return the intersection over union of a loaded model's masks, all slices pooled, 0..1.

    As `network_iou`, of what will really run.
    """
    return _iou((_block_mask(model, z_slice, target), target) for z_slice, target in examples)


def score_slices(model: InFocusModel, stacks: Sequence[LabelledStack]) -> list[JudgedSlice]:
    """Return slices spread over the stacks with the model's mask and their agreement, worst first.

    Slices with nothing in focus by label and mask tell nothing and are left out.
    """
    scores = []
    for stack, z in _spread(stacks, 32):
        z_slice, target = stack.slices[z], stack.target[z]
        mask = _block_mask(model, z_slice, target)
        if (mask & (target != UNKNOWN)).any() or (target == 1).any():
            name = f"{stack.name}, slice {z + 1} of {len(stack.slices)}"
            scores.append(JudgedSlice(name, z_slice, target, mask, _iou([(mask, target)])))
    return sorted(scores, key=lambda score: score.iou)


def empty_share(model: InFocusModel, fields: int = 16) -> float:
    """Return the largest share called in focus in any of some noise and empty fields, 0..1.

    The fields are the same every time, 512 × 512 pixels of 8 to 16 bit, from dark to near
    saturation.
    """
    made = _fields(fields, _EMPTY_SEED, _EMPTY_SHAPE)
    return max(float(model.infer(field).mask.mean()) for field in made)


def _block_mask(
    model: InFocusModel, z_slice: NDArray[Any], target: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Return the mask at the resolution of `target`, which may be another than the model's."""
    block = z_slice.shape[0] // target.shape[0]
    height, width = target.shape
    mask = model.infer(z_slice).mask[block // 2 :: block, block // 2 :: block]
    return mask[:height, :width].astype(bool)


def _fields(count: int, seed: int, shape: tuple[int, int]) -> Iterator[NDArray[np.uint16]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield empty_field(random, shape).astype(np.uint16)


def _iou(masks: Iterable[tuple[NDArray[np.bool_], NDArray[np.uint8]]]) -> float:
    """Return the IoU of masks and their targets, pooled; 1 where all of them are empty."""
    both = either = 0
    for mask, target in masks:
        called = mask[: target.shape[0], : target.shape[1]]
        known, wanted = target != UNKNOWN, target == 1
        both += int((called & wanted & known).sum())
        either += int(((called | wanted) & known).sum())
    return both / either if either else 1.0
