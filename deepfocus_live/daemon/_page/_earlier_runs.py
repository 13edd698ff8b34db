"""The runs that lie in the output folder, whoever made them: which there are, and a word on each.

A folder is looked into again only when its `run.json` or its journal has changed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deepfocus_live.daemon._page._run_history import model_of
from deepfocus_live.errors import InputError
from deepfocus_live.frames import RunSpec
from deepfocus_live.volume import JOURNAL, open_run

__all__ = ["EarlierRuns", "Glance", "KnownRun", "started_at"]

_MOST_RUNS = 200


@dataclass(frozen=True)
class KnownRun:
    """A run directory, as its `run.json` has it."""

    path: Path
    spec: RunSpec
    started: float | None
    pixels_stored: bool


@dataclass(frozen=True)
class Glance:
    """What a quick look at a journal tells."""

    ended: str | None
    agreement: tuple[dict[str, Any], ...]
    sizes: tuple[tuple[str, int, int], ...]
    """Name, size_t and size_z of each image."""


class EarlierRuns:
    """The newest 200 runs below a folder. Thread-safe."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[int, KnownRun | None]] = {}
        self._glances: dict[Path, tuple[tuple[int, int], Glance]] = {}

    def all(self) -> dict[str, KnownRun]:
        """Return the runs there are by id, newest first; of a copied run the newest."""
        with self._lock:
            newest = sorted(self._records(), reverse=True)[:_MOST_RUNS]
            self._known = {path: self._looked_into(path, at) for at, path in newest}
            found: dict[str, KnownRun] = {}
            for _, run in self._known.values():
                if run is not None:
                    found.setdefault(run.spec.run_id, run)
            return found

    def look_into(self, path: Path) -> KnownRun | None:
        """Return what `run.json` of a folder says; None if it is no run that can be read."""
        try:
            run = open_run(path)
        except (InputError, ValidationError, OSError):
            return None
        return KnownRun(path, run.spec, started_at(run.record), run.pixels_stored)

    def glance(self, run: KnownRun) -> Glance:
        """Return what a run's journal tells at a glance."""
        journal = run.path / JOURNAL
        try:
            about = journal.stat()
        except OSError:
            return Glance(None, (), _planned_sizes(run.spec))
        stamp = about.st_mtime_ns, about.st_size
        with self._lock:
            kept = self._glances.get(run.path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        glance = _glance(run, journal)
        with self._lock:
            self._glances[run.path] = stamp, glance
            while len(self._glances) > 2 * _MOST_RUNS:
                del self._glances[next(iter(self._glances))]
        return glance

    def _records(self) -> Iterator[tuple[int, Path]]:
        try:
            folders = list(self._output.iterdir())
        except OSError:
            return
        for folder in folders:
            if folder.name.startswith("."):
                continue
            try:
                yield (folder / "run.json").stat().st_mtime_ns, folder
            except OSError:
                continue

    def _looked_into(self, path: Path, at: int) -> tuple[int, KnownRun | None]:
        kept = self._known.get(path)
        return kept if kept is not None and kept[0] == at else (at, self.look_into(path))


def started_at(record: dict[str, Any]) -> float | None:
    """Return when a run was begun, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(record["created_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def _glance(run: KnownRun, journal: Path) -> Glance:
    ended, agreement = None, []
    sizes = list(_planned_sizes(run.spec))
    for line in _lines_of_kind(journal.read_bytes(), ("end", "agreement", "image")):
        if line["kind"] == "end":
            ended = str(line.get("reason"))
        elif line["kind"] == "agreement":
            agreement.append({"iou": line.get("iou"), "model": model_of(line)})
        elif isinstance(spec := line.get("spec"), dict):
            sizes.append((str(spec.get("name")), int(spec["size_t"]), int(spec["size_z"])))
    if run.spec.frames_expected is None and not run.spec.sequence:
        sizes = _sizes_as_came(run.path, sizes)
    return Glance(ended, tuple(agreement), tuple(sizes))


def _planned_sizes(spec: RunSpec) -> tuple[tuple[str, int, int], ...]:
    return tuple((image.name, image.size_t, image.size_z) for image in spec.images)


def _sizes_as_came(path: Path, planned: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return the sizes of a run that had no plan: those of its arrays."""
    try:
        images = open_run(path).images
    except (InputError, OSError, KeyError, ValueError):
        return planned
    shapes = [image.image.shape for image in images]
    return [(name, s[0], s[2]) for (name, _, _), s in zip(planned, shapes, strict=False)]


def _lines_of_kind(journal: bytes, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of some kinds, in order; the others are not even taken apart."""
    found = sorted(start for kind in kinds for start in _starts(journal, kind))
    for start in found:
        stop = journal.find(b"\n", start)
        if stop < 0:
            continue
        try:
            yield _parsed(journal[start:stop])
        except ValueError:
            continue


def _starts(journal: bytes, kind: str) -> Iterator[int]:
    head = b'{"kind":"%s",' % kind.encode()
    at = journal.find(head)
    while at >= 0:
        if at == 0 or journal[at - 1 : at] == b"\n":
            yield at
        at = journal.find(head, at + 1)


def _parsed(raw: bytes) -> dict[str, Any]:

    line = json.loads(raw)
    if not isinstance(line, dict):
        raise ValueError("no record")
    return line
