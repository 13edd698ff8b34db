"""A short soak: `scripts/soak.py` is the long one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deepfocus_live.bench._daemon import idle_percent
from deepfocus_live.ring import DaemonAddress
from tests.soak import Held, growth, soak


def test_growth_is_what_was_added_between_the_ends() -> None:
    samples = [Held(100 * n, 200.0 + 3 * n, 20, 10 + n, 80.0, 8, 9, 1) for n in range(1, 10)]
    found = growth(samples)
    assert found["daemon_mb"] == (224 - 206) / 206
    assert found["daemon_files"] == (18 - 12) / 12
    assert {found[name] for name in ("daemon_threads", "microscope_mb", "rings")} == {0.0}


def test_many_small_stacks_leave_no_thread_no_file_and_no_ring(
    daemon: DaemonAddress, tmp_path: Path
) -> None:
    if sys.platform != "win32":
        # A session of its own: neither a terminal that is closed nor its Ctrl-C reaches it.
        assert os.getsid(daemon.pid) == daemon.pid
    first, *_, last = soak(daemon, tmp_path / "here", stacks=16, every=4, per_run=1)
    assert last.stacks == 16
    # A thread of a pool that was not needed before, or a connection just let go, is no leak.
    one_in_two_stacks = (last.stacks - first.stacks) // 2
    for name in ("threads", "files"):
        for who in ("daemon", "microscope"):
            grown = getattr(last, f"{who}_{name}") - getattr(first, f"{who}_{name}")
            assert grown < one_in_two_stacks, (who, name)
    assert (first.rings, last.rings) == (1, 1)
    assert not list((tmp_path / "here").iterdir())
    # Far from its goal, so that a burst on a loaded machine is no failure: it does not spin.
    assert idle_percent(daemon.pid, 0.5) < 50
