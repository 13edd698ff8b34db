"""Views of whole stacks for the page, made one at a time while nothing else is to do."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from deepfocus_live import _platform
from deepfocus_live.daemon._page._catalog import RunCatalog
from deepfocus_live.daemon._page._view_making import make_projection, make_volume
from deepfocus_live.errors import InputError
from deepfocus_live.frames import StackKey
from deepfocus_live.web import InFocusVolume, NotPossibleError, Progress, Projection, ViewKind

__all__ = ["PageViews"]

log = logging.getLogger(__name__)

View = Projection | InFocusVolume
_Make = Callable[[Path, StackKey, int, Callable[[float], None]], View]

_MAKERS: Mapping[ViewKind, _Make] = {"projection": make_projection, "volume": make_volume}

_MOST_KEPT = 6
_MOST_WAITING = 8
_YIELD_S, _MOST_YIELDS = 0.05, 40


class Job(NamedTuple):
    """A stack as it is now: what is made of it holds as long as nothing is added."""

    key: StackKey
    slices: int
    masks: int
    labelled: bool


class _StoppedError(Exception):
    """The daemon ends."""


class PageViews:
    """One thread at low priority.

    Parameters
    ----------
    catalog : RunCatalog
        Knows what there is of a stack.
    busy : callable
        Whether slices or masks wait; they go first, between two slices of a view.
    """

    def __init__(
        self,
        catalog: RunCatalog,
        busy: Callable[[], bool],
        makers: Mapping[ViewKind, _Make] = _MAKERS,
    ) -> None:
        self._catalog = catalog
        self._makers = makers
        self._busy = busy
        self._changed = threading.Condition()
        self._waiting: deque[tuple[ViewKind, Job]] = deque()
        self._now: tuple[ViewKind, Job] | None = None
        self._part = 0.0
        self._made: OrderedDict[tuple[ViewKind, Job], View | NotPossibleError] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def get(self, kind: ViewKind, key: StackKey) -> View | Progress:
        """Return a view, or how far it is; the first call begins it. Never waits for it.

        Raises
        ------
        KeyError
            If there is no such stack.
        NotPossibleError
            If it cannot be made, or not yet.
        """
        wanted = kind, self._job(kind, key)
        with self._changed:
            made = self._made.get(wanted)
            if isinstance(made, NotPossibleError):
                raise made
            if made is not None:
                self._made.move_to_end(wanted)
                return made
            if wanted == self._now:
                return Progress(self._part)
            if wanted not in self._waiting:
                if len(self._waiting) >= _MOST_WAITING:
                    raise NotPossibleError("Too many stacks wait for their view: ask again later.")
                self._waiting.append(wanted)
                self._start()
            return Progress(None)

    def stop(self) -> None:
        """End the thread after the slice in hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _job(self, kind: ViewKind, key: StackKey) -> Job:
        """Return the stack as it is now, or raise why there is no view of it."""
        run, history = self._catalog.find(key.run_id), self._catalog.history(key.run_id)
        slices = history.stack(key[1:])
        if not slices:
            raise KeyError(str(key))
        masks = sum(key.placement(z) in history.masks for z in slices)
        labelled = key[1:] in history.labels
        if not run.pixels_stored:
            raise NotPossibleError("This run keeps masks only: there are no pixels to look at.")
        planned = history.images[key.image].size_z if key.image < len(history.images) else 1
        count = len(slices)
        if self._catalog.acquiring(key.run_id) and not labelled and count < planned:
            raise NotPossibleError(f"{count} of {planned} slices of this stack are stored.")
        if count < 2:
            raise NotPossibleError("One slice is not a stack.")
        if kind == "projection":
            # Made of the slices alone.
            return Job(key, count, masks=0, labelled=False)
        if not labelled and masks < count:
            raise NotPossibleError(f"{masks} of {count} masks of this stack are made.")
        return Job(key, count, masks, labelled)

    def _start(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._work, name="views", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        _platform.lower_thread_priority()
        while True:
            with self._changed:
                self._now = None
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                self._now, self._part = self._waiting.popleft(), 0.0
            try:
                made = self._try(*self._now)
            except _StoppedError:
                return
            with self._changed:
                self._made[self._now] = made
                while len(self._made) > _MOST_KEPT:
                    self._made.popitem(last=False)

    def _try(self, kind: ViewKind, job: Job) -> View | NotPossibleError:
        try:
            run = self._catalog.find(job.key.run_id)
            samples = run.spec.samples_per_pixel
            return self._makers[kind](run.path, job.key, samples, self._step)
        except _StoppedError:
            raise
        except NotPossibleError as error:
            return error
        except InputError as error:
            return NotPossibleError(str(error))
        except Exception:
            log.exception("no %s of %s for the page", kind, job.key)
            return NotPossibleError("This could not be made; see the daemon's log.")

    def _step(self, part: float) -> None:
        """Note how far it is, and let slices and masks go first, but not for ever."""
        self._part = part
        for _ in range(_MOST_YIELDS):
            with self._changed:
                if self._stopping:
                    raise _StoppedError
                if not self._busy():
                    return
                self._changed.wait(_YIELD_S)
