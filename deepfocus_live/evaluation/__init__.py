"""How well masks agree with a truth: overlap, boundaries, depth.

Pure functions on the masks of one slice, and a `Scorer` that goes through a stack slice by
slice. What the truth leaves undecided counts nowhere. Only this room knows how agreement is
counted; where a mask comes from is `stacks`' business, how it is told is the command line's.
"""

from __future__ import annotations

from deepfocus_live.evaluation._bootstrap import bootstrap_interval
from deepfocus_live.evaluation._boundary import BoundaryMatch, match_boundaries
from deepfocus_live.evaluation._depth import DepthErrors
from deepfocus_live.evaluation._overlap import Overlap, count_overlap, iou
from deepfocus_live.evaluation._scorer import (
    FIGURES,
    UNDECIDED,
    Comparison,
    Scorer,
    SliceScore,
    pooled,
)
from deepfocus_live.evaluation._simulated import (
    DEFOCUS_EDGES,
    SimulatedScore,
    SimulatedSlice,
    mean_with_interval,
    score_on_simulation,
)

__all__ = [
    "DEFOCUS_EDGES",
    "FIGURES",
    "UNDECIDED",
    "BoundaryMatch",
    "Comparison",
    "DepthErrors",
    "Overlap",
    "Scorer",
    "SimulatedScore",
    "SimulatedSlice",
    "SliceScore",
    "bootstrap_interval",
    "count_overlap",
    "iou",
    "match_boundaries",
    "mean_with_interval",
    "pooled",
    "score_on_simulation",
]
