"""ONNX sessions: providers, warm-up, swap; a raw slice in, mask and probability out."""

from __future__ import annotations

from deepfocus_live.inference._model import Inference, InFocusModel
from deepfocus_live.inference._providers import choose_providers, why_no_cuda
from deepfocus_live.inference._slot import ModelSlot

__all__ = ["InFocusModel", "Inference", "ModelSlot", "choose_providers", "why_no_cuda"]
