"""`models list|show|use|rollback|import|export`: the registry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepfocus_live.cli._options import ModelsOption
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepfocus_live.model import ModelVersion, Registry

__all__ = ["register"]

family = typer.Typer(
    help="The models: list, show, use, roll back, hand on, take back.", no_args_is_help=True
)
ProfileOption = Annotated[str, typer.Option("--profile", help="Whose model.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]

_FIGURES = {
    "iou_after": "IoU {:.3f}",
    "iou_before": "before {:.3f}",
    "iou": "IoU simulated {:.3f}",
    "f1": "F1 {:.3f}",
    "false_area": "false area {:.4f}",
}
"""What of a card's metrics stands in the list, wherever in them it comes first."""

_MOST_FIGURES = 3


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(family, name="models")


@family.command("list")
def list_models(
    profile: ProfileOption = "default",
    models: ModelsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable list.")] = False,
) -> None:
    """List every version; * marks the one in use."""
    from deepfocus_live.model import Registry

    registry = Registry(models)
    current = registry.current(profile)
    for problem in [current.fallback_reason, *registry.unreadable()]:
        if problem:
            typer.echo(problem, err=True)
    used_by = _used_by(registry)
    if as_json:
        listed = [_as_json(v, current.name, used_by) for v in registry.versions()]
        typer.echo(json.dumps(listed, indent=1))
        return
    rows = [
        [
            "*" if version.name == current.name else "",
            version.name,
            str(version.card.get("created", ""))[:16].replace("T", " ") or "-",
            version.parent or "-",
            ", ".join(used_by.get(version.name, [])) or "-",
            _figures(version.card.get("metrics", {})) or "-",
        ]
        for version in registry.versions()
    ]
    for line in _table([["", "name", "created (UTC)", "parent", "current for", "figures"], *rows]):
        typer.echo(line)


@family.command()
def show(
    name: NameArgument,
    models: ModelsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The card itself.")] = False,
) -> None:
    """Show a version's card: what it learned from, how good it is, whether its files are whole."""
    from deepfocus_live.model import Registry, verify

    registry = Registry(models)
    version = registry.get(name)
    if as_json:
        typer.echo(json.dumps(version.card, indent=1))
        return
    try:
        verify(version)
        files = "whole: they match the card's checksums"
    except InputError as error:
        files = f"NOT USABLE: {error}"
    used_by = ", ".join(_used_by(registry).get(version.name, [])) or "no profile"
    rest = {k: v for k, v in version.card.items() if k not in ("format_version", "name")}
    about = {"name": name, "current for": used_by, "folder": version.path, "files": files, **rest}
    for line in _outline(about):
        typer.echo(line)


@family.command()
def use(
    name: NameArgument, profile: ProfileOption = "default", models: ModelsOption = None
) -> None:
    """Make a version current; a running daemon takes it between two slices."""
    from deepfocus_live.model import Registry

    registry = Registry(models)
    before = registry.current_name(profile)
    version = registry.use(name, profile)
    typer.echo(f"profile {profile} uses {version.name}{_instead_of(before, version)}")


@family.command()
def rollback(profile: ProfileOption = "default", models: ModelsOption = None) -> None:
    """Go back to the version used before."""
    from deepfocus_live.model import Registry

    registry = Registry(models)
    before = registry.current_name(profile)
    version = registry.rollback(profile)
    typer.echo(f"profile {profile} uses {version.name}{_instead_of(before, version)}")


@family.command("import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What `models export` wrote (zip, ONNX, BioImage.IO), or a folder."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name to give it, instead of its own.")
    ] = None,
    models: ModelsOption = None,
) -> None:
    """Take a model into the registry; it is not made current."""
    from deepfocus_live.model import Registry, import_model

    version = import_model(file, Registry(models), name=name)
    typer.echo(f"registered: {version.path}")
    if not version.weights.is_file():
        typer.echo("it came without its unfolded weights; retraining starts from the ONNX file")
    typer.echo(f"to use it: deepfocus-live models use {version.name}")


