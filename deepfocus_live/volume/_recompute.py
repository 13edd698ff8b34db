"""Masks of a whole run made again, by another model, as a label of their own beside the live ones.

Design Notes
------------
The label of an image is made aside, slice by slice, synced, and gets its name when it is whole; it
is then listed, so the run is valid at every moment. The journal line comes last, when all images
have theirs. Who is killed on the way leaves a valid run and, aside, at most one image's half label
under a name that `recover` knows: done again, the images that are whole are not made once more.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement
from deepfocus_live.volume._folder import JOURNAL, lock_run
from deepfocus_live.volume._journal import Journal, read_journal
from deepfocus_live.volume._layout import create_label, list_label, open_levels
from deepfocus_live.volume._ledger import Ledger, read_ledger
from deepfocus_live.volume._plate import image_path
from deepfocus_live.volume._pyramid import halve_labels
from deepfocus_live.volume._run_layout import STORES, layouts_of, slice_at
from deepfocus_live.volume._store import sync_tree

__all__ = ["MASKS_OF", "Recomputed", "recompute_masks", "recomputed_label"]

MASKS_OF = "in_focus_"
"""How the names of labels begin that hold masks of one model of a whole run."""

_KIND = "recomputed"
_VOLUME = STORES[0]


@dataclass(frozen=True)
class Recomputed:
    """What was made.

    Attributes
    ----------
    label : str
    slices : int
        That have masks in it.
    made : int
        How many of them were made now; the others were there.
    in_focus_fraction : float or None
        Mean over what was made now, 0..1; None where nothing was.
    """

    label: str
    slices: int
    made: int
    in_focus_fraction: float | None


def recomputed_label(version: str) -> str:
    """Return what the label with the masks of a model version is called."""
    return MASKS_OF + (re.sub(r"[^\w.-]+", "-", version).strip("-.") or "model")


def recompute_masks(
    run: Path,
    version: str,
    mask_of: Callable[[NDArray[Any]], NDArray[np.uint8]],
    *,
    about: Mapping[str, Any] | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> Recomputed:
    """Write the masks of every slice of a run as the label `in_focus_<version>` of its images.

    The live masks stay as they are. What an earlier call has made is not made again.

    Parameters
    ----------
    run : Path
        Run directory that no process has open and whose acquisition has ended.
    version : str
        Of the model.
    mask_of : callable
        Returns the mask (Y, X) of 0 and 1 of a slice, (Y, X), of a colour camera (3, Y, X).
    about : mapping, optional
        What else to say in the journal's line.
    advance : callable
        Called with a few words after each slice.

    Raises
    ------
    InputError
        If the run is written by a process, has no end, no slices or no pixels, or the disk
        refuses; what was whole by then stays.
    """
    _refuse_unfinished(read_ledger(run))  # no lock is made in what is no run
    try:
        lock = lock_run(run)
        try:
            ledger = read_ledger(run)
            _refuse_unfinished(ledger)
            return _Recomputer(ledger, recomputed_label(version), mask_of, advance).make(
                {"model": version, **(about or {})}
            )
        finally:
            lock.release()
    except OSError as error:
        raise InputError(
            f"{run}: no masks can be written into it: {error.strerror or error}. Its live masks "
            "are as they were; the same command goes on from here."
        ) from None


def _refuse_unfinished(ledger: Ledger) -> None:
    """Leave a run alone that is not finished, or has nothing to look at."""
    run = ledger.path
    if ledger.ended is None:
        raise InputError(
            f"{run}: its acquisition has not ended: wait for it, or "
            f"`deepfocus-live recover {run.name}` where its daemon was killed."
        )
    if not ledger.pixels_stored:
        raise InputError(
            f"{run}: its pixels were not stored (storage.mode: masks-only): segment the images "
            "that your own software saved, with -o."
        )
    if not ledger.frames:
        raise InputError(f"{run}: has no slices, so nothing to segment.")


class _Recomputer:
    """One label of a run that this process has locked."""

    def __init__(
        self,
        ledger: Ledger,
        label: str,
        mask_of: Callable[[NDArray[Any]], NDArray[np.uint8]],
        advance: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._label = label
        self._mask_of = mask_of
        self._advance = advance
        self._store = LocalStore(ledger.path / _VOLUME)
        self._shares: list[float] = []

    def make(self, about: Mapping[str, Any]) -> Recomputed:
        for number in range(len(self._ledger.images)):
            self._make_image(number)
        made = Recomputed(
            self._label,
            len(self._ledger.frames),
            len(self._shares),
            float(np.mean(self._shares)) if self._shares else None,
        )
        if not self._journalled():
            self._enter({"label": self._label, "slices": made.slices, **about})
        return made

    def _enter(self, line: Mapping[str, Any]) -> None:
        errors: list[BaseException | None] = []
        journal = Journal(self._ledger.path / JOURNAL, sync=True)
        journal.append({"kind": _KIND, "at": round(time.time(), 3), **line}, errors.append)
        journal.close()
        for error in errors:
            if error is not None:
                raise error

    def _journalled(self) -> bool:
        lines = read_journal(self._ledger.path / JOURNAL)
        return any((line.get("kind"), line.get("label")) == (_KIND, self._label) for line in lines)

    def _make_image(self, number: int) -> None:
        image = image_path(self._ledger.images[number], number)
        labels = f"{image}/labels"
        folder = self._ledger.path / _VOLUME / labels / self._label
        if not folder.exists():
            self._make_aside(number, image, folder)
        list_label(self._store, labels, self._label)

    def _make_aside(self, number: int, image: str, folder: Path) -> None:
        # A name that `recover` knows for half-written.
        aside = self._ledger.path / _VOLUME / f".{number}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self._fill(number, image, aside)
            sync_tree(aside)
            _platform.replace(aside, folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _platform.sync_directory(folder.parent)

    def _fill(self, number: int, image: str, aside: Path) -> None:
        ledger = self._ledger
        raw = open_levels(self._store, image)[0]
        layout, _ = layouts_of(ledger.spec, ledger.images[number], codec="none")
        t, _, z, y, x = raw.shape
        # A label has one channel for the three of a colour camera.
        shape = t, len(ledger.spec.channels), z, y, x
        create_label(self._store, aside.name, self._label, replace(layout, shape=shape))
        levels = open_levels(self._store, aside.name)
        for placement in self._slices_of(number):
            mask = self._mask_of(
                np.asarray(raw[slice_at(placement, ledger.spec.samples_per_pixel)])
            )
            self._shares.append(float(mask.mean()))
            for level in levels:
                level[placement[1:]] = mask
                mask = halve_labels(mask)
            self._advance(f"segmenting {ledger.images[number].name}")

    def _slices_of(self, number: int) -> list[Placement]:
        return sorted(at for at, _ in self._ledger.frames.values() if at.image == number)
