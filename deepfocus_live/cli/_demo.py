"""`demo`: the whole way on a simulated microscope."""

from __future__ import annotations

import tempfile
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.cli._stacks import open_all
from deepfocus_live.config import writable_folder
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from useq import MDASequence

    from deepfocus_live.microscope import Attachment
    from deepfocus_live.microscope.simulated import SimulatedMicroscope

__all__ = ["register"]

_CATCH_UP_S = 600.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    stacks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[STACK…]", help="What the simulated microscope sees."),
    ] = None,
    count: Annotated[int, typer.Option("--stacks", min=1, help="Z-scans to take.")] = 3,
    headless: Annotated[
        bool, typer.Option("--headless", help="Open no browser, and end with the last mask.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for the run; else a temporary one."),
    ] = None,
    exposure: Annotated[
        float | None, typer.Option("--exposure", min=0.0, help="Exposure in ms.")
    ] = None,
    learning: Annotated[
        bool,
        typer.Option(
            "--learning",
            help="Show how it learns from a specimen new to it: ten stacks, some minutes.",
        ),
    ] = False,
) -> None:
    """Play focal stacks through a simulated microscope, with everything running.

    Uses a daemon, a port and models of its own: yours are not touched.
    """
    if learning:
        _learn(stacks or [], headless=headless, output=output, exposure=exposure)
        return
    from deepfocus_live.ring import private_daemon

    shown = exposure if exposure is not None else (10.0 if headless else 120.0)
    microscope = _microscope(stacks or [], count, shown)
    sequence = _sequence(microscope, count)
    with tempfile.TemporaryDirectory(prefix="deepfocus-demo-", ignore_cleanup_errors=True) as own:
        kept = Path(output or tempfile.mkdtemp(prefix="deepfocus-demo-runs-")).absolute()
        with private_daemon(Path(own), "--output", str(writable_folder(kept))) as daemon:
            typer.echo(f"the live page: {daemon.page}")
            if not headless:
                webbrowser.open(daemon.page)
            found = _play(microscope, sequence, kept)
            _report(found)
            if not headless:
                _linger(daemon.page)


def _learn(
    paths: Sequence[Path], *, headless: bool, output: Path | None, exposure: float | None
) -> None:
    from deepfocus_live.cli._demo_learning import demo_learning

    if paths:
        raise InputError("--learning plays specimens of its own: leave out the stacks.")
    with tempfile.TemporaryDirectory(prefix="deepfocus-demo-", ignore_cleanup_errors=True) as own:
        kept = Path(output or tempfile.mkdtemp(prefix="deepfocus-demo-runs-")).absolute()
        demo_learning(
            Path(own),
            writable_folder(kept),
            exposure_ms=10.0 if exposure is None else exposure,
            on_page=(lambda _: None) if headless else webbrowser.open,
            at_end=(lambda _: None) if headless else _linger,
        )


def _microscope(paths: Sequence[Path], count: int, exposure_ms: float) -> SimulatedMicroscope:
    from deepfocus_live.microscope.simulated import load_simulated_microscope

    if not paths:
        from deepfocus_live.simulation import demo_stack

        simulated = [demo_stack(seed) for seed in range(3, 3 + min(count, 3))]
        return load_simulated_microscope(
            [stack.slices for stack in simulated],
            z_um=[stack.z_um for stack in simulated],
            pixel_size_um=simulated[0].pixel_size_um,
            exposure_ms=exposure_ms,
        )
    opened = open_all(paths)
    for stack in opened:
        # Read once before it is played: a damaged file must not end a run half-way.
        for _ in stack:
            pass
    steps = [stack.z_step_um.um if stack.z_step_um else 1.0 for stack in opened]
    pixel = opened[0].pixel_size_um
    return load_simulated_microscope(
        opened,
        z_um=[
            [step * z for z in range(len(stack))] for stack, step in zip(opened, steps, strict=True)
        ],
        pixel_size_um=pixel.um if pixel else None,
        exposure_ms=exposure_ms,
    )


def _sequence(microscope: SimulatedMicroscope, count: int) -> MDASequence:
    first, *others = [
        tuple(microscope.z_positions_um(number)) for number in range(microscope.n_stacks)
    ]
    # Time points have the same planes; stacks that differ in theirs lie side by side.
    alike = all(planes == first for planes in others)
    sequence = microscope.sequence(count, as_="time" if alike else "position")
    return sequence.model_copy(update={"metadata": {**sequence.metadata, "name": "demo"}})


def _play(microscope: SimulatedMicroscope, sequence: MDASequence, output: Path) -> dict[str, Any]:
    """Run the acquisition, attached, and return what the daemon says at its end."""
    from deepfocus_live.microscope import attach

    with attach(microscope.core, output=output) as attached, ProgressLine(1.0) as progress:
        begin = time.monotonic()
        microscope.core.run_mda(sequence, block=True)
        progress.reach(0.7, "waiting for the last masks and labels")
        attached.wait()
        found = _catch_up(attached)
        found["seconds"] = time.monotonic() - begin
        found["frames"] = attached.status()
    microscope.close()
    return found


def _catch_up(attached: Attachment) -> dict[str, Any]:
    """Wait until every mask and label is there; return the daemon's status."""
    from deepfocus_live.ring import find_daemon, log_path

    deadline = time.monotonic() + _CATCH_UP_S
    while time.monotonic() < deadline:
        address = find_daemon()
        if address is not None:
            with address.connect() as client:
                status: dict[str, Any] = client.ask({"type": "status"})["status"]
            if status["run"] is None:
                return status
        time.sleep(0.1)
    said = log_path().read_text(encoding="utf-8", errors="replace").splitlines()
    raise RuntimeError(
        f"the daemon has not caught up in {_CATCH_UP_S:.0f} s; its last words: {said[-1:]}"
    )


def _report(found: dict[str, Any]) -> None:
    from deepfocus_live.volume import open_run

    frames = found["frames"]
    for path in frames["runs"]:
        run = open_run(path)
        kinds = [line["kind"] for line in run.journal]
        typer.echo(
            f"slices stored {kinds.count('frame')} of {frames['frames_taken']}, "
            f"masks {kinds.count('mask')}, stacks labelled {kinds.count('label')}, "
            f"in {found['seconds']:.1f} s"
        )
        for name, words in (("durable", "disk"), ("mask", "mask")):
            figures = found[f"camera_to_{name}_ms"]
            if figures:
                median, p99 = figures["p50"], figures["p99"]
                typer.echo(f"camera to {words}: median {median:.1f} ms, p99 {p99:.1f} ms")
        typer.echo(f"model {found['model']} on {found['provider']}")
        typer.echo(f"the run: {path}")


def _linger(page: str) -> None:
    typer.echo(f"the page stays at {page} until Ctrl-C")
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        typer.echo("bye")
