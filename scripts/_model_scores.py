"""What the scripts that train and compare models measure, and how it is printed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from deepfocus_live.evaluation import (
    DEFOCUS_EDGES,
    SimulatedScore,
    SimulatedSlice,
    mean_with_interval,
    score_on_simulation,
)
from deepfocus_live.stacks import open_stacks
from deepfocus_live.training import empty_field

SIMULATION_SEEDS = (2_000_001, 2_000_002, 2_000_003)
"""Of the simulated stacks that judge; training draws from small numbers."""

EMPTY_SEED = 30_011
EMPTY_SHAPE = (512, 512)

MaskOf = Callable[[NDArray[Any]], NDArray[np.uint8]]


def simulated_scores(mask_of: MaskOf, stacks_per_seed: int = 18) -> dict[str, Any]:
    """Return IoU on simulated truth, overall and by group, and what is called by defocus."""
    score = score_on_simulation(mask_of, seeds=SIMULATION_SEEDS, stacks_per_seed=stacks_per_seed)
    counting = score.counting
    mixed = [one for one in counting if one.mixed]
    without = [one for one in score.slices if not one.counts]
    return {
        "stacks": len({one.stack for one in score.slices}),
        "slices": len(counting),
        "iou": _interval(counting, "iou"),
        "iou_mixed": _interval(mixed, "iou"),
        "strict_iou": _interval(counting, "strict_iou"),
        "strict_iou_mixed": _interval(mixed, "strict_iou"),
        "false_share_where_nothing_is_in_focus": _interval(without, "false_share"),
        "by": {
            group: dict(_by(counting, group)) for group in ("specimen", "modality", "noise_level")
        },
        "called_by_depths_of_field": _called(score),
    }


def empty_scores(mask_of: MaskOf, fields: int = 192) -> dict[str, float]:
    """Return the share called in focus in noise and empty fields of 8 to 16 bit, 0..1."""
    random = np.random.default_rng(EMPTY_SEED)
    shares = [
        float(np.mean(mask_of(empty_field(random, EMPTY_SHAPE).astype(np.uint16)) != 0))
        for _ in range(fields)
    ]
    return {
        "fields": fields,
        "mean": round(float(np.mean(shares)), 6),
        "worst": round(max(shares), 6),
    }


def hand_made_scores(mask_of: MaskOf, test: Sequence[str]) -> dict[str, Any]:
    """Return what a scorer prints of the masks of a stack: `test` is STACK REGIONS FOCUS SCORER."""
    stack = open_stacks(test[0])[0]
    masks = np.stack([mask_of(np.asarray(stack[z])) for z in range(stack.shape[0])])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "masks.tif"
        tifffile.imwrite(file, masks.astype(np.uint8))
        command = [sys.executable, test[3], str(file), test[1], test[2], "--json"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    scores: dict[str, Any] = json.loads(printed)
    return scores


def tables(metrics: dict[str, Any]) -> str:
    """Return the metrics of one model as Markdown."""
    lines = ["| measured on | score |", "|---|---|", *_main_rows(metrics)]
    simulated = metrics["simulated"]
    for group, rows in simulated["by"].items():
        lines += ["", f"| {group.replace('_', ' ')} | slices | IoU (95 %) | worst slice |"]
        lines.append("|---|---|---|---|")
        lines += [
            f"| {name} | {row['slices']} | {said(row['iou'])} | {row['worst']:.2f} |"
            for name, row in rows.items()
        ]
    lines += ["", "| depths of field from the slice | specimen called in focus |", "|---|---|"]
    lines += [
        f"| {name} | {share:.1%} |"
        for name, share in simulated["called_by_depths_of_field"].items()
    ]
    return "\n".join(lines)


def said(interval: Sequence[float], digits: int = 3) -> str:
    """Return a mean with its interval, for people."""
    mean, low, high = interval
    return f"{mean:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _main_rows(metrics: dict[str, Any]) -> Iterator[str]:
    for name, one in metrics.get("hand_made", {}).items():
        low, high = one["f1_95"]
        yield (
            f"| {name}, unseen, hand-made focus table | F1 {one['f1']:.3f} ({low:.3f}–{high:.3f}), "
            f"recall {one['recall']:.3f}, specificity {one['specificity']:.3f}, "
            f"`false_area` {one['false_area']:.5f} |"
        )
    one = metrics["simulated"]
    where = f"{one['stacks']} simulated stacks, {one['slices']} slices with something in focus"
    yield f"| {where} | mean IoU {said(one['iou'])}, strict {said(one['strict_iou'])} |"
    yield (
        f"| mixed slices of these | mean IoU {said(one['iou_mixed'])}, "
        f"strict {said(one['strict_iou_mixed'])} |"
    )
    false = one["false_share_where_nothing_is_in_focus"]
    yield f"| their slices with nothing in focus | {said([100 * v for v in false], 2)} % called |"
    empty = metrics["empty"]
    yield (
        f"| {empty['fields']} noise and empty fields, 8 to 16 bit | {empty['mean']:.3%} in focus, "
        f"worst {empty['worst']:.3%} |"
    )


def _interval(slices: Sequence[SimulatedSlice], figure: str) -> list[float]:
    values = [getattr(one, figure) for one in slices]
    return [round(v, 4) for v in mean_with_interval(values, [one.stack for one in slices])]


def _by(slices: Sequence[SimulatedSlice], group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in dict.fromkeys(getattr(one, group) for one in slices):
        members = [one for one in slices if getattr(one, group) == name]
        yield (
            name,
            {
                "slices": len(members),
                "iou": _interval(members, "iou"),
                "worst": round(min(one.iou for one in members), 4),
            },
        )


def _called(score: SimulatedScore) -> dict[str, float]:
    names = [
        f"{low:g}–{high:g}" if np.isfinite(high) else f"beyond {low:g}"
        for low, high in pairwise(DEFOCUS_EDGES)
    ]
    shares = score.called / np.maximum(score.seen, 1)
    return {name: round(float(share), 4) for name, share in zip(names, shares, strict=True)}
