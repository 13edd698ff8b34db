"""`segment`: masks offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepfocus_live.cli._options import ModelsOption, StacksArgument
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.cli._stacks import layout_of, open_all

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(segment)


def segment(
    stacks: StacksArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Result.", metavar="OUT.ome.zarr")],
    model: Annotated[
        str | None, typer.Option(help="A version's name, or a folder or ONNX file of ours.")
    ] = None,
    models: ModelsOption = None,
    profile: Annotated[str, typer.Option(help="Whose current model to use.")] = "default",
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "openvino"], typer.Option(help="Where to run.")
    ] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing OUT.")
    ] = False,
) -> None:
    """Segment focal stacks with the network: image and in_focus as OME-Zarr."""
    import numpy as np

    from deepfocus_live.inference import InFocusModel
    from deepfocus_live.model import ModelVersion, Registry
    from deepfocus_live.volume import VolumeFile

    registry = Registry(models)
    version: ModelVersion | Path
    if model is None:
        version = registry.current(profile)
        if version.fallback_reason:
            typer.echo(version.fallback_reason, err=True)
    else:
        version = Path(model) if Path(model).exists() else registry.get(model)
    network = InFocusModel.load(version, provider=provider)
    opened = open_all(stacks)
    layouts = [layout_of(stack, ("in_focus",)) for stack in opened]
    slices = sum(len(stack) for stack in opened)
    spent = []
    with (
        ProgressLine(slices) as progress,
        VolumeFile(output, layouts, overwrite=overwrite) as file,
    ):
        for number, stack in enumerate(opened):
            shares = []
            for z, z_slice in enumerate(stack):
                result = network.infer(z_slice)
                spent.append(result.milliseconds)
                shares.append(float(result.mask.mean()))
                file.write_slice(number, z, z_slice)
                file.write_label(number, "in_focus", z, result.mask)
                progress.advance(f"segmenting {stack.name}")
            best = int(np.argmax(shares))
            said = f"best z {best}" if shares[best] else "nothing in focus"
            share = 100 * float(np.mean(shares))
            typer.echo(f"{stack.name}: {len(stack)} slices, {share:.1f} % in focus, {said}")
    typer.echo(
        f"written: {output} (model {network.version} on {network.provider}, "
        f"median {float(np.median(spent)):.1f} ms a slice)"
    )
