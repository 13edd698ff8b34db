"""`setup`: the first start: what the microscope is, a profile for it, and one stack as a test."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from deepfocus_live.cli._acquire import run_shown
from deepfocus_live.cli._options import OutputOption
from deepfocus_live.cli._profile_file import has_profile, write_profile
from deepfocus_live.config import ProfileConfig, said_of
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus

    from deepfocus_live.focus import Ranking
    from deepfocus_live.microscope._survey import Survey
    from deepfocus_live.volume import Run

__all__ = ["register"]

_IMMERSIONS = {"air": 1.0, "water": 1.33, "glycerol": 1.47, "oil": 1.515}
_MODALITIES = ("brightfield", "phase", "DIC", "fluorescence")
_ASKED = ("modality", "immersion_index", "numerical_aperture", "wavelength_nm")
_SLICES = 15
_STEP_UM = 1.0
_BEST_MEASURES = 3
_MASKS_WITHIN_S = 120.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(setup)


def setup(
    mm_config: Annotated[
        Path, typer.Option("--mm-config", help="Micro-Manager configuration.", metavar="CFG")
    ],
    profile: Annotated[
        str, typer.Option("--profile", help="Name of the profile that is written.", metavar="NAME")
    ] = "default",
    config: Annotated[
        Path,
        typer.Option(
            "--config", help="Configuration file that it is written into.", metavar="OUT.yaml"
        ),
    ] = Path("deepfocus-live.yaml"),
    output: OutputOption = None,
    slices: Annotated[
        int | None,
        typer.Option(
            "--slices",
            help="Slices of the test stack, for which the stage moves; 0: take none. Without: ask.",
            min=0,
            max=1000,
            metavar="N",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing: take what is known, leave out the rest.")
    ] = False,
) -> None:
    """Show what a microscope is, write a profile for it, and try it on one stack."""
    from deepfocus_live.microscope._survey import survey
    from deepfocus_live.microscope.acquire import load_microscope

    asks = not yes and _at_terminal()
    # Before the microscope is touched: a file that cannot be used costs no time then.
    if has_profile(config, profile) and not (asks and _may_replace(config, profile)):
        raise InputError(
            f"{config}: has a profile {profile!r}, which is not overwritten; "
            "name another --profile or another --config."
        )
    core = load_microscope(mm_config)
    found = survey(core)
    typer.echo("\n".join(_shown(found)))
    if not found.camera:
        raise InputError(
            f"{mm_config}: names no camera: add one in Micro-Manager's Hardware Wizard."
        )
    pixel = found.pixel_size_um
    if pixel is None and asks:
        pixel = _ask_pixel_size(core)
    answers = _ask_profile() if asks else {}
    _say_missing(answers, pixel)
    written = write_profile(config, profile, answers, output=output)
    if written != config:
        typer.echo(f"{config} is left as it is: it could not be changed without losing comments.")
    typer.echo(f"written: profile {profile!r} in {written}")
    step = _z_step(ProfileConfig(**answers), pixel)
    if (taken := _slices_wanted(found, slices, step, asks)) >= 2:
        _try(core, taken, step, output, written)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


# ------------------------------------------------------------------- what it is


def _shown(found: Survey) -> list[str]:
    """Return the lines that say what the microscope is."""
    others = [name for name in found.cameras if name != found.camera]
    camera = found.camera or "none"
    if found.camera:
        camera += (
            f", {found.width_px} × {found.height_px} px, {found.bits} bit, "
            f"exposure {found.exposure_ms:g} ms"
        )
    focus = found.focus_device or "none: no stack can be taken"
    if found.z_um is not None:
        focus += f", now at {found.z_um:.2f} µm"
    pixel = "not known" if found.pixel_size_um is None else f"{found.pixel_size_um:g} µm"
    shutter = found.shutter or "none"
    if found.shutter:
        shutter += ", opened and closed for each exposure" if found.auto_shutter else ", by hand"
    rows = [
        ("camera", camera),
        ("other cameras", ", ".join(others)),
        ("focus device", focus),
        ("its direction", found.focus_direction),
        ("z stages", ", ".join(found.stages)),
        ("xy stage", found.xy_stage or "none"),
        ("shutter", shutter),
        ("pixel size", f"{pixel} ({found.pixel_size_source})"),
    ]
    return [f"{name + ':':<15} {said}" for name, said in rows if said]


def _say_missing(answers: dict[str, Any], pixel_size_um: float | None) -> None:
    missing = [key for key in _ASKED if key not in answers]
    if missing:
        typer.echo(f"not known, left out of the profile: {', '.join(missing)}")
    if pixel_size_um is None:
        typer.echo(
            "not known: the pixel size; calibrate it in Micro-Manager (Devices, Pixel Size "
            "Calibration), runs have it from there"
        )


# ------------------------------------------------------------------- questions


def _may_replace(config: Path, profile: str) -> bool:
    return typer.confirm(f"{config} has a profile {profile!r} already. Replace it?", default=False)


def _ask_pixel_size(core: CMMCorePlus) -> float | None:
    """Ask for the pixel size and give it to the core, for this time."""
    size = _ask("pixel size at the specimen in µm (Enter: not known)", _above_zero)
    if size is None:
        return None
    core.definePixelSizeConfig("setup")
    core.setPixelSizeUm("setup", size)
    core.setPixelSizeConfig("setup")
    typer.echo("taken for this test; put it into Micro-Manager, where every run has it from.")
    return float(size)


def _ask_profile() -> dict[str, Any]:
    """Ask for what no microscope tells; what is not known is left out."""
    answers: dict[str, Any] = {}
    modality = _ask(f"modality ({', '.join(_MODALITIES)}; Enter: not known)", _modality)
    _keep(answers, modality=modality)
    media = ", ".join(_IMMERSIONS)
    index = _ask(f"immersion ({media}, or a refractive index; Enter: air)", _immersion)
    _keep(answers, immersion_index=index or 1.0)
    for key, said in (
        ("numerical_aperture", "numerical aperture of the objective (Enter: not known)"),
        ("wavelength_nm", "wavelength of the light in nm (Enter: not known)"),
    ):
        while (value := _ask(said, float)) is not None:
            if (wrong := _wrong({**answers, key: value})) is None:
                break
            typer.echo(f"{said.partition(' (')[0]}: {wrong}", err=True)
        _keep(answers, **{key: value})
    return {key: answers[key] for key in _ASKED if key in answers}


def _keep(answers: dict[str, Any], **given: Any) -> None:
    answers.update({key: value for key, value in given.items() if value is not None})


def _wrong(answers: dict[str, Any]) -> str | None:
    try:
        ProfileConfig(**answers)
    except ValidationError as error:
        return said_of(error)
    return None


def _ask(question: str, read: Callable[[str], Any]) -> Any:
    """Ask until the answer can be read; None where there is none."""
    while answer := str(typer.prompt(question, default="", show_default=False)).strip():
        try:
            return read(answer.replace(",", "."))
        except ValueError:
            typer.echo(f"{answer!r} is no answer to that; once more.", err=True)
    return None


def _modality(answer: str) -> str:
    found = [name for name in _MODALITIES if name.lower().startswith(answer.lower())]
    if len(found) != 1:
        raise ValueError(answer)
    return found[0]


def _immersion(answer: str) -> float:
    if answer.lower() in _IMMERSIONS:
        return _IMMERSIONS[answer.lower()]
    index = float(answer)
    if not 1 <= index <= 2:
        raise ValueError(answer)
    return index


def _above_zero(answer: str) -> float:
    value = float(answer)
    if not 0 < value < 1000:
        raise ValueError(answer)
    return value


# -------------------------------------------------------------- the test stack


def _z_step(profile: ProfileConfig, pixel_size_um: float | None) -> float:
    """Return half the depth of field, where it is known; µm."""
    from deepfocus_live.focus import depth_of_field_um

    if profile.numerical_aperture is None or pixel_size_um is None:
        return _STEP_UM
    depth = depth_of_field_um(
        numerical_aperture=profile.numerical_aperture,
        immersion_index=profile.immersion_index,
        wavelength_um=(profile.wavelength_nm or 550) / 1000,
        pixel_size_um=pixel_size_um,
    )
    return float(f"{depth / 2:.2g}")


def _slices_wanted(found: Survey, slices: int | None, step: float, asks: bool) -> int:
    """Return how many slices to take; 0: none. Without a person's word no stage moves."""
    if not found.focus_device:
        return 0
    if slices is not None or not asks:
        return slices or 0
    half = step * (_SLICES - 1) / 2
    question = (
        f"Take one stack of {_SLICES} slices, {step:g} µm apart, around the present position? "
        f"{found.focus_device} will move by ±{half:g} µm"
    )
    return _SLICES if typer.confirm(question, default=False) else 0


