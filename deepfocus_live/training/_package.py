"""A trained network as a model folder."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepfocus_live.model import ModelVersion, read_version, seal
from deepfocus_live.model.export import export_onnx
from deepfocus_live.model.network import FocusNetwork
from deepfocus_live.model.weights import save_weights

__all__ = ["write_model"]


def write_model(
    folder: Path,
    network: FocusNetwork,
    *,
    name: str,
    card: Mapping[str, Any],
    template: Path | None = None,
    slices: NDArray[np.uint16] | None = None,
) -> ModelVersion:
    """Write graph, weights and card into `folder`, which must be empty or absent.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    network : FocusNetwork
        With the weights to export; not changed.
    name : str
        Of the version.
    card : mapping
        What to tell of its training; name, date, architecture, threshold, software and checksums
        are added.
    template, slices
        As in `export_onnx`.

    Returns
    -------
    ModelVersion

    Raises
    ------
    ExportMismatchError
        If ONNX Runtime and torch disagree.
    """
    import onnx
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(network, folder / "model.onnx", name=name, template=template, slices=slices)
    save_weights(network, folder / "weights.npz")
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    whole = {
        "name": name,
        "created": now.isoformat(),
        "architecture": network.architecture.as_dict(),
        "threshold": round(float(network.threshold) / 255.0, 4),
        **card,
        "software": {
            "deepfocus-live": _own_version(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{module.__name__: module.__version__ for module in (np, torch, onnx, onnxruntime)},
        },
    }
    seal(folder, whole)
    return read_version(folder)


def _own_version() -> str:
    try:
        return importlib.metadata.version("deepfocus-live")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
