"""`logs`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from enum import StrEnum
from typing import Annotated

import typer

from deepfocus_live.errors import InputError

__all__ = ["logs"]

_LOOK_S = 0.25


class Level(StrEnum):
    """How much is shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    level: Annotated[
        Level, typer.Option("--level", help="Only what is at least so grave.")
    ] = Level.INFO,
) -> None:
    """Print the end of the daemon's log; also while no daemon runs."""
    # Words that the terminal's code page does not have must not end this.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _print(lines, follow, logging.getLevelNamesMapping()[level.upper()])
    except KeyboardInterrupt:
        # The only way to end it is no failure.
        return
    except BrokenPipeError:
        # `logs | head`: nobody reads any more, nor what is flushed at the end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(lines: int, follow: bool, level: int) -> None:
    from deepfocus_live._logfile import Follower, LevelFilter
    from deepfocus_live.ring import log_path

    path = log_path()
    if not follow and not path.exists():
        raise InputError(f"{path}: no log yet; `deepfocus-live start` begins one.")
    follower, chosen = Follower(path), LevelFilter(level)
    found = chosen.pick(follower.read())
    _echo(found[max(0, len(found) - lines) :])
    while follow:
        time.sleep(_LOOK_S)
        _echo(chosen.pick(follower.read()))


def _echo(lines: list[str]) -> None:
    if lines:
        typer.echo("\n".join(lines))
