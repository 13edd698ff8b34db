"""Inference: providers, warm-up, swap; a raw slice in, mask and probability out."""

from __future__ import annotations

from deepfocus_live.inference._counts import as_counts
from deepfocus_live.inference._engine import Engine, EngineError, OutOfMemoryError
from deepfocus_live.inference._model import Inference, InFocusModel
from deepfocus_live.inference._providers import open_engine, why_no_cuda
from deepfocus_live.inference._slot import ModelSlot

__all__ = [
    "Engine",
    "EngineError",
    "InFocusModel",
    "Inference",
    "ModelSlot",
    "OutOfMemoryError",
    "as_counts",
    "open_engine",
    "why_no_cuda",
]
