"""`segment`: masks offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepfocus_live.cli._options import ModelsOption, StacksArgument
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.cli._stacks import layout_of, open_all
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.inference import InFocusModel
    from deepfocus_live.model import ModelVersion, Registry

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(segment)


def segment(
    stacks: StacksArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Result; without, the masks go into the RUN that was named.",
            metavar="OUT.ome.zarr",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A version's name, or a folder or ONNX file of ours.")
    ] = None,
    models: ModelsOption = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Whose current model to use; by default the run's, or `default`."),
    ] = None,
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "openvino"], typer.Option(help="Where to run.")
    ] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing OUT.")
    ] = False,
) -> None:
    """Segment focal stacks with the network: image and in_focus as OME-Zarr.

    Of a run directory without -o: the masks of the whole run by one model, as the label
    in_focus_VERSION beside the live ones.
    """
    from deepfocus_live.model import Registry

    registry = Registry(models)
    if output is None:
        if overwrite:
            raise InputError("--overwrite is for -o: masks in a run are never replaced.")
        for run in _runs(stacks):
            # A model's name is enough, whatever profiles a run has.
            whose = profile or (_profile_of(run) if model is None else "default")
            _into_run(run, _load(registry, model, whose, provider))
        return
    network = _load(registry, model, profile or "default", provider)
    _into_file(stacks, output, network, overwrite)


def _load(
    registry: Registry,
    model: str | None,
    profile: str,
    provider: Literal["auto", "cpu", "cuda", "openvino"],
) -> InFocusModel:
    from deepfocus_live.inference import InFocusModel

    version: ModelVersion | Path
    if model is None:
        version = registry.current(profile)
        if version.fallback_reason:
            typer.echo(version.fallback_reason, err=True)
    else:
        version = Path(model) if Path(model).exists() else registry.get(model)
    return InFocusModel.load(version, provider=provider)


# --- into a run ---------------------------------------------------------------------------


def _runs(paths: Sequence[Path]) -> Sequence[Path]:
    """Return the paths if all are run directories."""
    for path in paths:
        if not (path / "run.json").is_file():
            raise InputError(
                f"{path}: is no run directory: say with -o OUT.ome.zarr where its masks go."
            )
    return paths


def _profile_of(run: Path) -> str:
    from deepfocus_live.volume import read_ledger

    spec = read_ledger(run).spec
    found = sorted({spec.profile_of(channel) for channel in range(len(spec.channels))})
    if len(found) > 1:
        raise InputError(
            f"{run}: its channels have the profiles {', '.join(found)}: say with --model or "
            "--profile which network its masks are made with."
        )
    return found[0]


def _into_run(run: Path, network: InFocusModel) -> None:
    from deepfocus_live.frames import luminance
    from deepfocus_live.volume import read_ledger, recompute_masks

    with ProgressLine(len(read_ledger(run).frames)) as progress:
        made = recompute_masks(
            run,
            network.version,
            lambda pixels: network.infer(luminance(pixels)).mask,
            about={"provider": network.provider},
            advance=progress.advance,
        )
    if made.in_focus_fraction is None:
        typer.echo(f"{run.name}: {made.label} is there already, {made.slices} slices")
        return
    share = 100 * made.in_focus_fraction
    before = made.slices - made.made
    also = f", {before} were there already" if before else ""
    typer.echo(f"{run.name}: {made.made} slices, {share:.1f} % in focus{also}")
    typer.echo(f"written: the label {made.label} (model {network.version} on {network.provider})")


# --- into a file --------------------------------------------------------------------------


def _into_file(paths: Sequence[Path], output: Path, network: InFocusModel, overwrite: bool) -> None:
    import numpy as np

    from deepfocus_live.volume import VolumeFile

    opened = open_all(paths)
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
