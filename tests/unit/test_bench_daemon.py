"""The bench group `daemon`: its goals judge what they say."""

from __future__ import annotations

from dataclasses import replace

from deepfocus_live.bench._daemon import Figures, daemon_rows
from deepfocus_live.bench._table import GROUPS

GOOD = Figures(
    cold_s=2.9,
    kernels_s=40.0,
    warm_s=1.4,
    serving_s=2.0,
    first_mask_s=0.2,
    idle_percent=0.9,
    idle_mb=200.0,
    stop_s=1.9,
)


def test_each_goal_is_missed_by_its_own_figure_alone() -> None:
    assert "daemon" in GROUPS
    assert [row.met for row in daemon_rows(GOOD) if row.goal is not None] == [True] * 4
    limits = {"cold_s": 3.1, "warm_s": 1.6, "idle_percent": 1.1, "stop_s": 2.1}
    missed = set()
    for name, value in limits.items():
        rows = daemon_rows(replace(GOOD, **{name: value}))
        [row] = [row for row in rows if row.met is False]
        assert row.value == value
        missed.add(row.name)
    assert len(missed) == len(limits)
