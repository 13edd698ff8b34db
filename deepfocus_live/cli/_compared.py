"""What a comparison of masks came to: in words, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfocus_live.evaluation import Comparison, SliceScore
    from deepfocus_live.frames import Calibration
    from deepfocus_live.stacks import MaskStack

__all__ = ["Compared", "as_csv", "as_dict", "described", "in_words", "worst_slices"]

PAIRS: tuple[str, ...] = ("masks_truth", "masks_truth2", "truth_truth2")
"""What is compared with what, as JSON calls it; without TRUTH2 only the first."""

CSV_PREFIXES = ("", "truth2_", "agreement_")
WORST_PRINTED = 5
ROWS: tuple[tuple[str, str], ...] = (
    ("iou", "IoU"),
    ("f1", "F1"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("boundary_f1", "boundary F1"),
    ("false_area", "false area"),
    ("called_share", "in focus, first"),
    ("truth_share", "in focus, second"),
    ("kappa", "Cohen's kappa"),
)
SLICE_HEADINGS = ("wrong", "IoU", "precision", "recall", "boundary F1", "false area")
SLICE_FIGURES = ("wrong_share", "iou", "precision", "recall", "boundary_f1", "false_area")
SHARES = ("false_area", "called_share", "truth_share", "wrong_share")  # told in per cent


@dataclass(frozen=True)
class Compared:
    """One stack: its masks, the truths about it, and how they agree, in the order of `PAIRS`."""

    masks: MaskStack
    truths: tuple[MaskStack, ...]
    comparisons: tuple[Comparison, ...]
    z_step_um: Calibration | None


def worst_slices(compared: Sequence[Compared], count: int) -> list[tuple[Compared, SliceScore]]:
    """Return the slices of all stacks that have most pixels wrong by the first truth."""
    worst = [(one, score) for one in compared for score in one.comparisons[0].worst(count)]
    return sorted(worst, key=lambda pair: -pair[1].overlap.wrong_share)[:count]


def described(stack: MaskStack) -> str:
    """Return where masks are from, and as which label."""
    return f"{stack.path} ({stack.label})" if stack.label else str(stack.path)


# --- in words -----------------------------------------------------------------------------


def in_words(compared: Sequence[Compared], tolerance_px: float) -> list[str]:
    """Return what is printed: all slices together, stacks where there are several, the worst."""
    first = compared[0]
    lines = [
        f"{what} {described(stack)}"
        for what, stack in zip(
            ("masks: ", "truth: ", "truth2:"), (first.masks, *first.truths), strict=False
        )
    ]
    lines += ["", *_aligned(_overall_rows(compared, tolerance_px))]
    if not any(one.z_step_um for one in compared):
        lines.append("The z-step is not known: --z-step-um gives the focus error in µm.")
    if len(compared) > 1:
        lines += ["", *_aligned(_stack_rows(compared))]
    worst = worst_slices(compared, WORST_PRINTED)
    if not worst:
        return [*lines, "", "no pixel is wrong in any slice"]
    lines += ["", "worst slices, most pixels wrong first:"]
    headings = ("stack", "z", *SLICE_HEADINGS)
    rows = [
        (
            one.masks.name,
            str(score.z),
            *(_told(name, score.figures[name]) for name in SLICE_FIGURES),
        )
        for one, score in worst
    ]
    return [*lines, *_aligned([headings, *rows])]


def _overall_rows(compared: Sequence[Compared], tolerance_px: float) -> list[tuple[str, ...]]:
    columns = [_overall_column(compared, index) for index in range(len(compared[0].comparisons))]
    names = ["", "slices compared", "pixels decided"]
    names += [
        f"{row} ({tolerance_px:g} px)" if figure == "boundary_f1" else row for figure, row in ROWS
    ]
    names += ["focus error, median", "focus error, 95 %", "focus error, bias"]
    return list(zip(names, *columns, strict=True))


def _overall_column(compared: Sequence[Compared], index: int) -> list[str]:
    document = _overall(compared, index)
    cells = [
        PAIRS[index].replace("_", ":"),
        str(document["slices"]),
        _told("wrong_share", _number(document["decided_share"])),
    ]
    for figure, _ in ROWS:
        cell = _told(figure, _number(document[figure]))
        if f"{figure}_95" in document and None not in document[f"{figure}_95"]:
            low, high = document[f"{figure}_95"]
            cell += f" ({low:.3f} to {high:.3f})"
        cells.append(cell)
    error = document["focus_error"]
    for figure in ("median", "p95", "bias"):
        slices, um = error[f"{figure}_slices"], error[f"{figure}_um"]
        sign = "+" if figure == "bias" else ""
        cell = "-" if slices is None else f"{slices:{sign}.2f} slices"
        cells.append(cell if um is None else f"{cell}, {um:{sign}.2f} µm")
    return cells


def _stack_rows(compared: Sequence[Compared]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("stack", "slices", "IoU", "F1", "boundary F1", "false area")]
    for one in compared:
        comparison = one.comparisons[0]
        told = (
            _told(name, comparison.figures[name])
            for name in ("iou", "f1", "boundary_f1", "false_area")
        )
        rows.append((one.masks.name, str(len(comparison.slices)), *told))
    return rows


def _told(figure: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f} %" if figure in SHARES else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of a table, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(["", row[0].ljust(widths[0]), *cells])


# --- for machines -------------------------------------------------------------------------


def as_dict(compared: Sequence[Compared], tolerance_px: float) -> dict[str, Any]:
    """Return everything as JSON shows it; what is not defined is null."""
    first = compared[0]
    indices = range(len(first.comparisons))
    return {
        "masks": _as_source(first.masks),
        "truth": _as_source(first.truths[0]),
        "truth2": _as_source(first.truths[1]) if len(first.truths) > 1 else None,
        "tolerance_px": tolerance_px,
        "overall": {PAIRS[index]: _overall(compared, index) for index in indices},
        "stacks": [
            {
                "name": one.masks.name,
                "shape": list(one.masks.shape),
                "z_step_um": one.z_step_um.um if one.z_step_um else None,
                "z_step_source": one.z_step_um.source if one.z_step_um else None,
                **{
                    PAIRS[index]: {
                        **_overall([one], index),
                        "per_slice": [
                            {"z": score.z, **_or_nulls(score.figures)}
                            for score in one.comparisons[index].slices
                        ],
                    }
                    for index in indices
                },
            }
            for one in compared
        ],
    }


def _as_source(stack: MaskStack) -> dict[str, str | None]:
    return {"path": str(stack.path), "label": stack.label}


def _overall(compared: Sequence[Compared], index: int) -> dict[str, Any]:
    """Return one comparison of all these stacks together."""
    from deepfocus_live.evaluation import DepthErrors, pooled

    every = pooled(one.comparisons[index] for one in compared)
    steps = [one.z_step_um.um for one in compared if one.z_step_um]
    in_um = DepthErrors()
    if len(steps) == len(compared):
        for one, step in zip(compared, steps, strict=True):
            in_um += one.comparisons[index].depth.scaled(step)
    errors = {"columns": every.depth.columns}
    told = {
        f"{figure}_{unit}": getattr(depth, figure)
        for unit, depth in (("slices", every.depth), ("um", in_um))
        for figure in ("median", "p95", "bias")
    }
    return {
        "slices": len(every.slices),
        **_or_nulls(every.figures),
        **{f"{name}_95": list(map(_or_null, ends)) for name, ends in every.intervals().items()},
        "focus_error": {**errors, **_or_nulls(told)},
    }


def as_csv(compared: Sequence[Compared]) -> str:
    """Return a row for every slice; what nobody judged or is not defined is blank."""
    from deepfocus_live.evaluation import FIGURES

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    prefixes = CSV_PREFIXES[: len(compared[0].comparisons)]
    rows.writerow(["stack", "z", *(prefix + name for prefix in prefixes for name in FIGURES)])
    for one in compared:
        scores = [{score.z: score for score in c.slices} for c in one.comparisons]
        for z in range(len(one.masks)):
            figures = [by_z[z].figures if z in by_z else {} for by_z in scores]
            cells = [_or_null(found.get(name, math.nan)) for found in figures for name in FIGURES]
            rows.writerow([one.masks.name, z, *cells])
    return text.getvalue()


def _or_nulls(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: _or_null(number) for name, number in numbers.items()}


def _or_null(number: float) -> float | None:
    return None if math.isnan(number) else number


def _number(told: float | None) -> float:
    return math.nan if told is None else told
