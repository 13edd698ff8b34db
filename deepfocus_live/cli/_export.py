"""`export`: runs and stacks for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepfocus_live.cli._progress import ProgressLine

__all__ = ["register"]

What = Literal[
    "images", "masks", "weak_label", "all-in-focus", "depth", "in-focus-volume", "everything"
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    path: Annotated[
        Path,
        typer.Argument(
            help="Run directory, TIFF or OME-TIFF, folder of stacks or of per-slice images, or "
            "OME-Zarr.",
            metavar="INPUT",
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            help="Folder for the files, or the one file (.tif, .zarr).", metavar="OUTPUT"
        ),
    ],
    what: Annotated[What, typer.Option(help="What of it.")] = "images",
    form: Annotated[
        Literal["ome-tiff", "imagej", "ome-zarr-0.4"] | None,
        typer.Option("--format", help="By default by OUTPUT's name, or OME-TIFF."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Export images, masks, all-in-focus images and depth for Fiji, napari and other programs."""
    from deepfocus_live.export import Export

    job = Export(path, output, what=what, form=form, overwrite=overwrite)
    for note in job.notes:
        typer.echo(note, err=True)
    with ProgressLine(max(job.steps, 1)) as progress:
        paths = job.write(progress.advance)
    for written in paths:
        typer.echo(f"written: {written}")
