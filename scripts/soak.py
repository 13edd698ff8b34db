"""Give one daemon many small stacks, and see whether it holds ever more.

python scripts/soak.py [--stacks 10000] [--every 100] [--per-run 10] [--minutes M]

A simulated microscope takes the stacks, in runs; each run is removed once its masks and labels are
there. After every so many stacks a line says what the daemon and the microscope's process hold:
memory of their own, threads, open files (on Windows handles), rings. The first 100 stacks are the
warm-up. The exit code is 1 if anything has grown by more than 2 % since then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepfocus_live.ring import private_daemon
from tests.soak import MOST_GROWTH, Held, growth, soak

WARM_UP = 100
_COLUMNS = (
    "stacks",
    "daemon MB",
    "threads",
    "files",
    "microscope MB",
    "threads",
    "files",
    "rings",
)


def main() -> None:
    """Do what the command line says; exit with 1 if something grew."""
    options = _arguments()
    deadline = time.monotonic() + 60 * options.minutes
    samples: list[Held] = []
    print(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="deepfocus-soak-", ignore_cleanup_errors=True) as own:
        folder = Path(own)
        with private_daemon(folder) as daemon:
            taking = soak(
                daemon,
                folder / "runs",
                stacks=options.stacks,
                every=options.every,
                per_run=options.per_run,
            )
            for held in taking:
                print(f"| {' | '.join(f'{value:g}' for value in astuple(held))} |", flush=True)
                samples.append(held)
                if time.monotonic() > deadline:
                    break
            taking.close()
    _judge([held for held in samples if held.stacks >= WARM_UP])


def _judge(samples: list[Held]) -> None:
    if len(samples) < 2:
        sys.exit(f"nothing to compare: take more than {WARM_UP} stacks, with a smaller --every.")
    grown = growth(samples)
    said = ", ".join(f"{name} {100 * part:+.1f} %" for name, part in grown.items())
    print(f"\nsince stack {samples[0].stacks}: {said}")
    if too_much := [name for name, part in grown.items() if part > MOST_GROWTH]:
        sys.exit(f"grown by more than {100 * MOST_GROWTH:g} %: {', '.join(too_much)}")
    print(f"nothing has grown by more than {100 * MOST_GROWTH:g} %")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stacks", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=100, help="stacks from sample to sample")
    parser.add_argument("--per-run", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so long")
    options = parser.parse_args()
    if min(options.stacks, options.every, options.per_run) < 1:
        parser.error("--stacks, --every and --per-run are 1 or more")
    return options


if __name__ == "__main__":
    main()
