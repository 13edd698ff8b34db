"""Weights on disk: plain arrays, so that opening a stranger's model runs none of its code."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from deepfocus_live.errors import InputError
from deepfocus_live.model._version import ModelVersion
from deepfocus_live.model.network import Architecture, FocusNetwork

__all__ = ["load_network", "save_weights"]


def save_weights(network: FocusNetwork, path: Path) -> None:
    """Write the network's parameters and running statistics as a `.npz` of float32 arrays."""
    state = {
        key: value.detach().to("cpu", torch.float32).numpy()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    np.savez(path, **state)


def load_network(version: ModelVersion) -> FocusNetwork:
    """Return the network of a version, ready to be trained on.

    Raises
    ------
    InputError
        If the version holds no weights, or weights of another network than its card says.
    """
    if not version.weights.is_file():
        raise InputError(f"{version.path}: holds no {version.weights.name}, nothing to start from")
    architecture = Architecture.from_dict(version.card.get("architecture", {}))
    network = FocusNetwork(architecture, threshold=version.threshold)
    try:
        with np.load(version.weights, allow_pickle=False) as arrays:
            state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"{version.weights}: cannot be used ({first_line})") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        wrong = ", ".join([*missing, *unexpected][:3])
        raise InputError(f"{version.weights}: is of another network ({wrong} …)")
    return network