def _try(core: CMMCorePlus, slices: int, step: float, output: Path | None, config: Path) -> None:
    """Take one stack, and show what measures and masks say of it."""
    import useq

    z = core.getPosition()
    plan = {
        "metadata": {"name": "setup"},
        "stage_positions": [{"z": z}],
        "z_plan": {"range": step * (slices - 1), "step": step},
    }
    try:
        report = run_shown(
            core,
            useq.MDASequence.model_validate(plan),
            frames=slices,
            output=output,
            config=config.absolute(),
        )
    finally:
        # The engine does so only after a run that went well.
        core.setPosition(z)
    for path in report.paths:
        typer.echo(f"run: {path}")
    if report.reason != "completed" or not report.paths:
        typer.echo(f"the stack was not completed ({report.error or report.reason}).", err=True)
        raise typer.Exit(1)
    run = _when_masked(Path(report.paths[-1]), slices)
    typer.echo("\n".join([*_slice_table(run), *_rank_lines(_ranked(run.path))]))


def _when_masked(path: Path, frames: int) -> Run:
    """Return the run once its masks are there, or as it is after a while."""
    from deepfocus_live.volume import open_run

    deadline = time.monotonic() + _MASKS_WITHIN_S
    while True:
        run = open_run(path)
        masked = sum(line["kind"] == "mask" for line in run.journal)
        if masked >= frames or time.monotonic() > deadline:
            return run
        time.sleep(0.2)


