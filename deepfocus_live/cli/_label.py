"""`label`: weak labels offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepfocus_live.cli._options import StacksArgument
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.cli._stacks import layout_of, open_all
from deepfocus_live.errors import InputError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(label)


def label(
    stacks: StacksArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Result.", metavar="OUT.ome.zarr")],
    preset: Annotated[str, typer.Option(help="How to label: axial, paper.")] = "axial",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing OUT.")
    ] = False,
) -> None:
    """Label focal stacks by rule: image, weak_label and undecided as OME-Zarr."""
    from deepfocus_live.focus import StackLabeler, preset_named
    from deepfocus_live.volume import VolumeFile

    try:
        rule = preset_named(preset)
    except ValueError as error:
        raise InputError(f"--preset: {error}") from None
    opened = open_all(stacks)
    layouts = [layout_of(stack, ("weak_label", "undecided")) for stack in opened]
    slices = sum(len(stack) for stack in opened)
    with (
        ProgressLine(2 * slices) as progress,
        VolumeFile(output, layouts, overwrite=overwrite) as file,
    ):
        for number, stack in enumerate(opened):
            labeler = StackLabeler(rule, shape_yx=stack.shape[1:])
            for z, z_slice in enumerate(stack):
                labeler.add(z, z_slice)
                file.write_slice(number, z, z_slice)
                progress.advance(f"scoring {stack.name}")
            labels = labeler.finish()
            for z in range(len(stack)):
                file.write_label(number, "weak_label", z, labels.weak_label_slice(z))
                file.write_label(number, "undecided", z, labels.undecided_slice(z))
                progress.advance(f"labelling {stack.name}")
            best = f"best z {labels.best_z}" if labels.best_z is not None else "nothing in focus"
            share = 100 * float(labels.focus_curve.mean())
            typer.echo(f"{stack.name}: {len(stack)} slices, {share:.1f} % in focus, {best}")
    typer.echo(f"written: {output}")
