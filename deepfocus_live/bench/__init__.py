"""The performance table: ours and the reference, side by side, in one run."""

from __future__ import annotations

from deepfocus_live.bench._table import GROUPS, LONG_GROUPS, Row, run_groups

__all__ = ["GROUPS", "LONG_GROUPS", "Row", "run_groups"]
