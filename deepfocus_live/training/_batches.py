"""Random batches of crops, augmented, with empty fields among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfocus_live.model.network import Architecture, BlockStem
from deepfocus_live.training._augment import change_counts, defocus, turn
from deepfocus_live.training._empty import empty_field
from deepfocus_live.training._examples import UNKNOWN, LabelledStack

__all__ = ["Batch", "BatchMaker"]

_HAND_MADE_SHARE = 0.5  # of the crops of a stack that has some slices with hand-made masks


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes
    ----------
    counts : (N, H, W) float32
        Raw counts.
    target : (N, H / reduction, W / reduction) float32
        0 or 1.
    known : like `target`
        How much the target counts: the weight of its slice, 0 where the label does not say.
    """

    counts: Tensor
    target: Tensor
    known: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch in the memory of `device`."""
        return Batch(self.counts.to(device), self.target.to(device), self.known.to(device))


class BatchMaker:
    """Draws batches from labelled stacks.

    Parameters
    ----------
    stacks : sequence of LabelledStack
        Drawn from by their weight. Half of the crops of a stack with hand-made masks come from
        slices that have one.
    seed : int or sequence of int
    size : int
        Crops in a batch.
    crop_px : int
        Side of a crop; made smaller where the smallest stack asks for it.
    empty_share, defocused_share : float
        Of the crops: fields with nothing in them, and crops blurred until nothing is sharp. Both
        teach the network to stay silent.
    """

    def __init__(
        self,
        stacks: Sequence[LabelledStack],
        *,
        seed: int | Sequence[int] = 0,
        size: int = 8,
        crop_px: int = 256,
        empty_share: float = 0.15,
        defocused_share: float = 0.1,
    ) -> None:
        self._stacks = list(stacks)
        self._random = np.random.default_rng(seed)
        self._size = size
        self._reduction = stacks[0].reduction
        smallest = min(min(stack.slices.shape[1:]) for stack in stacks)
        # A multiple of the deepest level's block, so that nothing is padded while training.
        step = 8 * self._reduction
        self._crop_px = max(min(crop_px, smallest) // step * step, step)
        weights = np.array([stack.weight for stack in stacks])
        self._odds = weights / weights.sum()
        self._empty_share = empty_share
        self._defocused_share = defocused_share
        self._noise = [_slice_noise(stack) for stack in stacks]
        self._focused = [_focused_places(stack) for stack in stacks]
        self._of_hand = [_hand_made_slices(stack) for stack in stacks]

    def draw(self) -> Batch:
        """Return the next batch."""
        examples = (self._example() for _ in range(self._size))
        counts, targets, weights = zip(*examples, strict=True)
        target = torch.from_numpy(np.stack(targets))
        weight = torch.tensor(weights, dtype=torch.float32)[:, None, None]
        known = (target != UNKNOWN).float() * weight
        return Batch(torch.from_numpy(np.stack(counts)), (target == 1).float(), known)

    def _example(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], float]:
        random, kind = self._random, self._random.random()
        if kind < self._empty_share:
            side = self._crop_px
            nothing = np.zeros((side // self._reduction,) * 2, np.uint8)
            return empty_field(random, (side, side)), nothing, 1.0
        counts, target, noise_counts, weight = self._crop()
        if kind < self._empty_share + self._defocused_share:
            counts, target = defocus(random, counts, noise_counts), np.zeros_like(target)
            weight = 1.0
        return change_counts(random, counts, noise_counts), target, weight

    def _crop(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], float, float]:
        """Return a turned crop's counts, target, noise and weight."""
        random, r = self._random, self._reduction
        index = int(random.choice(len(self._stacks), p=self._odds))
        stack = self._stacks[index]
        side = self._crop_px // r
        z, y, x = self._place(index, side)
        target = stack.target[z, y : y + side, x : x + side]
        counts = stack.slices[z, y * r : (y + side) * r, x * r : (x + side) * r]
        turned = turn(random, counts.astype(np.float32), target)
        weight = 1.0 if stack.slice_weight is None else float(stack.slice_weight[z])
        noise_counts = float(self._noise[index][z])
        return turned[0], np.ascontiguousarray(turned[1]), noise_counts, weight

    def _place(self, index: int, side: int) -> tuple[int, int, int]:
        """Return slice and corner of a crop: half of them hold something in focus."""
        random, target = self._random, self._stacks[index].target
        z = int(random.integers(len(target)))
        limits = np.array(target.shape[1:]) - side
        corner = random.integers(0, limits + 1)
        places = self._focused[index]
        by_hand = self._of_hand[index]
        if len(by_hand) and random.random() < _HAND_MADE_SHARE:
            z = int(by_hand[random.integers(len(by_hand))])
            places = places[np.searchsorted(places[:, 0], z) :]
            places = places[: np.searchsorted(places[:, 0], z, side="right")]
        if len(places) and random.random() < 0.5:
            z, *centre = (int(v) for v in places[random.integers(len(places))])
            jitter = random.integers(-side // 3, side // 3 + 1, 2)
            corner = np.clip(np.array(centre) - side // 2 + jitter, 0, limits)
        return z, int(corner[0]), int(corner[1])


def _slice_noise(stack: LabelledStack) -> NDArray[np.float64]:
    """Return each slice's noise in counts, as the network measures it."""
    stem = BlockStem(Architecture())
    noise = []
    for z_slice in stack.slices:
        counts = torch.from_numpy(z_slice.astype(np.float32))[None]
        noise.append(float(stem.noise(counts, stem(counts))[1]) ** 0.5)
    return np.array(noise)


def _focused_places(stack: LabelledStack) -> NDArray[np.int64]:
    """Return (z, y, x) of blocks in focus, sorted, thinned so that large stacks stay small."""
    places = np.argwhere(stack.target == 1)
    result: NDArray[np.int64] = places[:: max(1, len(places) // 20000)]
    return result


def _hand_made_slices(stack: LabelledStack) -> NDArray[np.intp]:
    """Return the slices with hand-made masks, if others have none."""
    by_hand = np.zeros(0, bool) if stack.hand_made is None else stack.hand_made
    none: NDArray[np.intp] = np.zeros(0, np.intp)
    return none if by_hand.all() else np.flatnonzero(by_hand)
