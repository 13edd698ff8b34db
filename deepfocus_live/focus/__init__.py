"""What "in focus" means: measures, scan and weak labels. Arrays in, arrays out.

This is the only room that knows. It holds no files, no threads and no state
beyond a labeller's block scores, and its kernels release the GIL.
"""

from __future__ import annotations

from deepfocus_live.focus._conditions import Conditions
from deepfocus_live.focus._consensus import Limits
from deepfocus_live.focus._depth import DepthMap, depth_map
from deepfocus_live.focus._findings import Findings
from deepfocus_live.focus._labels import StackLabeler, StackLabels, label_stack
from deepfocus_live.focus._measures import MEASURES, Measure
from deepfocus_live.focus._optics import depth_of_field_um, resolution_um, z_step_note
from deepfocus_live.focus._presets import (
    DEFAULT_PRESET,
    PRESETS,
    ConsensusPreset,
    Preset,
    ScanPreset,
    preset_named,
    projection_sharpness,
)
from deepfocus_live.focus._projection import StackProjector
from deepfocus_live.focus._ranking import MeasureRank, Ranking, rank_measures
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
    "DEFAULT_PRESET",
    "MEASURES",
    "PRESETS",
    "Conditions",
    "ConsensusPreset",
    "Decision",
    "DepthMap",
    "Findings",
    "FocusScores",
    "Limits",
    "Measure",
    "MeasureRank",
    "Preset",
    "Ranking",
    "ScanPreset",
    "StackLabeler",
    "StackLabels",
    "StackProjector",
    "axial_rule",
    "depth_map",
    "depth_of_field_um",
    "enlarge_blocks",
    "focus_score_blocks",
    "focus_score_map",
    "label_stack",
    "preset_named",
    "projection_sharpness",
    "rank_measures",
    "resolution_um",
    "scan_block_px",
    "stack_otsu_rule",
    "warm_up",
    "z_step_note",
]