@family.command("export")
def export_file(
    name: NameArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.zip", help="Zip of the whole model."),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="OUT.onnx", help="The ONNX file alone.")
    ] = None,
    bioimageio: Annotated[
        Path | None,
        typer.Option("--bioimageio", metavar="OUT.zip", help="BioImage.IO package."),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option("--author", help="Author that the BioImage.IO package names; repeatable."),
    ] = None,
    spdx_license: Annotated[
        str | None,
        typer.Option("--license", help="Licence that the BioImage.IO package names (SPDX)."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
    models: ModelsOption = None,
) -> None:
    """Hand a model on: as a zip (NAME.zip unless told otherwise), as ONNX, for other programs."""
    from deepfocus_live.model import (
        Registry,
        check_free,
        export_bare_onnx,
        export_bioimageio,
        export_zip,
    )

    version = Registry(models).get(name)
    if output is None and onnx is None and bioimageio is None:
        output = Path(f"{name}.zip")
    wanted = [path for path in (output, onnx, bioimageio) if path is not None]
    if len({path.absolute() for path in wanted}) < len(wanted):
        raise InputError("two of -o, --onnx and --bioimageio name one file; give each its own")
    for path in wanted:
        # All or none: looked at before the first is written.
        check_free(path, overwrite=overwrite)
    if output is not None:
        export_zip(version, output, overwrite=overwrite)
    if onnx is not None:
        export_bare_onnx(version, onnx, overwrite=overwrite)
    if bioimageio is not None:
        export_bioimageio(
            version,
            bioimageio,
            _sample_slice(),
            authors=author or (),
            spdx_license=spdx_license,
            overwrite=overwrite,
        )
    for path in wanted:
        typer.echo(f"written: {path}")


def _sample_slice() -> NDArray[np.uint16]:
    from deepfocus_live.simulation import simulate_focal_stack

    stack = simulate_focal_stack("organoids", shape=(5, 256, 256), seed=3)
    sample: NDArray[np.uint16] = stack.slices[0]  # sharp in parts
    return sample


def _used_by(registry: Registry) -> dict[str, list[str]]:
    """Return, by version, the profiles it is current for; the default one may have chosen none."""
    chosen = {"default": registry.current_name(), **registry.profiles()}
    used: dict[str, list[str]] = {}
    for profile, name in sorted(chosen.items()):
        used.setdefault(name, []).append(profile)
    return used


def _as_json(version: ModelVersion, current: str, used_by: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "name": version.name,
        "in_use": version.name == current,
        "created": version.card.get("created"),
        "parent": version.parent,
        "current_for": used_by.get(version.name, []),
        "metrics": version.card.get("metrics", {}),
        "path": str(version.path),
    }


def _instead_of(before: str, version: ModelVersion) -> str:
    return "" if before == version.name else f", instead of {before}"


def _figures(metrics: Mapping[str, Any]) -> str:
    found: dict[str, float] = {}
    for key, value in _leaves(metrics):
        mean = value[0] if isinstance(value, list) and value else value  # before its interval
        if isinstance(mean, (int, float)):
            found.setdefault(key, mean)
    known = [text.format(found[key]) for key, text in _FIGURES.items() if key in found]
    gate = metrics.get("gate")
    passed = [] if gate is None else ["gate passed" if gate == "passed" else "gate refused"]
    return ", ".join([*known[:_MOST_FIGURES], *passed])


def _leaves(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def _table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()


def _outline(tree: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Yield a nested mapping as indented lines, short names before their values."""
    for key, value in tree.items():
        label = f"{'  ' * indent}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield f"{label}:"
            yield from _outline(value, indent + 1)
        elif isinstance(value, list):
            yield f"{label}: {', '.join(str(item) for item in value) or '-'}"
        else:
            yield f"{label}: {'-' if value is None else value}"
