"""What dead programs left in rings and spills: stored by the run it belongs to, then removed.

Design Notes
------------
The watch only looks. What it finds is stored by a thread for each run: a disk that is full, slow or
gone holds up that run alone, neither the watch, nor the beginning of a daemon, nor other runs. The
frames of a ring come before those of a spill, which were taken later. Nothing is removed in which a
frame waits: what cannot be read, or stored, stays where it is, and a warning stands for as long.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepfocus_live.config import Config
from deepfocus_live.daemon._intake import FrameSource, Intake, run_of
from deepfocus_live.daemon._runs import OpenRuns, is_left_open
from deepfocus_live.daemon._warnings import ClearWarning, SayWarning
from deepfocus_live.errors import InputError
from deepfocus_live.frames import RunSpec
from deepfocus_live.ring import (
    MemoryRing,
    RingError,
    SpilledFrames,
    leftover_rings,
    leftover_spills,
)

__all__ = ["Leftovers"]

log = logging.getLogger(__name__)

_AGAIN_S = 2.0
"""Between two attempts at a run that cannot be gone on with."""
_STOP_S = 5.0


@dataclass
class _Left:
    """What a dead program left of one run, in the order in which its frames were taken."""

    spec: RunSpec
    sources: list[FrameSource] = field(default_factory=list)

    @property
    def told(self) -> FrameSource:
        """The one that knows the run's folder; the first where none does."""
        known = (one for one in self.sources if one.folder is not None)
        return next(known, self.sources[0])


