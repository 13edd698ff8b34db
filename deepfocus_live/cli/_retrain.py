"""`retrain`: fine-tune on the user's own stacks, gate, register."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepfocus_live.cli._options import ConfigOption, ModelsOption, StacksArgument
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.config import load_config
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.training import Progress

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(retrain)


def retrain(
    inputs: StacksArgument,
    profile: Annotated[str, typer.Option(help="Whose model is taught.")] = "default",
    start_from: Annotated[
        str | None, typer.Option("--from", help="Version to start from, instead of the current.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time for the whole call.", min=0.1)] = 5.0,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it current if it passes the gate.")
    ] = False,
    models: ModelsOption = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable report.")] = False,
    background: Annotated[
        bool, typer.Option("--background", help="Yield to every other process.")
    ] = False,
) -> None:
    """Teach the network your specimens from unannotated stacks."""
    from deepfocus_live import _platform
    from deepfocus_live.focus import Conditions
    from deepfocus_live.model import Registry
    from deepfocus_live.training import retrain as fine_tune

    settings = load_config(config)
    if profile not in settings.profiles:
        known = ", ".join(settings.profiles)
        raise InputError(f"--profile {profile}: not in the configuration; there are: {known}.")
    if background:
        _platform.lower_priority()
    registry = Registry(models or settings.models_dir)
    paths: list[Path | str] = list(inputs)
    with ProgressLine(1.0) as progress:

        def show(news: Progress) -> None:
            progress.reach(news.done, news.message)

        report = fine_tune(
            paths,
            registry=registry,
            minutes=minutes,
            profile=profile,
            preset=settings.profiles[profile].label_preset,
            conditions=Conditions(**settings.profiles[profile].imaging()),
            start_from=None if start_from is None else registry.get(start_from),
            activate=activate,
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
        return
    for line in report.left_out:
        typer.echo(line)
    typer.echo(
        f"{report.name}: held-out IoU with the weak labels {report.iou_before:.3f} → "
        f"{report.iou_after:.3f} ({report.held_out}), {report.steps} steps in "
        f"{report.minutes:.2f} min"
    )
    typer.echo(f"registered: {report.path}")
    typer.echo(report.reason)
    if not report.activated and report.passed:
        typer.echo(f"to use it: deepfocus-live models use {report.name}")
