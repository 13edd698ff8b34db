"""The background: pyramids and weak labels, after raw slices and masks.

Design Notes
------------
What is kept of a slice until its stack is whole is bounded. Where it is too much, stacks are
forgotten and read again. A run that keeps no pixels has nothing to read again: such a stack gets no
weak labels, nor does one whose slices came to two daemons; both are said in a line. A slice that
comes after its stack was labelled stays without.

The kernels of this work are compiled on this thread, before its first job: on a new machine that
takes half a minute, in which slices are stored and masked, but not yet labelled.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deepfocus_live import _platform
from deepfocus_live.daemon._run import ActiveRun, SliceJob, StackProgress
from deepfocus_live.daemon._warnings import SayWarning
from deepfocus_live.focus import StackLabels
from deepfocus_live.frames import StackKey, luminance
from deepfocus_live.learning import contrast_over_z
from deepfocus_live.volume import RunWriter

__all__ = ["Background", "store_labels"]

log = logging.getLogger(__name__)

_YIELD_S = 0.05
_MOST_YIELDS = 40


@dataclass(frozen=True)
class _Work:
    work: Callable[[Callable[[], None]], None]
    run: ActiveRun | None


class Background:
    """One thread: scores each slice, writes its pyramid, and labels each stack that is whole.

    Parameters
    ----------
    labels : bool
        Whether stacks are labelled at all.
    memory_mb : int
        For what is kept of the slices of unfinished stacks. Above it the largest stack is
        forgotten, and read back from the disk when it is whole; only then, and one stack at a
        time, it takes its memory again.
    busy : callable
        Whether slices or masks are waiting; they go first.
    on_labelled : callable
        Called with (run, stack, in-focus fraction per z) on this thread.
    warn : callable
        Called with one line where a stack gets no labels.
    prepare : iterable of callables
        Called on the thread before the first job, until it is to stop.
    on_run_labelled : callable
        Called with a run that has ended, on this thread, once its cut-off stacks are labelled.
    """

    def __init__(
        self,
        *,
        labels: bool,
        memory_mb: int,
        busy: Callable[[], bool],
        on_labelled: Callable[[ActiveRun, StackProgress, list[float | None]], None],
        warn: SayWarning,
        prepare: Iterable[Callable[[], object]] = (),
        on_run_labelled: Callable[[ActiveRun], None] = lambda _: None,
    ) -> None:
        self._labels = labels
        self._prepare = prepare
        self._most_bytes = memory_mb << 20
        self._busy = busy
        self._on_labelled = on_labelled
        self._warn = warn
        self._on_run_labelled = on_run_labelled
        self._jobs: deque[SliceJob | ActiveRun | _Work] = deque()
        self._kept: dict[StackKey, tuple[ActiveRun, StackProgress, int]] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="labels", daemon=True)
        self._thread.start()

    @property
    def jobs_waiting(self) -> int:
        """Slices not scored yet."""
        return sum(not isinstance(job, _Work) for job in list(self._jobs))

    def put(self, job: SliceJob | ActiveRun) -> None:
        """Queue a slice; or a run that has ended, whose cut-off stacks are then labelled."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def do(self, work: Callable[[Callable[[], None]], None], run: ActiveRun | None = None) -> None:
        """Queue other work of low priority; `run` is not closed before it is done.

        `work` is called with a function to call now and then, to let slices and masks go first.
        """
        if run is not None:
            run.owe(1)
        with self._changed:
            self._jobs.append(_Work(work, run))
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after the job in hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        _platform.lower_thread_priority()
        self._get_ready()
        while True:
            with self._changed:
                while not self._jobs and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
            self._give_way()
            job = self._jobs.popleft()
            run = job if isinstance(job, ActiveRun) else job.run
            try:
                if isinstance(job, SliceJob):
                    self._score(job)
                elif isinstance(job, ActiveRun):
                    self._finish_run(job)
                else:
                    job.work(self._give_way)
            except Exception:
                name = "-" if run is None else run.spec.name
                log.exception("a label could not be made, or judged", extra={"run": name})
            finally:
                if isinstance(job, SliceJob):
                    job.done()
                if run is not None:
                    run.owe(-1)

    def _get_ready(self) -> None:
        try:
            for step in self._prepare:
                if self._stopping:
                    return
                step()
        except Exception:
            # What cannot be done in advance is tried again with the first stack, and said there.
            log.exception("labels could not be prepared")

    def _give_way(self) -> None:
        """Let slices and masks go first, but not for ever."""
        for _ in range(_MOST_YIELDS):
            with self._changed:
                if self._stopping or not self._busy():
                    return
                self._changed.wait(_YIELD_S)

    def _score(self, job: SliceJob) -> None:
        pixels = job.pixels()
        job.run.writer.write_pyramid(job.placement, pixels)
        if not self._labels:
            return
        progress = job.run.stack(job.key)
        if progress.labelled and job.placement.z in progress.scored:
            return
        progress.scored.add(job.placement.z)
        progress.labelled = False
        if progress.in_memory:
            progress.labeler.add(job.placement.z, luminance(pixels))
            self._make_room(job.run, progress)
        # What is longer than planned is labelled once, when the run ends.
        if len(progress.scored) == progress.size_z:
            self._label(job.run, progress)

    def _make_room(self, run: ActiveRun, grown: StackProgress) -> None:
        """Forget the largest stacks until what is kept of all of them fits."""
        self._kept[grown.key] = (run, grown, grown.labeler.nbytes)
        total = sum(size for _, _, size in self._kept.values())
        while total > self._most_bytes and self._kept:
            _, largest, size = self._kept.pop(max(self._kept, key=self._cost))
            largest.labeler.clear()
            largest.in_memory = False
            total -= size

    def _cost(self, key: StackKey) -> tuple[bool, int]:
        """Return what forgetting a stack frees; those that can be read again go first."""
        run, _, size = self._kept[key]
        return run.writer.pixels_stored, size

    def _finish_run(self, run: ActiveRun) -> None:
        if self._labels:
            for progress in run.stacks():
                if not progress.labelled:
                    self._label(run, progress)
        self._on_run_labelled(run)

    def _label(self, run: ActiveRun, progress: StackProgress) -> None:
        key = progress.key
        if not progress.in_memory and not run.writer.pixels_stored:
            self._give_up(run, progress)
            return
        if not progress.in_memory:
            for z in progress.scored:
                self._give_way()
                progress.labeler.add(z, luminance(run.writer.read_slice(key.placement(z))))
        self._kept.pop(key, None)
        labels = progress.labeler.finish()
        # A slice that comes after this is judged with all the others, from the disk.
        progress.labeler.clear()
        progress.in_memory = False
        fractions = store_labels(run.writer, key, labels, run.look(key.c).preset)
        for note in labels.notes:
            place = (key.image, key.t, key.c)
            log.info("image %d, t %d, c %d: %s", *place, note, extra={"run": run.spec.name})
        progress.labelled, progress.trainable = True, labels.trainable
        progress.contrast = contrast_over_z(labels.scores, labels.weak_label)
        self._on_labelled(run, progress, fractions)
        run.forget(progress)

    def _give_up(self, run: ActiveRun, progress: StackProgress) -> None:
        """Leave a stack as it is whose slices nobody has any more."""
        progress.labelled, progress.trainable = True, False
        image, t, c = progress.key[1:]
        if not run.labelled(progress.key):
            run.writer.note("no_label", image=image, t=t, c=c)
        self._warn(
            f"run {run.spec.name}: stacks without weak labels: the run keeps no pixels, and not "
            "all their slices were in memory (labels.memory_mb too small, or a daemon killed)",
            run=run.spec.name,
        )
        run.forget(progress)


def store_labels(
    writer: RunWriter, key: StackKey, labels: StackLabels, preset: str
) -> list[float | None]:
    """Store what the rule says of a stack; return its in-focus fraction per z, None if unseen."""
    fractions: list[float | None] = []
    for z in range(len(labels.arrived)):
        if not labels.arrived[z]:
            fractions.append(None)
            continue
        weak, undecided = labels.weak_label_slice(z), labels.undecided_slice(z)
        writer.write_weak_label(key.placement(z), weak, undecided)
        fractions.append(round(float(labels.focus_curve[z]), 6))
    writer.note(
        "label",
        image=key.image,
        t=key.t,
        c=key.c,
        preset=preset,
        in_focus_fraction=fractions,
        trainable=labels.trainable,
        notes=list(labels.notes),
    )
    return fractions
