"""Slices that are not there, in few words."""

from __future__ import annotations

from collections.abc import Iterable

from deepfocus_live.export._source import Place

__all__ = ["spell_places"]

_MOST = 40


def spell_places(places: Iterable[Place]) -> str:
    """Return places as ``t0 c0 z3-7, t1 c0 z0``; beyond 40 groups their number stands instead."""
    runs: list[list[Place]] = []
    for place in sorted(places):
        if runs and runs[-1][-1]._replace(z=runs[-1][-1].z + 1) == place:
            runs[-1].append(place)
        else:
            runs.append([place])
    spelled = [
        f"t{run[0].t} c{run[0].c} z{run[0].z}" + (f"-{run[-1].z}" if len(run) > 1 else "")
        for run in runs
    ]
    left = len(spelled) - _MOST
    return ", ".join(spelled[:_MOST]) + (f" and {left} more groups" if left > 0 else "")
