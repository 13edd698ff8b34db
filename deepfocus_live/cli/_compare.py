"""`compare`: how well masks agree with a truth."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepfocus_live.cli._compared import Compared, as_csv, as_dict, described, in_words
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.evaluation import Comparison
    from deepfocus_live.stacks import MaskStack

__all__ = ["register"]

# Masks are what a machine made, where there is anything; a truth is what a person said.
MADE = ("in_focus", "weak_label", "corrected")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


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
            _write("--csv", table, as_csv(compared).encode())
        if figure is not None:
            from deepfocus_live.cli._compare_figure import draw

            _write("--figure", figure, draw(compared))
    if as_json:
        typer.echo(json.dumps(as_dict(compared, tolerance), indent=1, allow_nan=False))
        return
    typer.echo("\n".join(in_words(compared, tolerance)))
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
                f"{described(truth)} says nothing where {described(compared[0].masks)} does: "
                "correct at least one slice, or name another label or file"
            )


def _write(option: str, path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    from deepfocus_live import _platform

    try:
        _platform.replace_file(path, content)
    except OSError as error:
        raise InputError(
            f"{option}: {path} cannot be written ({error.strerror or error}): name another place"
        ) from error