def _slice_table(run: Run) -> list[str]:
    """Return a line for each slice: its height and how much of it the network finds in focus."""
    lines = run.journal
    masks = {line["sequence_number"]: line for line in lines if line["kind"] == "mask"}
    rows = [f"{'slice':>5}  {'z µm':>9}  in focus"]
    for line in sorted((one for one in lines if one["kind"] == "frame"), key=lambda one: one["z"]):
        z, mask = line.get("z_um"), masks.get(line["sequence_number"])
        height = "-" if z is None else f"{round(z, 2) + 0.0:.2f}"  # no -0.00
        share = "no mask yet" if mask is None else f"{100 * mask['in_focus_fraction']:6.1f} %"
        rows.append(f"{line['z']:>5}  {height:>9}  {share}")
    return rows


def _ranked(path: Path) -> Ranking | str:
    """Return the ranking of the measures on the stack, or why there is none."""
    from deepfocus_live.focus import rank_measures
    from deepfocus_live.stacks import open_stacks

    with open_stacks(path)[0] as stack:
        try:
            return rank_measures(stack)
        except ValueError as error:
            return str(error)


def _rank_lines(ranking: Ranking | str) -> list[str]:
    if isinstance(ranking, str):
        return [f"measures not ranked: {ranking}"]
    if ranking.recommended is None:
        return [f"measures not ranked: {ranking.reason}"]
    best = [
        f"  {one.measure}: best slice {'-' if one.best_z is None else one.best_z}, "
        f"reliable at {100 * one.reliable:.0f} % of what has texture"
        for one in ranking.measures[:_BEST_MEASURES]
    ]
    preset = f"recommended label preset: {ranking.recommended} ({ranking.reason})"
    return ["focus measures, best first:", *best, preset]
