"""`verify` and `recover`: is a run whole, and what can be mended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepfocus_live.cli._options import ConfigOption, ModelsOption
from deepfocus_live.cli._progress import ProgressLine
from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.volume import Ledger, Leftovers, Owed, SliceFault, Verification

__all__ = ["register"]

_MOST_LISTED = 20

RunArgument = Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN")]


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(verify)
    app.command()(recover)


def verify(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Read every slice of a run and compare its checksum. Exit code 1 when one is not whole."""
    from deepfocus_live.volume import read_ledger, verify_run

    ledger = read_ledger(run)
    with ProgressLine(max(1, len(ledger.frames))) as progress:
        found = verify_run(ledger, on_slice=lambda _: progress.advance("reading slices"))
    if as_json:
        typer.echo(json.dumps(_as_json(run, found), indent=1))
    else:
        for line in (*_faults(run, found), *_unwritten(run, found)):
            typer.echo(line)
        if ledger.ended is None:
            typer.echo("the run has no end: it is being written, or `recover` has not seen it yet")
        typer.echo(_whole(found))
    if not found.whole:
        raise typer.Exit(1)


def recover(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is to do.")] = False,
    models: ModelsOption = None,
    config: ConfigOption = None,
) -> None:
    """Say what is in a run, and repair what a crash left. Exit code 1 when something is left.

    Slices are never changed or removed: those that are damaged are listed. Settings are the run's
    own, or those of --config; the model is the run's own, or the current one of its profile.
    """
    from deepfocus_live.config import load_config
    from deepfocus_live.daemon import Recovery

    settings = None if config is None else load_config(config)
    recovery = Recovery(run, config=settings, models=models)
    for line in _contents(recovery.ledger):
        typer.echo(line)
    try:
        if not dry_run:
            recovery.mend_files()
        with ProgressLine(max(1, len(recovery.ledger.frames))) as progress:
            found = recovery.look(progress.advance)
        made = recovery.owed
        if not dry_run:
            with ProgressLine(max(1, recovery.steps)) as progress:
                made = recovery.make(progress.advance)
    except OSError as error:
        raise InputError(f"{run}: cannot be repaired: {error.strerror or error}.") from None
    for line in (*_faults(run, found), *recovery.notes, *recovery.troubles):
        typer.echo(line)
    done = list(_done(recovery.files, made, "to be " if dry_run else ""))
    for line in done or ["nothing to repair"]:
        typer.echo(line)
    typer.echo(_whole(found))
    if recovery.troubles or not found.whole:
        raise typer.Exit(1)


# ------------------------------------------------------------------- words


def _contents(ledger: Ledger) -> Iterator[str]:
    """Say what is in a run."""
    spec, stacks = ledger.spec, ledger.stacks
    channels = ", ".join(channel.name for channel in spec.channels)
    yield (
        f"{spec.name}: {_count(len(ledger.images), 'image')}, {channels}, "
        f"{spec.height_px} × {spec.width_px} {'RGB ' * (spec.samples_per_pixel == 3)}{spec.dtype}, "
        f"{ledger.ended or 'nobody wrote how it ended'}"
    )
    present: Counter[int] = Counter()
    incomplete = []
    for key, zs in sorted(stacks.items()):
        present[key.image] += len(zs)
        planned = ledger.images[key.image].size_z
        if len(zs) < planned:
            incomplete.append(
                f"  image {key.image}, t {key.t}, c {key.c}: {len(zs)} of {planned} slices"
            )
    lines = []
    for number, image in enumerate(ledger.images):
        planned = image.size_t * len(spec.channels) * image.size_z
        lines.append(f"  image {number} ({image.name}): {present[number]} of {planned} slices")
    yield from _shortened(lines, "images")
    yield from _shortened(incomplete, "stacks are incomplete")
    yield (
        f"masks: {len(ledger.masked.keys() & ledger.frames.keys())} of {len(ledger.frames)} "
        f"slices; weak labels: {len(ledger.labelled & stacks.keys())} of {len(stacks)} stacks"
    )


def _faults(run: Path, found: Verification) -> Iterator[str]:
    """Say what is wrong with slices and journal."""
    for fault in found.faults:
        yield f"{_place(fault)}: {fault.reason} ({_below(run, fault.path)})"
    if found.journal_missing:
        yield "frames.jsonl is missing: nothing says which slices there are"
    for number in found.damaged_lines:
        yield f"frames.jsonl: line {number} cannot be read: it may have named a slice"
    for path in found.unnamed:
        yield f"not in the journal, so never acknowledged: {_below(run, path)}"


def _unwritten(run: Path, found: Verification) -> Iterator[str]:
    """Say what a writer left half-written."""
    for path in found.partial:
        yield f"half-written: {_below(run, path)}"
    if found.torn:
        yield "frames.jsonl: the last line is torn; no acknowledged slice stands in it"


def _done(files: Leftovers, made: Owed, tense: str) -> Iterator[str]:
    """Say what was repaired, or is to be."""
    if files.partial:
        yield f"{_count(len(files.partial), 'half-written file')} {tense}removed"
    if files.metadata:
        yield f"{_count(len(files.metadata), 'zarr.json file')} {tense}written"
    if files.torn:
        yield f"torn last line of frames.jsonl {tense}cut off"
    if made.no_end:
        yield f"end {tense}noted as interrupted"
    if made.levels:
        yield f"{_count(len(made.levels), 'pyramid')} {tense}written"
    if made.masks:
        yield f"{_count(len(made.masks), 'mask')} {tense}made"
    if made.labels:
        yield f"{_count(len(made.labels), 'stack')} {tense}labelled"


def _whole(found: Verification) -> str:
    doubt = ", as far as the journal can be read" if found.in_doubt else ""
    if not found.pixels_stored:
        return (
            f"{_count(found.slices, 'slice')} in the journal{doubt}; pixels not stored, as the run "
            "was begun with storage.mode: masks-only"
        )
    return f"{found.slices - len(found.faults)} of {found.slices} slices are whole{doubt}"


def _place(fault: SliceFault) -> str:
    image, t, c, z = fault.placement
    return f"slice {fault.sequence_number}, image {image}, t {t}, c {c}, z {z}"


def _below(run: Path, path: Path) -> str:
    return path.relative_to(run).as_posix()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shortened(lines: list[str], what: str) -> Iterator[str]:
    yield from lines[:_MOST_LISTED]
    if len(lines) > _MOST_LISTED:
        yield f"  … {len(lines)} {what}"


def _as_json(run: Path, found: Verification) -> dict[str, Any]:
    return {
        "whole": found.whole,
        "pixels_stored": found.pixels_stored,
        "slices": found.slices,
        "slices_whole": found.slices - len(found.faults),
        "faults": [
            {
                "sequence_number": fault.sequence_number,
                **fault.placement._asdict(),
                "path": _below(run, fault.path),
                "reason": fault.reason,
            }
            for fault in found.faults
        ],
        "unnamed": [_below(run, path) for path in found.unnamed],
        "partial": [_below(run, path) for path in found.partial],
        "torn": found.torn,
        "damaged_lines": list(found.damaged_lines),
        "journal_missing": found.journal_missing,
    }
