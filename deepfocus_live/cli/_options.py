"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ConfigOption", "ModelsOption", "OutputOption", "StacksArgument"]

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (YAML).", metavar="FILE")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Folder that runs are written into.", metavar="DIR")
]
ModelsOption = Annotated[
    Path | None,
    typer.Option("--models", help="Folder of the models, instead of your own.", metavar="DIR"),
]
StacksArgument = Annotated[
    list[Path],
    typer.Argument(
        help="TIFF or OME-TIFF, folder of stacks or of per-slice images, OME-Zarr, or run "
        "directory.",
        metavar="STACK…",
    ),
]
