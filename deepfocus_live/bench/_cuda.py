"""Masks on an NVIDIA card, beside torch on the same card."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfocus_live.bench._table import Row, medians
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import ModelVersion
from deepfocus_live.model.export import fold
from deepfocus_live.model.weights import load_network

__all__ = ["cuda_rows", "time_on_cuda", "torch_call"]

SLICES_OF_A_STACK = 20
_OURS, _STACK, _BYTES = "ours", "stack", "bytes"
_TORCH = {
    "torch eager, float32": (torch.float32, False),
    "torch eager, U-Net in bfloat16": (torch.bfloat16, False),
    "torch.compile, float32": (torch.float32, True),
    "torch.compile, U-Net in bfloat16": (torch.bfloat16, True),
}


def time_on_cuda(
    version: ModelVersion, stack: NDArray[np.uint16], model: InFocusModel, *, repeat: int
) -> dict[str, float]:
    """Return median times in seconds on the card, by name; what cannot be had there is missing.

    Parameters
    ----------
    version : ModelVersion
    stack : (Z, Y, X) uint16
    model : InFocusModel
        The same version on CUDA.
    repeat : int
    """
    frames = itertools.cycle(stack)
    calls: dict[str, Callable[[], object]] = {
        _OURS: lambda: model.infer(next(frames)),
        _STACK: lambda: [model.infer(z_slice) for z_slice in stack],
        _BYTES: _transfer(stack[0]),
    }
    for name, (dtype, compiled) in _TORCH.items():
        # torch.compile needs a C compiler and Triton, which not every machine has.
        with contextlib.suppress(Exception):
            call = torch_call(version, stack[0], "cuda", dtype=dtype, compiled=compiled)
            call()
            calls[name] = call
    return dict(zip(calls, medians(*calls.values(), repeat=repeat, seconds=30), strict=True))


def cuda_rows(name: str, shape: Sequence[int], times: Mapping[str, float]) -> list[Row]:
    """Return the rows of one size of slice; those without a time say that they were not measured.

    Parameters
    ----------
    name : str
        What runs.
    shape : (Y, X)
    times : mapping
        What `time_on_cuda` returned; empty where there is no card.
    """
    size = f"{shape[0]} × {shape[1]}"
    ms = {key: 1e3 * seconds for key, seconds in times.items()}
    one = f"mask of a {size} slice"
    stack = f"masks of {SLICES_OF_A_STACK} slices of {size}"
    rivals = {_BYTES: f"copies of a {size} slice to the card and of its mask back"}
    rivals |= {key: f"{one}, {key} on the same card" for key in _TORCH}
    return [
        Row("inference", f"{one}, {name}, p50", ms.get(_OURS), "ms", goal=0.5),
        Row("inference", f"{stack}, {name}, p50", ms.get(_STACK), "ms", goal=8.0),
        *(
            Row("inference", f"{rival}, p50", ms.get(key), "ms", f"ours, {name}", ms.get(_OURS))
            for key, rival in rivals.items()
        ),
    ]


def torch_call(
    version: ModelVersion,
    image: NDArray[np.uint16],
    device: str,
    *,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return what makes a mask with torch, from host memory to host memory.

    Parameters
    ----------
    version : ModelVersion
    image : (Y, X) uint16
    device : str
        As torch names it.
    dtype : torch.dtype
        Of the U-Net; the stem needs float32, for it sums raw counts.
    compiled : bool
        With `torch.compile`, launches recorded as a CUDA graph.
    """
    network: Any = fold(load_network(version)).to(device)
    if dtype != torch.float32:
        network.unet = _Cast(network.unet, dtype)
    if compiled:
        network = torch.compile(network, mode="reduce-overhead", dynamic=False)
    counts = _host(torch.from_numpy(image)[None], device)

    def call() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            # Widened outside of what is compiled: support for uint16 is thin there.
            mask, probability = network(counts.to(device, non_blocking=True).to(torch.float32))
            return mask.cpu(), probability.cpu()

    return call


class _Cast(nn.Module):
    """A U-Net in another precision, float32 outside."""

    def __init__(self, unet: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.unet, self.dtype = unet.to(dtype), dtype

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.unet(features.to(self.dtype))
        return logits.to(torch.float32)


def _transfer(image: NDArray[np.uint16]) -> Callable[[], object]:
    """Return what moves a slice to the card and as many uint8 back, in pinned memory."""
    counts = _host(torch.from_numpy(image), "cuda")
    mask = _host(torch.zeros(image.shape, dtype=torch.uint8), "cuda")
    there, made = counts.to("cuda"), mask.to("cuda")

    def call() -> None:
        there.copy_(counts, non_blocking=True)
        mask.copy_(made, non_blocking=True)
        torch.cuda.synchronize()

    return call


def _host(values: Tensor, device: str) -> Tensor:
    return values.pin_memory() if device == "cuda" else values
