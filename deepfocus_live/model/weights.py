"""Weights on disk: plain arrays, so that opening a stranger's model runs none of its code.

Design Notes
------------
A graph holds batch normalisation folded into the convolutions. To train on from a graph alone, each
normalisation is given back in a form that passes through: its scale and shift undo the mean and
variance it holds, so the network computes what the graph computes. Which mean and variance that are
makes no difference to the answer, but some to the first steps of training, which normalise each
batch by the batch's own. Measured on slices like those to be trained on, they let training start as
near to the network's answers as the stored weights do; 0 and 1 about half as near.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfocus_live.errors import InputError
from deepfocus_live.model._version import ModelVersion
from deepfocus_live.model.network import Architecture, FocusNetwork

__all__ = ["load_network", "save_weights"]

_NOT_STORED = "num_batches_tracked"
_CONSTANT = "stem."  # follows from the architecture


def save_weights(network: FocusNetwork, path: Path) -> None:
    """Write the network's parameters and running statistics as a `.npz` of float32 arrays."""
    state = {
        key: value.detach().to("cpu", torch.float32).numpy()
        for key, value in network.state_dict().items()
        if not key.endswith(_NOT_STORED)
    }
    np.savez(path, **state)


def load_network(
    version: ModelVersion, *, slices: NDArray[np.uint16] | None = None
) -> FocusNetwork:
    """Return the network of a version, ready to be trained on.

    From `weights.npz` where the version holds it, else from the ONNX file itself.

    Parameters
    ----------
    version : ModelVersion
    slices : (N, Y, X) uint16, optional
        Raw slices of what will be trained on, sides at least 64. Used only where the ONNX file is
        all there is, to measure the statistics of the normalisations; by default 0 and 1.

    Raises
    ------
    InputError
        If the weights cannot be read, or are of another network than the card says.
    """
    architecture = Architecture.from_dict(version.card.get("architecture", {}))
    network = FocusNetwork(architecture, threshold=version.threshold)
    if version.weights.is_file():
        _load(network, _stored(version.weights), version.weights)
        return network
    _unfold(network, _initialisers(version.onnx), version.onnx)
    if slices is not None:
        _measure(network, slices)
    return network


def _stored(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be used ({str(error).splitlines()[0]})") from error


def _initialisers(path: Path) -> dict[str, Tensor]:
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load(str(path))
    except Exception as error:
        # protobuf's exception classes are not part of its interface.
        raise InputError(f"{path}: cannot be read as an ONNX model ({error})") from error
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}


def _load(network: FocusNetwork, state: dict[str, Tensor], path: Path) -> None:
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be used ({str(error).splitlines()[0]})") from error
    missing = [key for key in missing if not key.endswith(_NOT_STORED)]
    if missing or unexpected:
        wrong = ", ".join([*missing, *unexpected][:3])
        raise InputError(f"{path}: is of another network ({wrong} …)")


def _unfold(network: FocusNetwork, graph: dict[str, Tensor], path: Path) -> None:
    """Load a graph's folded weights, the normalisations left to pass through."""
    state = {k: v for k, v in network.state_dict().items() if not k.endswith(_NOT_STORED)}
    wanted = {key: key for key in state if not key.startswith(_CONSTANT)}
    for name, index, norm in _normalisations(network):
        here, after = f"{name}.{index}", f"{name}.{index + 1}"
        state[f"{after}.running_mean"] = torch.zeros(norm.num_features)
        state[f"{after}.running_var"] = torch.ones(norm.num_features)
        state[f"{after}.weight"] = torch.full((norm.num_features,), (1.0 + norm.eps) ** 0.5)
        for key in ("running_mean", "running_var", "weight"):
            del wanted[f"{after}.{key}"]
        wanted[f"{after}.bias"] = f"{here}.bias"  # the shift is all that is left of it
        if f"{here}.bias" in state:
            state[f"{here}.bias"] = torch.zeros(norm.num_features)
            del wanted[f"{here}.bias"]
    absent = [source for source in wanted.values() if source not in graph]
    if absent:
        raise InputError(f"{path}: is of another network than its card says (no {absent[0]})")
    _load(network, {**state, **{key: graph[source] for key, source in wanted.items()}}, path)


def _normalisations(network: FocusNetwork) -> Iterator[tuple[str, int, nn.BatchNorm2d]]:
    """Yield each normalisation that folds: its sequence, its convolution's place there, itself."""
    for name, sequence in network.named_modules():
        if isinstance(sequence, nn.Sequential):
            for index in range(len(sequence) - 1):
                convolution, norm = sequence[index], sequence[index + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    yield name, index, norm


@torch.no_grad()
def _measure(network: FocusNetwork, slices: NDArray[np.uint16]) -> None:
    """Give the normalisations the statistics of `slices`; the network's answers stay the same."""
    norms = [norm for _, _, norm in _normalisations(network)]
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def note(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        seen[id(norm)] = (mean, variance)

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        network.eval().logits(torch.from_numpy(slices.astype(np.float32)))
    finally:
        for hook in hooks:
            hook.remove()
    for norm in norms:
        mean, variance = seen[id(norm)]
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.add_(mean)
