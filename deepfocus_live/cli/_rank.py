"""`rank`: which focus measure suits a specimen, and which preset."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepfocus_live.cli._options import StacksArgument
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.cli._stacks import open_all
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepfocus_live.focus import MeasureRank, Ranking
    from deepfocus_live.stacks import Stack

__all__ = ["register"]

HEADINGS: tuple[str, ...] = (
    "measure",
    "best z",
    "reliable",
    "sensitivity",
    "false peaks",
    "robust",
    "inverted",
    "ms/slice",
)
MOST_PLOTTED = 60  # stacks; more make a picture that no program likes to open
WIDTH_PX, ROW_PX, DPI = 1200, 420, 100
# Paul Tol's "muted" colours without its palest, and black: told apart by the colour-blind.
COLOURS = (
    "#332288",
    "#cc6677",
    "#117733",
    "#88ccee",
    "#882255",
    "#999933",
    "#44aa99",
    "#aa4499",
    "#000000",
    "#ddaa33",
)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(rank)


def rank(
    stacks: StacksArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Picture of every measure's scores over z.", metavar="F.png"),
    ] = None,
    window: Annotated[
        int,
        typer.Option("--window", help="Side of the windows, even.", metavar="PX", min=16, max=4096),
    ] = 32,
) -> None:
    """Rank the focus measures on focal stacks, and recommend a preset for each."""
    if window % 2:
        raise InputError(f"--window: {window} px is odd; windows overlap by half, give an even one")
    opened = open_all(stacks)
    if plot is not None:
        _check_plot(plot, len(opened))
    with ProgressLine(sum(len(stack) for stack in opened)) as progress:
        rankings = [_ranked(stack, window, progress) for stack in opened]
    if plot is not None:
        _write_plot(plot, opened, rankings)
    if as_json:
        documents = [_as_dict(*one) for one in zip(opened, rankings, strict=True)]
        typer.echo(json.dumps({"stacks": documents}, indent=1))
        return
    for stack, ranking in zip(opened, rankings, strict=True):
        typer.echo("\n".join(_in_words(stack, ranking)))
    if plot is not None:
        typer.echo(f"written: {plot}")


def _ranked(stack: Stack, window_px: int, progress: ProgressLine) -> Ranking:
    """Rank the measures on one stack; what is wrong with it is told with its path."""
    from deepfocus_live.focus import rank_measures

    def tell(_z: int) -> None:
        progress.advance(f"ranking on {stack.name}")

    if window_px > min(stack.shape[1:]):
        raise InputError(
            f"--window: {window_px} px is more than the slices of {stack.path} have "
            f"({stack.shape[1]} × {stack.shape[2]}); give a smaller one"
        )
    try:
        return rank_measures(stack, window_px=window_px, stride_px=window_px // 2, on_slice=tell)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{stack.path}: {error}") from error


def _in_words(stack: Stack, ranking: Ranking) -> list[str]:
    """Return the lines that are printed of one stack: a table, and the recommendation."""
    lines = [
        f"{stack.name}: {len(stack)} slices, {100 * ranking.textured_share:.0f} % textured, "
        f"noise {ranking.noise_counts:.3g} counts"
    ]
    if ranking.recommended is None:
        return [*lines, f"nothing to rank: {ranking.reason}", ""]
    rows = [HEADINGS, *(_row(measure) for measure in ranking.measures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells))
    return [*lines, f"recommended: --preset {ranking.recommended} ({ranking.reason})", ""]


def _row(measure: MeasureRank) -> tuple[str, ...]:
    return (
        measure.measure,
        "-" if measure.best_z is None else str(measure.best_z),
        f"{measure.reliable:.2f}",
        "-" if math.isnan(measure.sensitivity) else f"{measure.sensitivity:.1f}",
        f"{measure.false_peaks:.2f}",
        f"{measure.noise_robustness:.2f}",
        f"{measure.inverted:.2f}",
        f"{measure.ms_per_slice:.2g}"
        if measure.ms_per_slice < 10
        else f"{measure.ms_per_slice:.0f}",
    )


def _as_dict(stack: Stack, ranking: Ranking) -> dict[str, Any]:
    """Return one stack as JSON shows it."""
    return {
        "name": stack.name,
        "path": str(stack.path),
        "shape": list(stack.shape),
        "z_um": None if stack.z_um is None else stack.z_um.tolist(),
        "window_px": ranking.window_px,
        "stride_px": ranking.stride_px,
        "noise_counts": ranking.noise_counts,
        "textured_share": ranking.textured_share,
        "inverted": _or_null(ranking.inverted),
        "at_ends": _or_null(ranking.at_ends),
        "recommended": ranking.recommended,
        "reason": ranking.reason,
        "measures": [
            {
                "measure": measure.measure,
                "best_z": measure.best_z,
                "reliable": _or_null(measure.reliable),
                "sensitivity": _or_null(measure.sensitivity),
                "false_peaks": _or_null(measure.false_peaks),
                "noise_robustness": _or_null(measure.noise_robustness),
                "inverted": _or_null(measure.inverted),
                "ms_per_slice": measure.ms_per_slice,
                "mean_focus_score": measure.mean_focus_score.tolist(),
                "axial_curve": measure.axial_curve.tolist(),
            }
            for measure in ranking.measures
        ],
    }


def _or_null(number: float) -> float | None:
    return None if math.isnan(number) else number


def _check_plot(plot: Path, n_stacks: int) -> None:
    """Raise InputError where the picture cannot be written: before the work, not after."""
    if plot.suffix.lower() != ".png":
        raise InputError(f"--plot: {plot} is not a .png; name the picture F.png")
    if not plot.parent.is_dir():
        raise InputError(f"--plot: no such folder {plot.parent}; make it, or name another")
    if plot.is_dir():
        raise InputError(f"--plot: {plot} is a folder; name a file")
    if n_stacks > MOST_PLOTTED:
        raise InputError(
            f"--plot: {n_stacks} stacks do not fit one picture; give {MOST_PLOTTED} at most"
        )


def _write_plot(plot: Path, stacks: Sequence[Stack], rankings: Sequence[Ranking]) -> None:
    """Draw every stack's curves as one PNG, `WIDTH_PX` wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 if len(stacks) == 1 else 2
    rows = -(-len(stacks) // columns)
    # Figure and canvas by hand: pyplot would keep state and look for a display.
    figure = Figure((WIDTH_PX / DPI, rows * ROW_PX / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(stacks) :]:
        axes.set_axis_off()
    # A measure has one look in all panels, whatever its place there.
    names = sorted({measure.measure for ranking in rankings for measure in ranking.measures})
    for axes, stack, ranking in zip(panels, stacks, rankings, strict=False):
        _draw(axes, stack, ranking, names)
    try:
        figure.savefig(plot, format="png")
    except OSError as error:
        raise InputError(f"--plot: {plot} cannot be written ({error})") from error


def _draw(axes: Axes, stack: Stack, ranking: Ranking, names: Sequence[str]) -> None:
    """Draw one stack: all curves from 0 to 1, the best measure's thick and on top."""
    from matplotlib.ticker import MaxNLocator

    z = range(len(stack)) if stack.z_um is None else stack.z_um
    for place, measure in reversed(list(enumerate(ranking.measures))):
        look = names.index(measure.measure)
        marked = place == 0 and _one_is_best(ranking)
        axes.plot(
            z,
            measure.axial_curve,
            color=COLOURS[look % len(COLOURS)] if ranking.recommended else "0.75",
            linestyle="-" if marked else DASHES[look % len(DASHES)],
            linewidth=3.2 if marked else 1.4,
            marker="o" if marked else None,
            markersize=5.5,
            label=measure.measure,
        )
    axes.set_title(stack.name, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(_z_label(stack), fontsize=10)
    if stack.z_um is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("mean score (0 lowest, 1 highest)", fontsize=10)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    _explain(axes, ranking)


def _one_is_best(ranking: Ranking) -> bool:
    """Return whether a measure deserves to be marked: not where all are upside down."""
    return ranking.recommended is not None and not ranking.inverts


def _z_label(stack: Stack) -> str:
    if stack.z_um is None:
        return "slice"
    assumed = stack.z_step_um is not None and stack.z_step_um.source == "assumed"
    return "z (µm assumed)" if assumed else "z (µm)"


def _explain(axes: Axes, ranking: Ranking) -> None:
    """Say beside the panel which line is which, best first, and what is recommended."""
    if ranking.recommended is None:
        said = "nothing to rank:\ntoo little signal"
        axes.annotate(said, (1.03, 1.0), xycoords="axes fraction", va="top", fontsize=9)
        return
    lines, names = axes.get_legend_handles_labels()
    # Padded with spaces as wide as a digit, so that the names begin below one another.
    shares = [f"{100 * one.reliable:3.0f}".replace(" ", "\u2007") for one in ranking.measures]
    labels = [f"{share} %  {name}" for share, name in zip(shares, names[::-1], strict=True)]
    title = (
        f"recommended:\n--preset {ranking.recommended}\n\nmeasures, best first,\nand where reliable"
    )
    if ranking.inverts:
        title = f"contrast inverts\nthrough focus\n\n{title}"
    legend = axes.legend(
        lines[::-1],
        labels,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        frameon=False,
        fontsize=9,
        handlelength=2.6,
        title=title,
        title_fontsize=9,
        alignment="left",
    )
    if _one_is_best(ranking):
        legend.get_texts()[0].set_fontweight("bold")
