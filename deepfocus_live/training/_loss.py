"""The paper's loss: focal, Dice and binary cross-entropy, over what the label decides."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["focus_loss"]

_SMOOTH = 4.0  # blocks


def focus_loss(
    logits: Tensor,
    target: Tensor,
    known: Tensor,
    *,
    gamma: float = 2.0,
    focal_weight: float = 1.0,
    dice_weight: float = 1.0,
    bce_weight: float = 0.5,
    dice_over: Literal["crop", "batch"] = "crop",
) -> Tensor:
    """Return the weighted sum of focal loss, Dice loss and cross-entropy, a scalar >= 0.

    The focal term is that of [Lin2017]_, all classes alike; the Dice term that of
    [Milletari2016]_, with sums in place of sums of squares in the denominator.

    Parameters
    ----------
    logits, target, known : (N, h, w) float32
        `target` 0 or 1; `known` is how much a place counts, 0 for not at all.
    gamma : float
        Exponent of the focal term: how little a place counts that is already right.
    focal_weight, dice_weight, bce_weight : float
        Of the three terms in the sum.
    dice_over : {"crop", "batch"}
        Whether overlap is counted crop by crop, so that little things count as much as fields full
        of cells, or over the whole batch.

    References
    ----------
    .. [Lin2017] Lin et al. (2017), Focal loss for dense object detection, arXiv:1708.02002.
    .. [Milletari2016] Milletari et al. (2016), V-Net, arXiv:1606.04797.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = 1.0 - torch.exp(-cross_entropy)
    count = known.sum().clamp(min=1.0)
    pointwise = (focal_weight * wrong**gamma + bce_weight) * cross_entropy
    probability = torch.sigmoid(logits) * known
    within = (1, 2) if dice_over == "crop" else (0, 1, 2)
    overlap = (probability * target).sum(within)
    both = probability.sum(within) + (target * known).sum(within)
    # The constant keeps what has nothing in focus from dividing by nothing.
    dice = 1.0 - (2.0 * overlap + _SMOOTH) / (both + _SMOOTH)
    # A crop that counts more everywhere counts more here, too.
    weight = known.amax(within)
    dice = (weight * dice).sum() / weight.sum().clamp(min=1.0)
    return (pointwise * known).sum() / count + dice_weight * dice
