"""`retrain`: fine-tune on the user's own stacks, gate, register."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from deepfocus_live.cli._options import ConfigOption, ModelsOption
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.config import load_config
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.training import Progress, RetrainReport

__all__ = ["register"]


class _WithPairs(TyperCommand):
    """A command whose `--pair` takes two values; typer knows no list of pairs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if parameter.name == "pair":
                parameter.nargs = 2


def _paths(value: Any) -> Any:
    # Newer versions of typer hand over both values at once, older ones each by itself.
    return Path(value) if isinstance(value, str) else tuple(Path(one) for one in value)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=_WithPairs)(retrain)


def retrain(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="TIFF or OME-TIFF, folder of stacks or of per-slice images, OME-Zarr, or run "
            "directory. Its label `corrected` is used by itself.",
            metavar="[STACK…]",
            show_default=False,
        ),
    ] = None,
    pair: Annotated[
        list[Any] | None,
        typer.Option(
            "--pair",
            help="A stack and its hand-made masks (0: not in focus); may be given several times.",
            metavar="STACK MASKS",
            parser=_paths,
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Whose model is taught.")] = "default",
    start_from: Annotated[
        str | None, typer.Option("--from", help="Version to start from, instead of the current.")
    ] = None,
    from_scratch: Annotated[
        Literal["standard", "published"] | None,
        typer.Option(
            help="Start from random weights instead: of the standard network, or of the published "
            "one at full resolution (sixteen times as slow)."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time for the whole call.", min=0.1)] = 5.0,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it current if it passes the gate.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not go on with a training that was killed.")
    ] = False,
    models: ModelsOption = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable report.")] = False,
    background: Annotated[
        bool, typer.Option("--background", help="Yield to every other process.")
    ] = False,
) -> None:
    """Teach the network your specimens: from unannotated stacks, from hand-made masks, or both."""
    paths: list[Path | str] = list(inputs or [])
    pairs: list[tuple[Path | str, Path | str]] = [*(pair or [])]
    if not paths and not pairs:
        raise InputError("nothing to learn from was given: name a STACK, or a --pair")

    from deepfocus_live import _platform
    from deepfocus_live.focus import Conditions
    from deepfocus_live.model import Registry
    from deepfocus_live.model.network import NETWORKS
    from deepfocus_live.training import retrain as fine_tune

    settings = load_config(config)
    if profile not in settings.profiles:
        known = ", ".join(settings.profiles)
        raise InputError(f"--profile {profile}: not in the configuration; there are: {known}.")
    if background:
        _platform.lower_priority()
    registry = Registry(models or settings.models_dir)
    with ProgressLine(1.0) as progress:

        def show(news: Progress) -> None:
            progress.reach(news.done, news.message)

        report = fine_tune(
            paths,
            registry=registry,
            minutes=minutes,
            pairs=pairs,
            profile=profile,
            preset=settings.profiles[profile].label_preset,
            conditions=Conditions(**settings.profiles[profile].imaging()),
            start_from=None if start_from is None else registry.get(start_from),
            from_scratch=None if from_scratch is None else NETWORKS[from_scratch],
            activate=activate,
            fresh=fresh,
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
        return
    for line in _lines(report):
        typer.echo(line)


def _lines(report: RetrainReport) -> list[str]:
    """Return what is printed of a report."""
    stopped = ", stopped early" if report.stopped_early else ""
    lines = [
        *report.notes,
        *report.left_out,
        f"trained on {report.trained_on}; {report.precision}",
        f"{report.name}: held-out IoU with the {report.truth} {report.iou_before:.3f} → "
        f"{report.iou_after:.3f} ({report.held_out}), {report.steps} steps in "
        f"{report.minutes:.2f} min{stopped}",
        *(f"  {check}" for check in report.checks),
        f"registered: {report.path}",
        f"report: {report.page}",
        report.reason,
    ]
    if report.passed and not report.activated:
        lines.append(f"to use it: deepfocus-live models use {report.name}")
    return lines
