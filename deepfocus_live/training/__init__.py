"""Dataset, augmentation, loss, fit, gate: the network is taught here. Importing it loads torch."""

from __future__ import annotations

from deepfocus_live.training._anchor import ANCHOR_VERSION, anchor_set
from deepfocus_live.training._batches import Batch, BatchMaker
from deepfocus_live.training._device import TrainingDevice, training_device
from deepfocus_live.training._empty import empty_field
from deepfocus_live.training._evaluate import empty_share, held_out_slices, model_iou, network_iou
from deepfocus_live.training._examples import UNKNOWN, LabelledStack, SliceStack, block_target
from deepfocus_live.training._fit import Checkpoint, FitResult, FitState, fit
from deepfocus_live.training._gate import Check, Scores, Verdict, judge_candidate
from deepfocus_live.training._label import with_labels
from deepfocus_live.training._loss import focus_loss
from deepfocus_live.training._package import write_model
from deepfocus_live.training._precision import FP32, Precision, fastest_precision
from deepfocus_live.training._report import Progress, RetrainReport
from deepfocus_live.training._retrain import retrain
from deepfocus_live.training._simulated import simulated_stack, simulated_stacks
from deepfocus_live.training._split import split

__all__ = [
    "ANCHOR_VERSION",
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
    "TrainingDevice",
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
    "simulated_stack",
    "simulated_stacks",
    "split",
    "training_device",
    "with_labels",
    "write_model",
]
