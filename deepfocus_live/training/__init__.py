"""Dataset, augmentation, loss, fit, gate: the network is taught here.

A name is loaded when it is first asked for: most load torch, the nouns that the daemon needs to
start a trainer (`TrainingJob`, `StackAddress`, `TrainerFolder`) do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfocus_live.training._anchor import anchor_set
    from deepfocus_live.training._batches import Batch, BatchMaker
    from deepfocus_live.training._device import TrainingDevice, training_device
    from deepfocus_live.training._empty import empty_field
    from deepfocus_live.training._evaluate import (
        empty_share,
        held_out_slices,
        model_iou,
        network_iou,
    )
    from deepfocus_live.training._examples import UNKNOWN, LabelledStack, SliceStack, block_target
    from deepfocus_live.training._fit import Checkpoint, FitResult, FitState, fit
    from deepfocus_live.training._gate import Check, Scores, Verdict, judge_candidate
    from deepfocus_live.training._job import StackAddress, TrainingJob
    from deepfocus_live.training._label import with_labels
    from deepfocus_live.training._loss import focus_loss
    from deepfocus_live.training._orders import TrainerFolder, TrainerOrder
    from deepfocus_live.training._package import write_model
    from deepfocus_live.training._precision import FP32, Precision, fastest_precision
    from deepfocus_live.training._report import Progress, RetrainReport
    from deepfocus_live.training._retrain import retrain, retrain_job
    from deepfocus_live.training._simulated import simulated_stack, simulated_stacks
    from deepfocus_live.training._split import split

__all__ = [
    "FP32",
    "UNKNOWN",
    "Batch",
    "BatchMaker",
    "Check",
    "Checkpoint",
    "FitResult",
    "FitState",
    "LabelledStack",
    "Precision",
    "Progress",
    "RetrainReport",
    "Scores",
    "SliceStack",
    "StackAddress",
    "TrainerFolder",
    "TrainerOrder",
    "TrainingDevice",
    "TrainingJob",
    "Verdict",
    "anchor_set",
    "block_target",
    "empty_field",
    "empty_share",
    "fastest_precision",
    "fit",
    "focus_loss",
    "held_out_slices",
    "judge_candidate",
    "model_iou",
    "network_iou",
    "retrain",
    "retrain_job",
    "simulated_stack",
    "simulated_stacks",
    "split",
    "training_device",
    "with_labels",
    "write_model",
]

_HOMES = {
    "_anchor": ("anchor_set",),
    "_batches": ("Batch", "BatchMaker"),
    "_device": ("TrainingDevice", "training_device"),
    "_empty": ("empty_field",),
    "_evaluate": ("empty_share", "held_out_slices", "model_iou", "network_iou"),
    "_examples": ("UNKNOWN", "LabelledStack", "SliceStack", "block_target"),
    "_fit": ("Checkpoint", "FitResult", "FitState", "fit"),
    "_gate": ("Check", "Scores", "Verdict", "judge_candidate"),
    "_job": ("StackAddress", "TrainingJob"),
    "_label": ("with_labels",),
    "_loss": ("focus_loss",),
    "_orders": ("TrainerFolder", "TrainerOrder"),
    "_package": ("write_model",),
    "_precision": ("FP32", "Precision", "fastest_precision"),
    "_report": ("Progress", "RetrainReport"),
    "_retrain": ("retrain", "retrain_job"),
    "_simulated": ("simulated_stack", "simulated_stacks"),
    "_split": ("split",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load the module that has a public name."""
    if name in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
