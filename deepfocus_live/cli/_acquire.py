"""`acquire`: run a useq sequence on a Micro-Manager configuration, attached."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from deepfocus_live.cli._options import ConfigOption, OutputOption
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.config import load_config

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus
    from useq import MDASequence

    from deepfocus_live.microscope.acquire import Memory, Plan, Progress, Report, Room

__all__ = ["register", "run_shown"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(acquire)


def acquire(
    mm_config: Annotated[
        Path, typer.Option("--mm-config", help="Micro-Manager configuration.", metavar="CFG")
    ],
    sequence: Annotated[
        Path, typer.Option("--sequence", help="useq MDASequence (YAML).", metavar="FILE")
    ],
    output: OutputOption = None,
    config: ConfigOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show shape, time, disk and memory needed; take nothing."),
    ] = False,
    ignore_space: Annotated[
        bool,
        typer.Option("--ignore-space", help="Begin although the disk will be full before the end."),
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="Look at all channels with it; else by its `match`."),
    ] = None,
) -> None:
    """Load a Micro-Manager configuration and run a sequence, stored and masked as it comes."""
    from deepfocus_live.microscope.acquire import (
        load_microscope,
        load_sequence,
        memory_for,
        plan,
        room_for,
    )

    # Before anything is moved: `attach` reads it only after the microscope.
    settings = load_config(config)
    planned = load_sequence(sequence)
    core = load_microscope(mm_config)
    needed = plan(core, planned)
    _say_plan(needed)
    if dry_run:
        _say_room(room_for(core, planned, settings, output=output))
        _say_memory(memory_for(core, settings))
        return
    report = run_shown(
        core,
        planned,
        frames=needed.frames,
        output=output,
        config=config,
        ignore_space=ignore_space,
        profile=profile,
    )
    for path in report.paths:
        typer.echo(f"run: {path}")
    typer.echo(f"{report.frames} frames taken, {report.durable} on the disk ({report.reason}).")
    if report.error is not None:
        typer.echo(f"deepfocus-live: the acquisition failed: {report.error}", err=True)
    if report.durable < report.frames or report.reason != "completed":
        raise typer.Exit(1)


def run_shown(
    core: CMMCorePlus,
    sequence: MDASequence,
    *,
    frames: int | None,
    output: Path | None,
    config: Path | None,
    ignore_space: bool = False,
    profile: str | None = None,
) -> Report:
    """Run a sequence of so many frames (None: unknown) as `run` does, and show how far it is."""
    from deepfocus_live.microscope.acquire import run

    with _Shown(frames) as shown:
        return run(
            core,
            sequence,
            output=output,
            config=config,
            ignore_space=ignore_space,
            profile=profile,
            on_progress=shown.tell,
        )


class _Shown:
    """The progress of an acquisition, from its first frame on; see `ProgressLine`."""

    def __init__(self, frames: int | None) -> None:
        self._frames = frames
        self._line: ProgressLine | None = None
        self._begin = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """Show how far it is."""
        if self._line is None:
            # Not before: attaching may have words of its own for the terminal.
            self._line = ProgressLine(self._frames or 1).__enter__()
            self._begin = time.monotonic()
        said = _in_words(progress, self._frames, time.monotonic() - self._begin)
        self._line.reach(progress.durable if self._frames else 0, said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *stopped: Any) -> None:
        if self._line is not None:
            self._line.__exit__(*stopped)


def _in_words(progress: Progress, frames: int | None, seconds: float) -> str:
    """Return how far an acquisition is after so many seconds, and how long it will take yet."""
    of_all = "" if frames is None else f" of {frames}"
    said = f"{progress.taken}{of_all} frames taken, {progress.durable} on the disk"
    if not progress.acquiring or not progress.taken or frames is None:
        return said
    left = seconds * max(frames / progress.taken - 1, 0)
    return f"{said}, about {_duration(left)} left"


def _duration(seconds: float) -> str:
    """Return a time in words; 0.9 s, 59 s, 2 min 5 s, 3 h 0 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _say_memory(memory: Memory) -> None:
    typer.echo(
        f"memory: {memory.ring_bytes / 1e9:.2f} GB for a ring of {memory.ring_frames} frames; "
        f"up to {memory.most_bytes / 1e9:.2f} GB more if the disk is slower than the camera"
    )


def _say_plan(planned: Plan) -> None:
    frames = "unknown" if planned.frames is None else str(planned.frames)
    typer.echo(
        f"{frames} frames of {planned.width_px} × {planned.height_px} {planned.dtype}, "
        f"{planned.images} image(s), channels {', '.join(planned.channels)}; "
        f"pixel size {planned.pixel_size}, z-step {planned.z_step}; "
        f"{planned.bytes / 1e9:.2f} GB before compression; "
        f"at least {_duration(planned.seconds)}, by exposures and intervals alone"
    )
    if planned.z_um is not None:
        lowest, highest = planned.z_um
        now = "" if planned.stage_z_um is None else f"; the stage is at {planned.stage_z_um:g} µm"
        typer.echo(f"z from {lowest:g} to {highest:g} µm{now}")
    if planned.z_warning is not None:
        typer.echo(f"warning: {planned.z_warning}", err=True)


def _say_room(room: Room) -> None:
    needed = "" if room.bytes_needed is None else f"about {room.bytes_needed / 1e9:.2f} GB of "
    typer.echo(
        f"{needed}{room.bytes_free / 1e9:.2f} GB free on {room.folder}, where {room.frames_fit} "
        "such frames fit"
    )
    if room.warning is not None:
        typer.echo(f"warning: {room.warning}", err=True)
