"""`models list|show|use|rollback`: the registry."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deepfocus_live.cli._options import ModelsOption

__all__ = ["register"]

family = typer.Typer(help="The models: list, show, use, roll back.", no_args_is_help=True)
ProfileOption = Annotated[str, typer.Option("--profile", help="Whose model.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(family, name="models")


@family.command("list")
def list_models(profile: ProfileOption = "default", models: ModelsOption = None) -> None:
    """List every version; * marks the one in use."""
    from deepfocus_live.model import Registry

    registry = Registry(models)
    current = registry.current(profile)
    if current.fallback_reason:
        typer.echo(current.fallback_reason, err=True)
    for version in registry.versions():
        mark = "*" if version.name == current.name else " "
        metrics = version.card.get("metrics", {})
        iou = metrics.get("iou_after")
        said = "" if iou is None else f"  held-out IoU {iou:.3f}  gate: {metrics.get('gate')}"
        typer.echo(f"{mark} {version.name}{said}")


@family.command()
def show(name: NameArgument, models: ModelsOption = None) -> None:
    """Print a version's card."""
    from deepfocus_live.model import Registry

    typer.echo(json.dumps(Registry(models).get(name).card, indent=1))


@family.command()
def use(
    name: NameArgument, profile: ProfileOption = "default", models: ModelsOption = None
) -> None:
    """Make a version current; a running daemon takes it between two slices."""
    from deepfocus_live.model import Registry

    version = Registry(models).use(name, profile)
    typer.echo(f"profile {profile} uses {version.name}")


@family.command()
def rollback(profile: ProfileOption = "default", models: ModelsOption = None) -> None:
    """Go back to the version used before."""
    from deepfocus_live.model import Registry

    version = Registry(models).rollback(profile)
    typer.echo(f"profile {profile} uses {version.name}")
