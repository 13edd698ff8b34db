"""What processes that died have left: frames that wait to be stored, and what nobody needs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deepfocus_live.config import Config
from deepfocus_live.doctor._finding import Finding
from deepfocus_live.frames import RunSpec
from deepfocus_live.ring import (
    MemoryRing,
    RingError,
    SpilledFrames,
    find_daemon,
    leftover_rings,
    leftover_spills,
)

__all__ = ["Leftover", "find_leftovers", "free_leftovers", "look_at_leftovers"]

_SUBJECT = "leftovers"


@dataclass(frozen=True)
class Leftover:
    """A file or folder of a process that is gone.

    Attributes
    ----------
    path : Path
    frames : int
        Frames in it that are on no disk yet in a run. Only what has none may be removed.
    nbytes : int
        What it takes.
    run_known : bool
        False: which run its frames belong to cannot be read, so that no daemon of this version
        stores them.
    """

    path: Path
    frames: int
    nbytes: int
    run_known: bool = True


def find_leftovers(config: Config) -> list[Leftover]:
    """Return what was left by processes that are gone; what a living one uses is not among it."""
    found = [_of_ring(path) for path in leftover_rings()]
    found += [_of_spill(path) for path in leftover_spills(config.ring.spill)]
    if find_daemon() is None:
        # Made by a daemon that was killed before the run had its name: no frame is in it.
        found += [
            Leftover(path, 0, _size(path)) for path in sorted(config.output_dir.glob(".*.partial"))
        ]
    return [one for one in found if one is not None]


def free_leftovers(leftovers: Iterable[Leftover]) -> list[Path]:
    """Remove those in which no frame waits; return what was removed."""
    removed = []
    for one in leftovers:
        if one.frames:
            continue
        if one.path.is_dir():
            shutil.rmtree(one.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                one.path.unlink(missing_ok=True)
        if not one.path.exists():
            removed.append(one.path)
    return removed


def look_at_leftovers(config: Config) -> Iterator[Finding]:
    """Say what waits, and what can be freed."""
    found = find_leftovers(config)
    if not found:
        yield Finding(_SUBJECT, "ok", "none")
    for one in found:
        figures = {"path": str(one.path), "frames": one.frames, "bytes": one.nbytes}
        if one.frames:
            advice = "deepfocus-live start: it stores them"
            if not one.run_known:
                advice = (
                    "their run cannot be read: start the version of deepfocus-live that took them; "
                    "until then they stay where they are"
                )
            said = f"{one.path}: {one.frames} frames of a program that died wait to be stored"
            yield Finding(_SUBJECT, "warning", said, advice, figures)
        else:
            yield Finding(
                _SUBJECT,
                "note",
                f"{one.path}: {one.nbytes / 1e6:.0f} MB that nobody uses",
                "deepfocus-live doctor --free",
                figures,
            )


def _of_ring(path: Path) -> Leftover | None:
    try:
        ring = MemoryRing(path)
    except (OSError, RingError, ValueError):
        return Leftover(path, 0, _size(path)) if MemoryRing.is_debris(path) else None
    try:
        alive = ring.producer.alive()
        return None if alive else _with_frames(path, ring)
    finally:
        ring.close()


def _of_spill(path: Path) -> Leftover | None:
    try:
        spill = SpilledFrames(path)
        alive = spill.producer.alive()
        return None if alive else _with_frames(path, spill)
    except (OSError, RingError):
        return Leftover(path, 0, _size(path)) if SpilledFrames.is_debris(path) else None


def _with_frames(path: Path, source: MemoryRing | SpilledFrames) -> Leftover:
    frames = len(source.waiting())
    try:
        RunSpec.model_validate_json(source.run)
    except ValueError:
        return Leftover(path, frames, _size(path), run_known=not frames)
    return Leftover(path, frames, _size(path))


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except OSError:
        return 0
