"""What the daemon takes of a small computer, and of a large one."""

from __future__ import annotations

import pytest

from deepfocus_live.config import load_config
from deepfocus_live.daemon._budgets import Budgets


@pytest.mark.parametrize(
    ("free_mb", "each"),
    [
        # Of 4 and 8 GB about half is free where nothing but the system and the camera runs.
        pytest.param(2000, 250, id="4-GB"),
        pytest.param(4400, 512, id="8-GB"),
        pytest.param(60000, 512, id="64-GB"),
        pytest.param(50, 16, id="none-to-speak-of"),
    ],
)
def test_usual_values_leave_most_of_what_is_free_to_others(free_mb: int, each: int) -> None:
    found = Budgets.of(load_config(None), free_mb << 20)
    assert (found.backlog_mb, found.labels_mb, found.ring_mb) == (each, each, each)
    assert found.free_mb == free_mb
    assert f"{each} for a ring" in found.in_words


def test_what_somebody_has_set_stays() -> None:
    config = load_config(
        None, inference__backlog_mb=4000, ring__memory_mb=700, labels__enabled=False
    )
    found = Budgets.of(config, 2000 << 20)
    assert (found.backlog_mb, found.labels_mb, found.ring_mb) == (4000, 250, 700)
