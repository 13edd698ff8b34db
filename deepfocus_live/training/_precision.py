"""How this machine trains fastest: found by trying, because torch does not say."""

from __future__ import annotations

import contextlib
import copy
import time
from dataclasses import dataclass

import torch

from deepfocus_live.model.network import FocusNetwork

__all__ = ["FP32", "Precision", "fastest_precision"]

_TRIAL = (2, 256, 256)


@dataclass(frozen=True)
class Precision:
    """Number format and memory layout of a training step.

    Attributes
    ----------
    name : str
        For reports.
    bf16 : bool
        Convolutions in bfloat16; weights and loss stay float32.
    channels_last : bool
        Weights lie channels last.
    """

    name: str
    bf16: bool = False
    channels_last: bool = False

    def autocast(self, device: str = "cpu") -> contextlib.AbstractContextManager[object]:
        """Return the context for the forward pass on a type of device."""
        if self.bf16:
            return torch.autocast(device, torch.bfloat16)
        return contextlib.nullcontext()

    def prepare(self, network: FocusNetwork) -> FocusNetwork:
        """Lay out the network's weights, in place."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return network.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


FP32 = Precision("float32")
"""The plain way, which every machine has."""
_CANDIDATES = (
    FP32,
    Precision("float32, channels last", channels_last=True),
    Precision("bfloat16, channels last", bf16=True, channels_last=True),
)


def fastest_precision(network: FocusNetwork) -> Precision:
    """Return the fastest of the known ways where the network lies; takes about a second."""
    took = {precision: _seconds(copy.deepcopy(network), precision) for precision in _CANDIDATES}
    return min(took, key=lambda precision: took[precision])


def _seconds(network: FocusNetwork, precision: Precision) -> float:
    precision.prepare(network).train()
    device = next(network.parameters()).device
    features = network.features((100.0 + 10.0 * torch.randn(_TRIAL)).to(device))
    times = []
    for _ in range(2):  # the first step also sets kernels up
        began = time.perf_counter()
        with precision.autocast(device.type):
            logits = network.unet(features)
        logits.float().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
