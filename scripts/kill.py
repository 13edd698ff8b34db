"""Kill real processes at random moments, many times, and judge what is on the disk each time.

python scripts/kill.py [--writer 30] [--daemon 100] [--microscope 20] [--both 10]
    [--read-only 10] [--clock 10] [--seed N] [--only daemon:17] [--results FILE.jsonl]

- writer: a process that writes a run is killed, and those that go on with it. No acknowledged
  slice may be lost or torn, both validators accept the store, the next writer goes on.
- daemon: killed two to five times within an acquisition. Every frame that the camera delivered is
  on the disk once, byte by byte.
- microscope: its process is killed. What was in ring or spill is on the disk; the run is closed.
- both: both are killed. The next daemon drains the ring.
- read-only: the disk is mounted read-only in the middle of a run, and writable again (Linux, root).
- clock: the system's clock is set back, or on, in the middle of an acquisition.

The figures are numbers of kills, for read-only and clock numbers of trials. The exit code is 1 if
anything was lost; the line names the number to repeat that trial alone with `--only`. What happens
follows from the number; when, only nearly so, so that a rare loss may take some repeats.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kills import (
    Trial,
    kill_both,
    kill_daemon,
    kill_microscope,
    kill_writer,
    set_clock,
    turn_read_only,
)

TRIALS: dict[str, tuple[Callable[[Path, int], Trial], int]] = {
    "writer": (kill_writer, 30),
    "daemon": (kill_daemon, 100),
    "microscope": (kill_microscope, 20),
    "both": (kill_both, 10),
    "read-only": (turn_read_only, 10),
    "clock": (set_clock, 10),
}


def main() -> None:
    """Do what the command line says; exit with 1 if anything was lost."""
    options = _arguments()
    begin = time.monotonic()
    table: dict[str, list[int]] = {}
    failed = []
    for kind, number, seed in _chosen(options, table):
        trial = _judge(kind, seed)
        row = table.setdefault(kind, [0, 0, 0, 0])
        for column, count in enumerate(
            (1, len(trial.kills), trial.slices, len(trial.faults)),
        ):
            row[column] += count
        if trial.faults:
            failed.append(f"{kind}:{seed}")
        _report(kind, number, seed, trial)
        if options.results is not None:
            with options.results.open("a", encoding="utf-8") as file:
                line = {"kind": kind, "number": seed, **asdict(trial)}
                file.write(json.dumps(line, default=str) + "\n")
    print(f"\n| killed | trials | kills | slices compared | faults |  ({_elapsed(begin)})")
    print("|---|---|---|---|---|")
    for kind, row in table.items():
        print(f"| {kind} | {' | '.join(map(str, row))} |")
    if failed:
        sys.exit(f"\nsomething was lost: repeat with --only {' --only '.join(failed)}")
    print("\nnothing was lost")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for kind, (_, count) in TRIALS.items():
        parser.add_argument(f"--{kind}", type=int, metavar="N", help=f"{count} where none is named")
    parser.add_argument("--seed", type=int, default=0, help="first number")
    parser.add_argument("--only", action="append", metavar="KIND:NUMBER")
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append a line each")
    parser.add_argument("--minutes", type=float, default=None, help="begin nothing after so long")
    options = parser.parse_args()
    wanted = {kind: vars(options)[kind.replace("-", "_")] for kind in TRIALS}
    if all(count is None for count in wanted.values()):
        wanted = {kind: count for kind, (_, count) in TRIALS.items()}
    options.wanted = {kind: count or 0 for kind, count in wanted.items()}
    return options


def _chosen(
    options: argparse.Namespace, table: dict[str, list[int]]
) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, how many-th, number) of each trial to be done."""
    if options.only:
        for nth, one in enumerate(options.only):
            kind, _, number = one.partition(":")
            if kind not in TRIALS or not number.isdigit():
                sys.exit(f"--only {one}: one of {', '.join(TRIALS)}, a colon, a number")
            yield kind, nth, int(number)
        return
    deadline = time.monotonic() + 60 * (options.minutes or float("inf"))
    for kind, count in options.wanted.items():
        column = 0 if kind in ("read-only", "clock") else 1
        nth = 0
        # A trial has as many kills as it happens to have.
        while table.get(kind, [0, 0])[column] < count and time.monotonic() < deadline:
            yield kind, nth, options.seed + nth
            nth += 1


def _judge(kind: str, seed: int) -> Trial:
    folder = Path(tempfile.mkdtemp(prefix=f"kill-{kind}-"))
    try:
        trial = TRIALS[kind][0](folder, seed)
    except Exception as error:
        traceback.print_exc()
        trial = Trial("", faults=[f"{type(error).__name__}: {error}"])
    if trial.faults:
        trial.notes.append(f"see {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return trial


def _report(kind: str, nth: int, seed: int, trial: Trial) -> None:
    name = f"{kind}:{seed}"
    print(f"{name} ({trial.plan})")
    for number, kill in enumerate(trial.kills, 1):
        print(f"  kill {number}: {kill.who}, {kill.moment}; {kill.acknowledged} to be kept")
    for note in trial.notes:
        print(f"  note: {note}")
    for fault in trial.faults[:20]:
        print(f"  LOST: {fault}")
    if not trial.faults:
        print(f"  all there: {trial.slices} slices")
    sys.stdout.flush()


def _elapsed(begin: float) -> str:
    return f"{(time.monotonic() - begin) / 60:.1f} minutes"


if __name__ == "__main__":
    main()
