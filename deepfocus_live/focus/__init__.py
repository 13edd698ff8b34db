"""What "in focus" means: measures, scan and weak labels. Arrays in, arrays out.

This is the only room that knows. It holds no files, no threads and no state
beyond a labeller's block scores, and its kernels release the GIL.
"""

from __future__ import annotations

from deepfocus_live.focus._labels import StackLabeler, StackLabels, label_stack
from deepfocus_live.focus._measures import MEASURES, Measure
from deepfocus_live.focus._presets import PRESETS, Preset, preset_named
from deepfocus_live.focus._rules import Decision, axial_rule, stack_otsu_rule
from deepfocus_live.focus._scan import (
    FocusScores,
    enlarge_blocks,
    focus_score_blocks,
    focus_score_map,
    scan_block_px,
)
from deepfocus_live.focus._warm import warm_up

__all__ = [
    "MEASURES",
    "PRESETS",
    "Decision",
    "FocusScores",
    "Measure",
    "Preset",
    "StackLabeler",
    "StackLabels",
    "axial_rule",
    "enlarge_blocks",
    "focus_score_blocks",
    "focus_score_map",
    "label_stack",
    "preset_named",
    "scan_block_px",
    "stack_otsu_rule",
    "warm_up",
]
