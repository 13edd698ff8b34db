"""`demo --learning`: a kind of specimen that the shipped model does badly on, and a fine-tune.

A kind of specimen is simulated, so that beside the agreement with the rule, which is all that a
microscopist has, the agreement with the truth can be shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deepfocus_live.cli._progress import ProgressLine

if TYPE_CHECKING:
    from deepfocus_live.bench._session import Session, TakenStack
    from deepfocus_live.simulation import FocalStack

__all__ = ["LEARNT_FROM", "TAKEN_AFTER", "demo_learning"]

LEARNT_FROM = 6
"""Stacks before the fine-tune."""
TAKEN_AFTER = 4
"""Stacks after it; three of them are watched."""
_MINUTES = 1.0
_SEED = 40
_SHAPE = (11, 256, 256)


def demo_learning(
    folder: Path,
    output: Path,
    *,
    exposure_ms: float,
    shape: tuple[int, int, int] = _SHAPE,
    minutes: float = _MINUTES,
    on_page: Callable[[str], object] = lambda _: None,
    at_end: Callable[[str], object] = lambda _: None,
) -> None:
    """Take stacks, have the daemon fine-tune by itself, take others; say what changed.

    Parameters
    ----------
    folder : Path
        For models and all else that goes with the demo.
    output : Path
        For the runs.
    exposure_ms : float
        Of the simulated camera, >= 0.
    shape : (int, int, int)
        Of a stack.
    minutes : float
        Of the fine-tune, > 0.
    on_page, at_end : callable
        Called with the address of the live page, once it is there and before it goes.
    """
    from deepfocus_live.bench._session import open_session

    learning: dict[str, Any] = {
        "after_stacks": LEARNT_FROM,
        "minutes": minutes,
        "every_minutes": 0.0,
        "swap": "between-runs",
    }
    with open_session(
        folder, _stacks(shape), learning=learning, output=output, exposure_ms=exposure_ms
    ) as session:
        typer.echo(f"the live page: {session.daemon.page}")
        on_page(session.daemon.page)
        typer.echo("oversampled phase contrast, which the shipped model knows little of:")
        before = [_take(session) for _ in range(LEARNT_FROM)]
        typer.echo(f"the daemon fine-tunes by itself, {minutes:g} min …")
        _wait_for_fine_tune(session)
        after = [_take(session) for _ in range(TAKEN_AFTER)]
        _report(session, before, after)
        typer.echo(f"the runs: {output}")
        at_end(session.daemon.page)


def _stacks(shape: tuple[int, int, int]) -> list[FocalStack]:
    from deepfocus_live.simulation import Optics, simulate_focal_stack

    # A 0.3 NA objective with pixels half as large as it needs.
    optics = Optics(pixel_size_um=0.3)
    return [
        simulate_focal_stack(
            "organoid_layer",
            shape=shape,
            z_step_um=5.0,
            optics=optics,
            contrast="phase",
            seed=_SEED + number,
        )
        for number in range(LEARNT_FROM + TAKEN_AFTER)
    ]


def _take(session: Session) -> TakenStack:
    stack = session.take()
    typer.echo(
        f"stack {stack.number + 1}: agreement with the rule {_figure(stack.agreement)}, "
        f"IoU with the truth {stack.truth:.2f}, model {', '.join(stack.models)}"
    )
    return stack


def _wait_for_fine_tune(session: Session) -> None:
    with ProgressLine(1.0) as progress:
        session.settle(lambda status: _show(progress, status))
    for one in session.fine_tunes:
        typer.echo(f"model {one.version} passed the gate" if one.passed else f"no: {one.gate}")


def _show(progress: ProgressLine, status: dict[str, Any]) -> None:
    said = status["learning"]["trainer"]["progress"]
    if said:
        progress.reach(said["done"], said["message"])


def _report(session: Session, before: Sequence[TakenStack], after: Sequence[TakenStack]) -> None:
    typer.echo(
        f"agreement with the rule {_mean_agreement(before)} → {_mean_agreement(after)}, "
        f"IoU with the truth {_mean_truth(before)} → {_mean_truth(after)}"
    )
    said = session.status()["learning"]["profiles"][0]["decision"]
    if said is not None:
        typer.echo(f"last decision: {said}")
    typer.echo(f"model in use: {session.current}")


def _mean_agreement(stacks: Sequence[TakenStack]) -> str:
    known = [stack.agreement for stack in stacks if stack.agreement is not None]
    return _figure(statistics.fmean(known) if known else None)


def _mean_truth(stacks: Sequence[TakenStack]) -> str:
    return f"{statistics.fmean(stack.truth for stack in stacks):.2f}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
