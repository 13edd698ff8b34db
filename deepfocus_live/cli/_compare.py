"""`compare`: how well masks agree with a truth."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.evaluation import Comparison, SliceScore
    from deepfocus_live.frames import Calibration
    from deepfocus_live.stacks import MaskStack

__all__ = ["Compared", "register", "worst_slices"]

PAIRS: tuple[str, ...] = ("masks_truth", "masks_truth2", "truth_truth2")
"""What is compared with what, as JSON calls it; without TRUTH2 only the first."""

CSV_PREFIXES = ("", "truth2_", "agreement_")
WORST_PRINTED = 5
# Masks are what a machine made, where there is anything; a truth is what a person said.
MADE = ("in_focus", "weak_label", "corrected")
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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


@dataclass(frozen=True)
class Compared:
    """One stack: its masks, the truths about it, and how they agree, in the order of `PAIRS`."""

    masks: MaskStack
    truths: tuple[MaskStack, ...]
    comparisons: tuple[Comparison, ...]
    z_step_um: Calibration | None


def compare(
    masks: Annotated[
        Path,
        typer.Argument(
            help="What is judged: mask images as TIFF or folder, an OME-Zarr with labels, or a "
            "run directory.",
            metavar="MASKS",
        ),
    ],
    truth: Annotated[Path, typer.Argument(help="What it is judged by.", metavar="TRUTH")],
    truth2: Annotated[
        Path | None,
        typer.Argument(help="What a second person says.", metavar="[TRUTH2]", show_default=False),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Of MASKS: in_focus, weak_label, corrected, ...", metavar="L"),
    ] = None,
    truth_label: Annotated[
        str | None,
        typer.Option("--truth-label", help="Of TRUTH: corrected where it has one.", metavar="L"),
    ] = None,
    truth2_label: Annotated[
        str | None, typer.Option("--truth2-label", help="Of TRUTH2, likewise.", metavar="L")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", help="How far boundaries may lie apart.", metavar="PX", min=0, max=1000
        ),
    ] = 4.0,
    z_step_um: Annotated[
        float | None,
        typer.Option("--z-step-um", help="Instead of the files' own.", metavar="F"),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="A row for every slice.", metavar="F.csv")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Picture: all slices, and the worst.", metavar="F.png"),
    ] = None,
) -> None:
    """Compare in-focus masks with a truth, slice by slice, and two truths with each other."""
    from deepfocus_live.stacks import open_masks

    if z_step_um is not None and not (z_step_um > 0 and math.isfinite(z_step_um)):
        raise InputError(f"--z-step-um: {z_step_um:g} is no distance; give µm above 0")
    for option, path, suffix in (("--csv", table, ".csv"), ("--figure", figure, ".png")):
        if path is not None:
            _check_output(option, path, suffix)
    with contextlib.ExitStack() as files:
        opened = [open_masks(masks, label, preferred=MADE), open_masks(truth, truth_label)]
        if truth2 is not None:
            opened.append(open_masks(truth2, truth2_label))
        everything = [stack for stacks in opened for stack in stacks]
        for stack in everything:
            files.enter_context(stack)
        for note in dict.fromkeys(f"{s.name}: {note}" for s in everything for note in s.notes):
            typer.echo(note, err=True)
        _check_pairs(opened)
        compared = _compare_all(opened, tolerance, z_step_um)
        _check_said(compared)
        if table is not None:
            _write("--csv", table, _as_csv(compared).encode())
        if figure is not None:
            from deepfocus_live.cli._compare_figure import draw

            _write("--figure", figure, draw(compared))
    if as_json:
        typer.echo(json.dumps(_as_dict(compared, tolerance), indent=1, allow_nan=False))
        return
    typer.echo("\n".join(_in_words(compared, tolerance)))
    for written in (table, figure):
        if written is not None:
            typer.echo(f"written: {written}")


# --- the work -----------------------------------------------------------------------------


def _compare_all(
    opened: Sequence[Sequence[MaskStack]], tolerance_px: float, z_step_um: float | None
) -> list[Compared]:
    from deepfocus_live.frames import Calibration

    given = None if z_step_um is None else Calibration(z_step_um, "user")
    with ProgressLine(sum(len(stack) for stack in opened[0])) as progress:
        return [
            Compared(
                masks,
                tuple(truths),
                _compare_one((masks, *truths), tolerance_px, progress),
                given or next((s.z_step_um for s in (masks, *truths) if s.z_step_um), None),
            )
            for masks, *truths in zip(*opened, strict=True)
        ]


def _compare_one(
    stacks: Sequence[MaskStack], tolerance_px: float, progress: ProgressLine
) -> tuple[Comparison, ...]:
    from deepfocus_live.evaluation import Scorer

    pairs = [(0, 1), (0, 2), (1, 2)] if len(stacks) == 3 else [(0, 1)]
    scorers = [Scorer(stacks[0].shape[1:], tolerance_px=tolerance_px) for _ in pairs]
    for z in range(len(stacks[0])):
        planes = [stack[z] if stack.said(z) else None for stack in stacks]
        for scorer, (first, second) in zip(scorers, pairs, strict=True):
            called, wanted = planes[first], planes[second]
            if called is not None and wanted is not None:
                scorer.add(z, called, wanted)
        progress.advance(f"comparing {stacks[0].name}")
    return tuple(scorer.finish() for scorer in scorers)


def worst_slices(compared: Sequence[Compared], count: int) -> list[tuple[Compared, SliceScore]]:
    """Return the slices of all stacks that have most pixels wrong by the first truth."""
    worst = [(one, score) for one in compared for score in one.comparisons[0].worst(count)]
    return sorted(worst, key=lambda pair: -pair[1].overlap.wrong_share)[:count]


# --- what is wrong ------------------------------------------------------------------------


def _check_output(option: str, path: Path, suffix: str) -> None:
    """Raise InputError where a file cannot be written: before the work, not after."""
    if path.suffix.lower() != suffix:
        raise InputError(f"{option}: {path} is not a {suffix}; name it F{suffix}")
    if not path.parent.is_dir():
        raise InputError(f"{option}: no such folder {path.parent}; make it, or name another")
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder; name a file")


def _check_pairs(opened: Sequence[Sequence[MaskStack]]) -> None:
    masks = opened[0]
    for truths in opened[1:]:
        if len(truths) != len(masks):
            raise InputError(
                f"{masks[0].path} holds {len(masks)} stacks of masks, {truths[0].path} "
                f"{len(truths)}: they are compared in order, give as many"
            )
        for mask, truth in zip(masks, truths, strict=True):
            if mask.shape != truth.shape:
                raise InputError(
                    f"{mask.path} ({mask.name}) is {_size(mask)}, {truth.path} ({truth.name}) "
                    f"{_size(truth)} (Z × Y × X): give masks of the same slices"
                )
    for index, first in enumerate(opened):
        for second in opened[index + 1 :]:
            if _source(first[0]) == _source(second[0]):
                raise InputError(
                    f"{first[0].path}: {first[0].label or 'it'} would be compared with itself; "
                    "name another label (--label, --truth-label, --truth2-label) or file"
                )


def _source(stack: MaskStack) -> tuple[Path, str | None]:
    return stack.path.resolve(), stack.label


def _size(stack: MaskStack) -> str:
    return " × ".join(map(str, stack.shape))


def _check_said(compared: Sequence[Compared]) -> None:
    for index, truth in enumerate(compared[0].truths):
        if not any(one.comparisons[index].overlap.decided for one in compared):
            raise InputError(
                f"{_described(truth)} says nothing where {_described(compared[0].masks)} does: "
                "correct at least one slice, or name another label or file"
            )


def _described(stack: MaskStack) -> str:
    return f"{stack.path} ({stack.label})" if stack.label else str(stack.path)


# --- in words -----------------------------------------------------------------------------


def _in_words(compared: Sequence[Compared], tolerance_px: float) -> list[str]:
    """Return what is printed: all slices together, stacks where there are several, the worst."""
    first = compared[0]
    lines = [
        f"{what} {_described(stack)}"
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


def _as_dict(compared: Sequence[Compared], tolerance_px: float) -> dict[str, Any]:
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


def _as_csv(compared: Sequence[Compared]) -> str:
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


def _write(option: str, path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    from deepfocus_live import _platform

    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        _platform.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InputError(
            f"{option}: {path} cannot be written ({error.strerror or error}): name another place"
        ) from error
