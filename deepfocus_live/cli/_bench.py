"""`bench`: the performance table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deepfocus_live.bench import Row

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    groups: Annotated[
        list[str] | None,
        typer.Argument(
            help="attach, daemon, focus, inference, page, volume; all of these by default. "
            "learning, which takes half an hour, only by name."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Measure this machine: ours and the reference, side by side."""
    from deepfocus_live.bench import run_groups
    from deepfocus_live.bench._table import machine

    rows = run_groups(groups or [])
    if as_json:
        table = {"machine": machine(), "rows": [row.as_dict() for row in rows]}
        typer.echo(json.dumps(table, indent=1))
        return
    for row in rows:
        typer.echo(_in_words(row))


def _in_words(row: Row) -> str:
    said = "not measured" if row.value is None else f"{row.value:.4g} {row.unit}"
    if row.ratio is not None:
        said += f" ({row.ratio:.3g} × {row.reference}, {row.reference_value:.4g} {row.unit})"
    if row.met is not None:
        said += f", goal {row.goal:g} {'met' if row.met else 'not met'}"
    return f"{row.group:<10} {row.name}: {said}"
