"""All commands together, and what becomes of errors."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from deepfocus_live import __version__
from deepfocus_live.cli import (
    _acquire,
    _bench,
    _compare,
    _correct,
    _daemon,
    _demo,
    _doctor,
    _export,
    _label,
    _models,
    _rank,
    _recover,
    _retrain,
    _segment,
    _setup,
)
from deepfocus_live.errors import InputError

__all__ = ["main"]

# `UsageError`: of the installed click with older versions of typer, of typer's own with newer.
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="deepfocus-live",
    help="In-focus masks, safe storage and a self-teaching U-Net beside Micro-Manager.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for family in (
    _daemon,
    _setup,
    _acquire,
    _demo,
    _label,
    _rank,
    _segment,
    _compare,
    _correct,
    _retrain,
    _models,
    _recover,
    _export,
    _doctor,
    _bench,
):
    family.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"deepfocus-live {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for errors.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 1 a failure that is ours or the machine's; 2 the user's
    input, with one line that says what, where and what to do.
    """
    arguments = sys.argv[1:]
    # Known before anything can fail, and accepted anywhere on the line.
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not debug:
        # It reports damaged files on stderr, beside the one line that we say of them.
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        code = app(args=arguments, prog_name="deepfocus-live", standalone_mode=False)
    except typer.Abort:
        _fail("stopped.", 1)
    except _UsageError as error:
        # Without a command the help is shown, and there is nothing else to say.
        _fail(error.format_message() or "no command was given; above are those there are.", 2)
    except InputError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("stopped.", 1)
    except Exception as error:
        if debug:
            raise
        first = " ".join(str(error).split()) or type(error).__name__
        _fail(f"{type(error).__name__}: {first} (--debug shows where)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> None:
    typer.echo(f"deepfocus-live: {' '.join(line.splitlines())}", err=True)
    sys.exit(code)
