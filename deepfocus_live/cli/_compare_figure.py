"""The picture that `compare` draws: every slice's figures, and the worst slices to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.cli._compared import Compared, worst_slices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepfocus_live.evaluation import SliceScore

__all__ = ["draw"]

WIDTH_PX, CURVES_PX, DPI = 1500, 520, 100
WORST_DRAWN = 3
MOST_SIDE_PX = 1000  # of a picture of a slice: more is not seen
# Okabe and Ito's colours: told apart by the colour-blind, and seen on grey.
MASK, TRUTH = "#56b4e9", "#e69f00"
LINES: tuple[tuple[str, str, str, str, float], ...] = (
    ("iou", "IoU", "#000000", "o", 3.0),
    ("precision", "precision", "#009e73", "s", 1.3),
    ("recall", "recall", "#cc79a7", "^", 1.3),
)
"""Figure, name, colour, marker and width; later lines lie on earlier ones and do not hide them."""


def draw(compared: Sequence[Compared]) -> bytes:
    """Return the picture as PNG, `WIDTH_PX` wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    worst = worst_slices(compared, WORST_DRAWN)
    height, width = max((one.masks.shape[1:] for one in compared), key=lambda s: s[0] / s[1])
    picture_px = min(900, round(WIDTH_PX / WORST_DRAWN * height / width)) + 90 if worst else 0
    # Figure and canvas by hand: pyplot would keep state and look for a display.
    figure = Figure((WIDTH_PX / DPI, (CURVES_PX + picture_px) / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    rows: Any = [figure]
    if worst:
        rows = figure.subfigures(2, 1, height_ratios=(CURVES_PX, picture_px))
    scores, shares = rows[0].subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_scores(scores, compared)
    _draw_shares(shares, compared)
    if worst:
        panels = rows[1].subplots(1, WORST_DRAWN, squeeze=False).ravel()
        for axes in panels[len(worst) :]:
            axes.set_axis_off()
        for axes, (one, score) in zip(panels, worst, strict=False):
            _draw_slice(axes, one, score, named=len(compared) > 1)
        rows[1].suptitle(
            "Slices with most pixels wrong", x=0.008, ha="left", fontsize=11, fontweight="bold"
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _along(compared: Sequence[Compared], index: int, figure: str) -> NDArray[np.float64]:
    """Return a figure of every slice of every stack in turn; NaN where there is none.

    Each stack is followed by one place more, NaN, so that no line runs on into the next.
    """
    values = []
    for one in compared:
        column = np.full(len(one.masks) + 1, np.nan)
        for score in one.comparisons[index].slices:
            column[score.z] = score.figures[figure]
        values.append(column)
    return np.concatenate(values)[:-1]


def _draw_scores(axes: Axes, compared: Sequence[Compared]) -> None:
    for figure, name, colour, marker, wide in LINES:
        values = _along(compared, 0, figure)
        axes.plot(
            values, color=colour, marker=marker, markersize=4 + wide, linewidth=wide, label=name
        )
    if len(compared[0].comparisons) > 1:
        second, between = (_along(compared, index, "iou") for index in (1, 2))
        axes.plot(
            second, color="#000000", linewidth=1.3, linestyle=(0, (1.5, 1.2)), label="IoU, TRUTH2"
        )
        axes.plot(
            between,
            color="#d55e00",
            linewidth=1.8,
            linestyle=(0, (5, 1.5)),
            label="IoU, TRUTH : TRUTH2",
        )
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("agreement (1 is best)", fontsize=10)
    names = " and ".join(dict.fromkeys(one.masks.name for one in compared[:2]))
    more = f" and {len(compared) - 2} more" if len(compared) > 2 else ""
    truth = compared[0].truths[0]
    axes.set_title(
        f"{names}{more}: {compared[0].masks.label or 'masks'} against {truth.label or truth.name}",
        loc="left",
        fontsize=11,
        fontweight="bold",
    )
    _finish(axes)


def _draw_shares(axes: Axes, compared: Sequence[Compared]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    wanted = 100 * _along(compared, 0, "truth_share")
    called = 100 * _along(compared, 0, "called_share")
    places = np.arange(len(wanted))
    axes.bar(places, np.nan_to_num(wanted), 0.8, color=TRUTH, alpha=0.55, label="truth")
    axes.plot(
        places, called, color="#0072b2", marker="o", markersize=4, linewidth=1.6, label="masks"
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("in focus (%)", fontsize=10)
    starts = np.cumsum([0, *(len(one.masks) + 1 for one in compared)])

    def z_of(place: float, _: int | None = None) -> str:
        stack = int(np.searchsorted(starts[1:-1], place, side="right"))
        z = round(place - starts[stack])
        return str(z) if 0 <= z < len(compared[stack].masks) else ""

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20))
    axes.xaxis.set_major_formatter(FuncFormatter(z_of))
    axes.set_xlim(-0.6, len(wanted) - 0.4)
    axes.set_xlabel("z, stack after stack" if len(compared) > 1 else "z (slice)", fontsize=10)
    for start in starts[1:-1]:
        axes.axvline(start - 1, color="0.4", linewidth=0.8)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=10)


def _draw_slice(axes: Axes, one: Compared, score: SliceScore, *, named: bool) -> None:
    step = max(1, -(-max(one.masks.shape[1:]) // MOST_SIDE_PX))
    mask, truth = (stack[score.z][::step, ::step] for stack in (one.masks, one.truths[0]))
    image = one.masks.image or one.truths[0].image
    shown: NDArray[Any] = 60 * (mask == 1) if image is None else image[score.z][::step, ::step]
    low, high = (0, 255) if image is None else np.percentile(shown, (0.3, 99.7))
    axes.imshow(shown, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="antialiased")
    undecided = (mask == 2) | (truth == 2)
    if undecided.any():
        veil = np.zeros((*undecided.shape, 4))
        veil[undecided] = (0.75, 0.45, 0.75, 0.4)
        axes.imshow(veil, interpolation="nearest")
    # The truth wide and below, so that it is seen where both agree.
    for states, colour, wide in ((truth, TRUTH, 1.8), (mask, MASK, 1.1)):
        inside = np.pad(states == 1, 1)  # closed where the slice ends
        if inside.any():
            y, x = (np.arange(side) - 1 for side in inside.shape)
            axes.contour(x, y, inside, [0.5], colors=[colour], linewidths=wide)
    axes.set_xlim(-0.5, shown.shape[1] - 0.5)
    axes.set_ylim(shown.shape[0] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    figures = score.figures
    name = f"{one.masks.name}, " if named else ""
    axes.set_title(
        f"{name}z {score.z}: {100 * figures['wrong_share']:.2g} % wrong, IoU {figures['iou']:.2f}",
        loc="left",
        fontsize=10,
    )
    _explain(axes, undecided=bool(undecided.any()))


def _explain(axes: Axes, *, undecided: bool) -> None:
    """Say below a slice which outline is which."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=MASK, linewidth=1.4, label="masks"),
        Line2D([], [], color=TRUTH, linewidth=2.4, label="truth"),
    ]
    if undecided:
        handles.append(Patch(color=(0.75, 0.45, 0.75, 0.5), label="undecided"))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
        handlelength=1.6,
    )
