"""`acquire`: run a useq sequence on a Micro-Manager configuration, attached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepfocus_live.cli._options import ConfigOption, OutputOption
from deepfocus_live.config import load_config

if TYPE_CHECKING:
    from deepfocus_live.microscope.acquire import Plan, Room

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(acquire)


def acquire(
    mm_config: Annotated[
        Path, typer.Option("--mm-config", help="Micro-Manager configuration.", metavar="CFG")
    ],
    sequence: Annotated[
        Path, typer.Option("--sequence", help="useq MDASequence (YAML).", metavar="FILE")
    ],
    output: OutputOption = None,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show shape, disk and memory needed; take nothing.")
    ] = False,
    ignore_space: Annotated[
        bool,
        typer.Option("--ignore-space", help="Begin although the disk will be full before the end."),
    ] = False,
) -> None:
    """Load a Micro-Manager configuration and run a sequence, stored and masked as it comes."""
    from deepfocus_live.microscope.acquire import (
        load_microscope,
        load_sequence,
        plan,
        room_for,
        run,
    )

    # Before anything is moved: `attach` reads it only after the microscope.
    settings = load_config(config)
    planned = load_sequence(sequence)
    core = load_microscope(mm_config)
    _say_plan(plan(core, planned))
    if dry_run:
        _say_room(room_for(core, planned, settings, output=output))
        return
    report = run(core, planned, output=output, config=config, ignore_space=ignore_space)
    for path in report.paths:
        typer.echo(f"run: {path}")
    typer.echo(f"{report.frames} frames taken, {report.durable} on the disk ({report.reason}).")
    if report.durable < report.frames:
        raise typer.Exit(1)


def _say_plan(planned: Plan) -> None:
    frames = "unknown" if planned.frames is None else str(planned.frames)
    typer.echo(
        f"{frames} frames of {planned.width_px} × {planned.height_px} {planned.dtype}, "
        f"{planned.images} image(s), channels {', '.join(planned.channels)}; "
        f"pixel size {planned.pixel_size}, z-step {planned.z_step}; "
        f"{planned.bytes / 1e9:.2f} GB before compression"
    )


def _say_room(room: Room) -> None:
    needed = "" if room.bytes_needed is None else f"about {room.bytes_needed / 1e9:.2f} GB of "
    typer.echo(
        f"{needed}{room.bytes_free / 1e9:.2f} GB free on {room.folder}, where {room.frames_fit} "
        "such frames fit"
    )
    if room.warning is not None:
        typer.echo(f"warning: {room.warning}", err=True)
