"""`doctor`: what this computer can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from deepfocus_live.cli._options import ConfigOption, ModelsOption, OutputOption
from deepfocus_live.config import load_config

if TYPE_CHECKING:
    from deepfocus_live.doctor import Finding

__all__ = ["register"]

_MARKS = {"ok": "ok", "note": "note", "warning": "WARNING", "fault": "FAULT"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    config: ConfigOption = None,
    output: OutputOption = None,
    models: ModelsOption = None,
    free: Annotated[
        bool, typer.Option("--free", help="Remove what dead processes left and nobody needs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Try everything that is needed, and say in one line each what to do. Exit code 1 for a fault.

    Takes some seconds, writes a few slices to the output folder and removes them.
    """
    from deepfocus_live.doctor import examine, find_leftovers, free_leftovers

    settings = load_config(
        config,
        output=None if output is None else str(output),
        models=None if models is None else str(models),
    )
    if free:
        for path in free_leftovers(find_leftovers(settings)):
            typer.echo(f"removed: {path}", err=as_json)
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            for line in _lines(finding):
                typer.echo(line)
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=1))
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)


def _lines(finding: Finding) -> list[str]:
    """Return what is printed of a finding: a line, and one more where something is to be done."""
    lines = [f"{_MARKS[finding.state]:<8}{finding.subject}: {finding.found}"]
    if finding.advice:
        lines.append(f"{'':<8}→ {finding.advice}")
    return lines
