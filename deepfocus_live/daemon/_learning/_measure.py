"""Reads what is on the disk of one stack, and measures it: for decisions on learning.

Slice by slice, and whoever waits for the disk or the network goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepfocus_live.daemon._learning._whole import WholeStack
from deepfocus_live.frames import luminance
from deepfocus_live.inference import InFocusModel
from deepfocus_live.learning import Agreement, AgreementCounter
from deepfocus_live.model import ModelVersion
from deepfocus_live.volume import RunWriter

__all__ = ["Measured", "anchor_iou", "measure_stack", "paired_agreement"]

_PAIRED_SLICES = 8

GiveWay = Callable[[], None]


@dataclass(frozen=True)
class Measured:
    """What was measured of one stack.

    Attributes
    ----------
    agreement : Agreement
    brightness : float
        Mean of its middle slice, counts; 0 where no pixels are kept.
    """

    agreement: Agreement
    brightness: float


def measure_stack(writer: RunWriter, stack: WholeStack, give_way: GiveWay) -> Measured:
    """Return the agreement of a stack's masks with its weak labels, and how bright it is."""
    counter = AgreementCounter()
    for z, model in stack.models.items():
        give_way()
        place = stack.key.placement(z)
        counter.add(writer.read_mask(place), *writer.read_weak_label(place), model)
    brightness = 0.0
    if writer.pixels_stored:
        zs = list(stack.models)
        middle = writer.read_slice(stack.key.placement(zs[len(zs) // 2]))
        brightness = float(np.mean(middle[..., ::2, ::2]))
    return Measured(counter.result(), brightness)


def paired_agreement(
    writer: RunWriter,
    stack: WholeStack,
    *,
    new: str,
    old: InFocusModel,
    give_way: GiveWay,
) -> tuple[float | None, float | None] | None:
    """Return the agreement of two models with the rule, old and new, on the same slices.

    The new model's masks are those in the run; the old one is asked now, about at most 8 slices.

    Returns
    -------
    (float or None, float or None) or None
        None instead of both where the new model masked none of the slices.
    """
    zs = _spread([z for z, model in stack.models.items() if model == new], _PAIRED_SLICES)
    if not zs:
        return None
    counters = AgreementCounter(), AgreementCounter()
    for z in zs:
        give_way()
        place = stack.key.placement(z)
        weak, undecided = writer.read_weak_label(place)
        before = old.infer(luminance(writer.read_slice(place))).mask
        counters[0].add(before, weak, undecided)
        counters[1].add(writer.read_mask(place), weak, undecided)
    return counters[0].result().iou, counters[1].result().iou


def anchor_iou(version: ModelVersion, *, provider: str) -> float:
    """Return how well a model's masks agree with the true masks of the anchor set, 0..1.

    On the device that makes the masks here, in a session of its own: the live one's slices do not
    wait for it. Takes seconds, the first time in a process.
    """
    # Loads no torch; the simulation is loaded by nobody else here.
    from deepfocus_live.training import anchor_set, model_iou

    model = InFocusModel.load(version, provider=provider, threads=1)
    return model_iou(model, anchor_set(model.reduction))


def _spread(zs: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the slices, evenly spread."""
    if len(zs) <= most:
        return list(zs)
    picks = np.linspace(0, len(zs) - 1, most).round().astype(int)
    return [zs[pick] for pick in picks]
