"""The paper's loss: focal, Dice and binary cross-entropy, over what the label decides."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["focus_loss"]


def focus_loss(
    logits: Tensor,
    target: Tensor,
    known: Tensor,
    *,
    gamma: float = 2.0,
    focal_weight: float = 1.0,
    dice_weight: float = 1.0,
    bce_weight: float = 0.5,
) -> Tensor:
    """Return the weighted sum of focal loss, Dice loss and cross-entropy, a scalar >= 0.

    Parameters
    ----------
    logits, target, known : (N, h, w) float32
        `target` 0 or 1; `known` is how much a place counts, 0 for not at all.
    gamma : float
        Exponent of the focal term: how little a place counts that is already right.
    focal_weight, dice_weight, bce_weight : float
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = 1.0 - torch.exp(-cross_entropy)
    count = known.sum().clamp(min=1.0)
    pointwise = (focal_weight * wrong**gamma + bce_weight) * cross_entropy
    probability = torch.sigmoid(logits) * known
    overlap = (probability * target).sum()
    # The 1 keeps a batch without anything in focus from dividing by nothing.
    dice = 1.0 - (2.0 * overlap + 1.0) / (probability.sum() + (target * known).sum() + 1.0)
    return (pointwise * known).sum() / count + dice_weight * dice
