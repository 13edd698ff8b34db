"""U-Net, export and registry.

Importing this loads no torch: the network is in `deepfocus_live.model.network`, its export in
`deepfocus_live.model.export`, its weights on disk in `deepfocus_live.model.weights`.
"""

from __future__ import annotations

from deepfocus_live.model._archive import check_free
from deepfocus_live.model._bioimageio import export_bioimageio
from deepfocus_live.model._contract import (
    FORMAT_VERSION,
    FREE_DIMENSIONS,
    INPUT,
    MIN_SIDE,
    OUTPUTS,
    open_session,
)
from deepfocus_live.model._handover import export_bare_onnx, export_zip, import_model
from deepfocus_live.model._registry import Registry, default_root
from deepfocus_live.model._statistics import STATISTICS, measure_statistics
from deepfocus_live.model._version import ModelVersion, read_version, seal, verify

__all__ = [
    "FORMAT_VERSION",
    "FREE_DIMENSIONS",
    "INPUT",
    "MIN_SIDE",
    "OUTPUTS",
    "STATISTICS",
    "ModelVersion",
    "Registry",
    "check_free",
    "default_root",
    "export_bare_onnx",
    "export_bioimageio",
    "export_zip",
    "import_model",
    "measure_statistics",
    "open_session",
    "read_version",
    "seal",
    "verify",
]