class Leftovers:
    """Finds what dead programs left, and has it stored. True while any of it is in hand.

    Parameters
    ----------
    config : Config
        Where frames are spilled to.
    runs, intake
        Who opens runs, and who stores frames.
    warn, clear : callable
        Raise a warning, and end one that is raised under a key.
    """

    def __init__(
        self,
        config: Config,
        *,
        runs: OpenRuns,
        intake: Intake,
        warn: SayWarning,
        clear: ClearWarning,
    ) -> None:
        self._spill = config.ring.spill
        self._runs = runs
        self._intake = intake
        self._warn = warn
        self._clear = clear
        self._threads: dict[str, threading.Thread] = {}
        self._in_hand: dict[str, _Left] = {}
        self._not_before: dict[str, float] = {}

    def look(self) -> None:
        """Begin to store what is found, also of programs that we never heard of.

        What one left half-made, or empty, is removed.
        """
        self._threads = {key: one for key, one in self._threads.items() if one.is_alive()}
        now = time.monotonic()
        for run_id, left in self._find().items():
            if now < self._not_before.get(run_id, now):
                continue
            self._not_before.pop(run_id, None)
            if not (any(one.waiting() for one in left.sources) or self._is_open(left)):
                for source in left.sources:
                    self._remove(source)
                continue
            thread = threading.Thread(
                target=self._store, args=(left,), name="leftovers", daemon=True
            )
            self._in_hand[run_id], self._threads[run_id] = left, thread
            thread.start()

    def __bool__(self) -> bool:
        return bool(self._in_hand)

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs whose frames are being stored."""
        folders = (left.told.folder for left in list(self._in_hand.values()))
        return [folder for folder in folders if folder is not None]

    def stop(self) -> None:
        """Wait for the threads, which end with `Intake.stop`; one whose disk hangs is left."""
        deadline = time.monotonic() + _STOP_S
        for thread in list(self._threads.values()):
            thread.join(max(deadline - time.monotonic(), 0.0))

    # ------------------------------------------------------------------ what there is

    def _is_open(self, left: _Left) -> bool:
        """Return whether nobody has ended the run; its last line may be on its way to the disk."""
        run = self._runs.get(left.spec.run_id)
        return is_left_open(left.told.folder) if run is None else not (run.ended or run.ending)

    def _find(self) -> dict[str, _Left]:
        """Return what the dead left, by run; not what is in hand."""
        found: dict[str, _Left] = {}
        sources: list[FrameSource] = [*self._rings_of_the_dead(), *self._spills_of_the_dead()]
        for source in sources:
            spec = run_of(source)
            if spec is None:
                self._keep_or_remove(source)
            elif spec.run_id not in self._threads:
                found.setdefault(spec.run_id, _Left(spec)).sources.append(source)
        return found

    def _rings_of_the_dead(self) -> Iterator[MemoryRing]:
        found = leftover_rings()
        in_hand = {one.path for left in list(self._in_hand.values()) for one in left.sources}
        for path in set(map(Path, self._intake.rings)) - set(found):
            # Removed by its owner: our mapping would keep its memory.
            self._intake.close_ring(str(path), remove=False)
        for path in found:
            if path in in_hand:
                continue  # its thread closes it
            try:
                ring = self._intake.open_ring(str(path))
            except (OSError, RingError, ValueError):
                # Being made right now, or no ring of this version: not ours to touch.
                if MemoryRing.is_debris(path):
                    _remove_debris(path)
                continue
            if not ring.producer.alive():
                yield ring

    def _spills_of_the_dead(self) -> Iterator[SpilledFrames]:
        for path in leftover_spills(self._spill):
            try:
                spill = SpilledFrames(path)
            except (OSError, RingError):
                if SpilledFrames.is_debris(path):
                    _remove_debris(path)
                continue
            if not spill.producer.alive():
                yield spill

    # ---------------------------------------------------------------- what is done

    def _store(self, left: _Left) -> None:
        run_id, name = left.spec.run_id, left.spec.name
        try:
            if self._stored(left):
                self._clear(_key(left.sources[0]))
        except (InputError, OSError) as error:
            self._wait(left, str(error))
        except Exception as error:
            # Whatever it is, the frames stay where they are, and are tried again.
            log.exception("what run %s left", name, extra={"run": name})
            self._wait(left, f"{type(error).__name__}: {error}")
        finally:
            self._in_hand.pop(run_id, None)

    def _stored(self, left: _Left) -> bool:
        """Store and remove it all, and end the run; False: the daemon is stopping."""
        run, name = self._runs.take_over(left.spec, left.told), left.spec.name
        for source in left.sources:
            count = len(source.waiting())
            if source.outlived_system and count:
                self._warn(
                    f"run {name}: {count} frames were in a file when the computer went down: they "
                    "are stored as they were found and marked in the journal, look at them",
                    key=("outlived", left.spec.run_id),
                    run=name,
                )
            self._intake.drain(run, source)
            if source.waiting():
                return False  # the next daemon goes on
            if count:
                log.info("%d frames came out of %s", count, source.path, extra={"run": name})
            self._remove(source)
        self._runs.end(run, "interrupted")
        return True

    def _wait(self, left: _Left, why: str) -> None:
        """Leave it where it is for now."""
        name, source = left.spec.name, left.sources[0]
        self._not_before[left.spec.run_id] = time.monotonic() + _AGAIN_S
        text = f"frames of run {name} wait in {source.path}: {why}"
        self._warn(text, key=_key(source), run=name)

    def _keep_or_remove(self, source: FrameSource) -> None:
        """Remove what has no run and no frames; frames whose run cannot be read are kept."""
        count = len(source.waiting())
        if not count:
            self._remove(source)
            return
        self._warn(
            f"{count} frames wait in {source.path}, of a run that this version cannot read: start "
            "the version that took them",
            key=_key(source),
        )

    def _remove(self, source: FrameSource) -> None:
        if isinstance(source, MemoryRing):
            self._intake.close_ring(str(source.path), remove=True)
        else:
            source.remove()


def _key(source: FrameSource) -> Hashable:
    return ("waits", str(source.path))


def _remove_debris(path: Path) -> None:
    log.info("%s was left half-made by a process that died: removed", path)
    with contextlib.suppress(OSError):
        path.unlink()
