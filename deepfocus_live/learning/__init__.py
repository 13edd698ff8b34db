"""Learning while acquiring: what is decided, of arrays and records; nothing is done here.

When to fine-tune, on which stacks, whether the new model does as well as the one before. No
threads, no clock: times are handed in, seconds since the epoch.
"""

from __future__ import annotations

from deepfocus_live.learning._agreement import Agreement, AgreementCounter
from deepfocus_live.learning._history import History, Lesson, RolledBack
from deepfocus_live.learning._policy import Decision, Policy, Standing
from deepfocus_live.learning._pool import StackPool, StackRecord
from deepfocus_live.learning._sanity import StackFacts, contrast_over_z, why_not_learn
from deepfocus_live.learning._watch import (
    ANCHOR_FALL,
    CLEAR_FALL,
    FALL,
    WATCHED_STACKS,
    Outcome,
    Watch,
)

__all__ = [
    "ANCHOR_FALL",
    "CLEAR_FALL",
    "FALL",
    "WATCHED_STACKS",
    "Agreement",
    "AgreementCounter",
    "Decision",
    "History",
    "Lesson",
    "Outcome",
    "Policy",
    "RolledBack",
    "StackFacts",
    "StackPool",
    "StackRecord",
    "Standing",
    "Watch",
    "contrast_over_z",
    "why_not_learn",
]
