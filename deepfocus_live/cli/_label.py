"""`label`: weak labels offline."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from deepfocus_live.cli._options import StacksArgument
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.cli._stacks import calibrated, conditions_given, layout_of, open_all
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.focus import Preset, StackLabels
    from deepfocus_live.stacks import Stack
    from deepfocus_live.volume import ImageLayout

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(label)


def label(
    stacks: StacksArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Result.", metavar="OUT.ome.zarr")],
    preset: Annotated[
        str, typer.Option(help="How to label: consensus, axial, paper, casus.")
    ] = "consensus",
    measure: Annotated[
        str | None, typer.Option(help="Focus measure of the preset, instead of its own.")
    ] = None,
    window_um: Annotated[
        float | None, typer.Option(help="Side of the windows of consensus, in µm.", metavar="F")
    ] = None,
    numerical_aperture: Annotated[
        float | None, typer.Option(help="Of the objective.", metavar="F")
    ] = None,
    immersion_index: Annotated[
        float | None, typer.Option(help="1.0 air, 1.33 water, 1.515 oil.", metavar="F")
    ] = None,
    wavelength_nm: Annotated[float | None, typer.Option(help="Of the light.", metavar="F")] = None,
    dark_offset: Annotated[
        float | None, typer.Option(help="Counts of a pixel that saw no light.", metavar="F")
    ] = None,
    flat_field: Annotated[
        Path | None,
        typer.Option(help="Image of an empty field, dark offset still in it.", metavar="F.tif"),
    ] = None,
    projection: Annotated[
        bool,
        typer.Option("--projection", help="Also write all-in-focus image and depth, beside OUT."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing OUT.")
    ] = False,
) -> None:
    """Label focal stacks by rule: image, weak_label and undecided as OME-Zarr."""
    from deepfocus_live.focus import DEFAULT_PRESET, Conditions, StackLabeler
    from deepfocus_live.volume import VolumeFile

    rule = _rule(preset, measure)
    given = conditions_given(
        window_um=window_um,
        numerical_aperture=numerical_aperture,
        immersion_index=immersion_index,
        wavelength_nm=wavelength_nm,
        dark_offset=dark_offset,
        flat_field=flat_field,
    )
    if rule.name != DEFAULT_PRESET and given != Conditions():
        raise InputError(
            f"--preset {rule.name} takes no account of optics, window, dark offset and flat field; "
            f"{DEFAULT_PRESET} does."
        )
    opened = open_all(stacks)
    conditions = [calibrated(given, stack) for stack in opened]
    layouts = [layout_of(stack, ("weak_label", "undecided")) for stack in opened]
    slices = sum(len(stack) for stack in opened)
    with contextlib.ExitStack() as files:
        progress = files.enter_context(ProgressLine((3 if projection else 2) * slices))
        file = files.enter_context(VolumeFile(output, layouts, overwrite=overwrite))
        above = _FromAbove(output, opened, layouts, overwrite, files) if projection else None
        for number, stack in enumerate(opened):
            labeler = StackLabeler(rule, shape_yx=stack.shape[1:], conditions=conditions[number])
            for z, z_slice in enumerate(stack):
                labeler.add(z, z_slice)
                file.write_slice(number, z, z_slice)
                progress.advance(f"scoring {stack.name}")
            labels = labeler.finish()
            undecided = 0.0
            for z in range(len(stack)):
                unsure = labels.undecided_slice(z)
                undecided += float(unsure.mean()) / len(stack)
                file.write_label(number, "weak_label", z, labels.weak_label_slice(z))
                file.write_label(number, "undecided", z, unsure)
                progress.advance(f"labelling {stack.name}")
            if above is not None:
                above.write(number, stack, labels, rule, progress)
            _say(stack, labels, undecided)
    typer.echo(f"written: {output}")
    for path in above.paths if above is not None else ():
        typer.echo(f"written: {path}")


def _rule(preset: str, measure: str | None) -> Preset:
    """Return the preset, with another measure where one is named."""
    from deepfocus_live.focus import PRESETS, ScanPreset, preset_named

    try:
        rule = preset_named(preset)
    except ValueError as error:
        raise InputError(f"--preset: {error}") from None
    if measure is None:
        return rule
    if not isinstance(rule, ScanPreset):
        takers = ", ".join(name for name, one in PRESETS.items() if isinstance(one, ScanPreset))
        raise InputError(
            f"--measure: preset {rule.name} has measures of its own; these take one: {takers}"
        )
    try:
        return rule.measured_by(measure)
    except ValueError as error:
        raise InputError(f"--measure: {error}") from None


def _say(stack: Stack, labels: StackLabels, undecided: float) -> None:
    best = f"best z {labels.best_z}" if labels.best_z is not None else "nothing in focus"
    share = float(labels.focus_curve.mean())
    typer.echo(
        f"{stack.name}: {len(stack)} slices, {100 * share:.1f} % in focus, "
        f"{100 * undecided:.1f} % undecided, {best}"
    )
    for note in labels.notes:
        typer.echo(f"  {note}")


class _FromAbove:
    """The files beside OUT: each stack's all-in-focus image, and how deep it lies."""

    def __init__(
        self,
        output: Path,
        stacks: Sequence[Stack],
        layouts: Sequence[ImageLayout],
        overwrite: bool,
        files: contextlib.ExitStack,
    ) -> None:
        from deepfocus_live.volume import VolumeFile, projection_layout

        # One file has one unit: slices, where z of any stack is not known.
        self._in_um = all(stack.z_um is not None for stack in stacks)
        stem = output.name.removesuffix(".zarr").removesuffix(".ome")
        names = "all_in_focus", "depth_um" if self._in_um else "depth_slices"
        self.paths = tuple(output.with_name(f"{stem}_{name}.ome.zarr") for name in names)
        images = [projection_layout(layout, dtype=layout.dtype) for layout in layouts]
        depths = []
        for stack, layout in zip(stacks, layouts, strict=True):
            z = self._z(stack)
            window = float(z.min()), float(z.max())
            depths.append(projection_layout(layout, dtype="float32", window=window))
        self._images, self._depths = (
            files.enter_context(VolumeFile(path, kind, overwrite=overwrite))
            for path, kind in zip(self.paths, (images, depths), strict=True)
        )

    def write(
        self,
        number: int,
        stack: Stack,
        labels: StackLabels,
        rule: Preset,
        progress: ProgressLine,
    ) -> None:
        """Look at a labelled stack from above."""
        from deepfocus_live.focus import StackProjector, depth_map, projection_sharpness

        shape_yx, block_px = labels.shape_yx, labels.block_px
        brightness = labels.findings.brightness if labels.findings else None
        projector = StackProjector(
            shape_yx=shape_yx,
            dtype=stack.dtype,
            block_px=block_px,
            sharpness=projection_sharpness(rule),
            dark_offset=brightness.dark_offset if brightness else 0.0,
        )
        for z, z_slice in enumerate(stack):
            gain = float(brightness.gain[z]) if brightness else 1.0
            projector.add(z, z_slice, labels.scores[z], gain=gain)
            progress.advance(f"projecting {stack.name}")
        self._images.write_slice(number, 0, projector.image())
        depth = depth_map(labels.scores, self._z(stack), labels.weak_label, labels.undecided)
        self._depths.write_slice(number, 0, depth.enlarge(block_px, shape_yx))

    def _z(self, stack: Stack) -> NDArray[np.float64]:
        if self._in_um and stack.z_um is not None:
            return stack.z_um
        return np.arange(len(stack), dtype=np.float64)
