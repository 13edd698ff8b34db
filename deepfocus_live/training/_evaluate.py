"""How well masks agree with targets, and how much is called in focus where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepfocus_live.inference import InFocusModel
from deepfocus_live.model.network import FocusNetwork
from deepfocus_live.training._empty import empty_field
from deepfocus_live.training._examples import UNKNOWN, LabelledStack

__all__ = ["empty_share", "held_out_slices", "model_iou", "network_iou"]

_EMPTY_SHAPE = (512, 512)
_EMPTY_SEED = 20_011  # not a seed that training draws from: these fields judge

Example = tuple[NDArray[Any], NDArray[np.uint8]]


def held_out_slices(stacks: Sequence[LabelledStack], most: int = 32) -> list[Example]:
    """Return at most `most` slices with their targets, evenly spread over the stacks."""
    everything = [(stack, z) for stack in stacks for z in range(len(stack.slices))]
    picks = np.unique(np.linspace(0, len(everything) - 1, most).round().astype(int))
    chosen = [everything[pick] for pick in picks]
    return [(stack.slices[z], stack.target[z]) for stack, z in chosen]


def network_iou(network: FocusNetwork, examples: Sequence[Example]) -> float:
    """Return the intersection over union of a torch network's masks, all slices pooled, 0..1.

    Where nothing is and nothing is called in focus it is 1.
    """
    threshold = float(network.threshold) / 255.0

    def inside(z_slice: NDArray[Any]) -> NDArray[np.bool_]:
        with torch.inference_mode():
            counts = torch.from_numpy(z_slice.astype(np.float32))[None]
            probability: NDArray[np.float32] = torch.sigmoid(network.logits(counts))[0].numpy()
        return probability >= threshold

    return _iou(inside, examples)


def model_iou(model: InFocusModel, examples: Sequence[Example]) -> float:
    """Return the same of a loaded model: of what will really run."""

    def inside(z_slice: NDArray[Any]) -> NDArray[np.bool_]:
        # The corner pixel of each block: the mask is constant on blocks.
        mask = model.infer(z_slice).mask[:: model.reduction, :: model.reduction]
        return mask.astype(bool)

    return _iou(inside, examples)


def empty_share(model: InFocusModel, fields: int = 16) -> float:
    """Return the largest share called in focus in any of some noise and empty fields, 0..1.

    The fields are the same every time, of 8 to 16 bit, from dark to near saturation.
    """
    return max(float(model.infer(field).mask.mean()) for field in _fields(fields))


def _fields(count: int) -> Iterator[NDArray[np.uint16]]:
    random = np.random.default_rng(_EMPTY_SEED)
    for _ in range(count):
        yield empty_field(random, _EMPTY_SHAPE).astype(np.uint16)


def _iou(inside: Callable[[NDArray[Any]], NDArray[np.bool_]], examples: Iterable[Example]) -> float:
    both = either = 0
    for z_slice, target in examples:
        height, width = target.shape
        called = inside(z_slice)[:height, :width]
        known, wanted = target != UNKNOWN, target == 1
        both += int((called & wanted & known).sum())
        either += int(((called | wanted) & known).sum())
    return both / either if either else 1.0
