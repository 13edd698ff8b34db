"""Hand-corrected masks: the label `corrected` of a run, which only a person's masks go into.

Design Notes
------------
What a pixel means is what retraining, comparing and exporting read: 0 not in focus, 1 in focus, 2
undecided; a slice of nothing but zeros has not been corrected. A slice in which a person found
nothing in focus would be such a one: its first pixel is called undecided, which carries no weight
and is there at every level of the pyramid. What a person did not look at within a slice is
undecided too.

A person's work cannot be computed again, so all of it is synced, whatever the run promises of its
slices. The label appears whole and is then listed; each slice is replaced by a rename; the journal
line comes last. What the disk refuses on the way is undone: the label is then as it was. A process
that is killed on the way leaves whole slices, old or new, and no line.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.volume._chunks import chunk_path
from deepfocus_live.volume._folder import JOURNAL, lock_run
from deepfocus_live.volume._journal import Journal
from deepfocus_live.volume._layout import ImageLayout, create_label, list_label, open_levels, resize
from deepfocus_live.volume._ledger import Ledger, read_ledger
from deepfocus_live.volume._plate import image_path
from deepfocus_live.volume._pyramid import halve_labels
from deepfocus_live.volume._run_layout import CORRECTED, STORES, layouts_of
from deepfocus_live.volume._store import DurableStore, sync_tree, write_atomically

__all__ = ["Correction", "correct_stack", "spell_slices"]

_IN_FOCUS, _UNDECIDED = 1, 2
_VOLUME = STORES[0]
Mask = NDArray[np.uint8]
Levels = list["zarr.Array[Any]"]


@dataclass(frozen=True)
class Correction:
    """What a person's masks changed.

    Attributes
    ----------
    slices : tuple of int
        z of the slices that were corrected.
    pixels_changed : int or None
        How many pixels are decided otherwise than in the live masks; None where no slice has one.
    pixels_compared : int
        How many pixels were decided in slices that have a live mask.
    """

    slices: tuple[int, ...]
    pixels_changed: int | None
    pixels_compared: int


def correct_stack(
    run: Path,
    key: StackKey,
    read: Callable[[int], Mask],
    slices: Sequence[int],
    *,
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> Correction:
    """Write a person's masks of one focal stack as the label `corrected` of its image.

    Slices that are not named keep what was said of them before; the live masks stay as they are.

    Parameters
    ----------
    run : Path
        Run directory that no process has open and whose acquisition has ended.
    key : StackKey
        Which stack of it.
    read : callable
        Returns the mask of the slice at a z, (Y, X) uint8: 0 not in focus, 1 in focus, 2
        undecided or not looked at. Called twice for each slice.
    slices : sequence of int
        z of the slices that a person looked at.
    about : mapping
        What else to say in the journal's line, as the name of the file.
    overwrite : bool
        Whether slices that were corrected before may be replaced.

    Returns
    -------
    Correction
        What the masks say otherwise than the live ones.

    Raises
    ------
    InputError
        If the run is written by a process or has no end, a slice was never taken or is corrected
        already, a mask has another size, or the disk refuses.
    """
    read_ledger(run)  # no lock is made in what is no run
    try:
        lock = lock_run(run)
        try:
            return _Corrector(read_ledger(run), key).correct(read, slices, about, overwrite)
        finally:
            lock.release()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{run}: cannot be corrected: {reason}. The masks in it are as they were."
        ) from None


class _Corrector:
    """One stack of a run that this process has locked."""

    def __init__(self, ledger: Ledger, key: StackKey) -> None:
        if ledger.ended is None:
            raise InputError(
                f"{ledger.path}: nobody wrote how its acquisition ended: "
                f"`deepfocus-live recover {ledger.path.name}` first."
            )
        self._ledger = ledger
        self._run = ledger.path
        self._key = key
        self._store = DurableStore(self._run / _VOLUME)
        self._image = image_path(ledger.images[key.image], key.image)
        self._group = f"{self._image}/labels/{CORRECTED}"
        t, _, z, y, x = open_levels(self._store, self._image)[0].shape
        # A label has one channel for the three of a colour camera.
        self._shape = t, len(ledger.spec.channels), z, y, x

    def correct(
        self,
        read: Callable[[int], Mask],
        slices: Sequence[int],
        about: Mapping[str, Any],
        overwrite: bool,
    ) -> Correction:
        zs = sorted(set(slices))
        self._refuse_untaken(zs)
        if not overwrite:
            self._refuse_corrected(zs)
        # All are read, and what is wrong with one is said, before anything is written.
        found = self._compare(zs, read)
        levels = self._open_label()
        with _undone_on_error(self._chunk_paths(zs, len(levels))):
            for z in zs:
                self._write(levels, z, read(z))
            self._enter(found, about)
        return found

    def _refuse_untaken(self, zs: Sequence[int]) -> None:
        untaken = set(zs) - self._ledger.stacks.get(self._key, set())
        if untaken:
            raise InputError(
                f"{self._run}: has no {_slices(untaken)} in this stack: leave out what was "
                "never taken."
            )

    def _refuse_corrected(self, zs: Sequence[int]) -> None:
        if not self._has_label():
            return
        finest = self._checked_levels()[0]
        t, z_count = finest.shape[0], finest.shape[2]
        # A label that was made before the run grew is shorter than its image.
        held = [z for z in zs if self._key.t < t and z < z_count]
        before = [z for z in held if np.any(finest[self._key.placement(z)[1:]])]
        if before:
            raise InputError(
                f"{self._run}: {_slices(before)} of this stack {_are(before)} corrected already: "
                "give --replace, or name others with --slices."
            )

    def _compare(self, zs: Sequence[int], read: Callable[[int], Mask]) -> Correction:
        ledger = self._ledger
        masked = {ledger.frames[n][0] for n in ledger.masked if n in ledger.frames}
        live = open_levels(self._store, f"{self._image}/labels/in_focus")[0]
        changed: int | None = None
        compared = 0
        for z in zs:
            mask, placement = read(z), self._key.placement(z)
            if mask.shape != self._shape[3:]:
                raise InputError(
                    f"{self._run}: slices are {_size(self._shape[3:])} pixels, the mask of slice "
                    f"{z} is {_size(mask.shape)}."
                )
            if placement in masked:
                decided = mask != _UNDECIDED
                differs = (mask == _IN_FOCUS) != (np.asarray(live[placement[1:]]) != 0)
                changed = (changed or 0) + int(np.count_nonzero(differs & decided))
                compared += int(np.count_nonzero(decided))
        return Correction(tuple(zs), changed, compared)

    # ---------------------------------------------------------------- label

    def _has_label(self) -> bool:
        folder = self._run / _VOLUME / self._group
        if folder.exists() and not (folder / "zarr.json").is_file():
            raise self._not_ours()
        return folder.exists()

    def _not_ours(self) -> InputError:
        return InputError(
            f"{self._run}: its label {CORRECTED} is damaged, or of another program and laid out "
            f"otherwise: move {_VOLUME}/{self._group} out of the run, and give it as MASKS."
        )

    def _layout(self) -> ImageLayout:
        planned = self._ledger.images[self._key.image]
        layout, _ = layouts_of(self._ledger.spec, planned, codec="none")
        return replace(layout, shape=self._shape)

    def _checked_levels(self) -> Levels:
        """Return the arrays of a label that is there."""
        wanted = [(1, 1, 1, *shape[3:]) for shape in self._layout().level_shapes]
        levels = open_levels(self._store, self._group)
        if [level.chunks for level in levels] != wanted or levels[0].dtype != np.uint8:
            raise self._not_ours()
        return levels

    def _open_label(self) -> Levels:
        if not self._has_label():
            self._create_label()
        list_label(self._store, f"{self._image}/labels", CORRECTED)
        levels = self._checked_levels()
        resize(levels, t=self._shape[0], z=self._shape[2])
        return levels

    def _create_label(self) -> None:
        store = self._run / _VOLUME
        # A name that `recover` knows for half-written.
        aside = store / f".{self._key.image}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            create_label(LocalStore(store), aside.name, CORRECTED, self._layout())
            sync_tree(aside)
            _platform.replace(aside, store / self._group)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _platform.sync_directory((store / self._group).parent)

    def _chunk_paths(self, zs: Sequence[int], levels: int) -> list[Path]:
        image = self._ledger.folder(self._key.image)
        return [
            chunk_path(image, f"labels/{CORRECTED}/{level}", self._key.placement(z))
            for z in zs
            for level in range(levels)
        ]

    def _write(self, levels: Levels, z: int, mask: Mask) -> None:
        placement: Placement = self._key.placement(z)
        if not mask.any():
            mask = mask.copy()
            mask[0, 0] = _UNDECIDED
        for level in levels:
            level[placement[1:]] = mask
            mask = halve_labels(mask)

    def _enter(self, found: Correction, about: Mapping[str, Any]) -> None:
        """Write the journal's line."""
        line = {
            "kind": CORRECTED,
            "at": round(time.time(), 3),
            **{axis: getattr(self._key, axis) for axis in ("image", "t", "c")},
            "slices": list(found.slices),
            "pixels_changed": found.pixels_changed,
            **about,
        }
        errors: list[BaseException | None] = []
        journal = Journal(self._run / JOURNAL, sync=True)
        journal.append(line, errors.append)
        journal.close()
        for error in errors:
            if error is not None:
                raise error


@contextlib.contextmanager
def _undone_on_error(paths: Iterable[Path]) -> Iterator[None]:
    """Let files be as they were when the block fails. They are compressed masks, so small."""
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, data in before.items():
            with contextlib.suppress(OSError):
                if data is None:
                    path.unlink(missing_ok=True)
                elif path.read_bytes() != data:
                    write_atomically(path, data, sync=True)
        raise


# ------------------------------------------------------------------- words


def spell_slices(slices: Iterable[int]) -> str:
    """Return numbers of slices as a person writes them, as `3, 5-9`."""
    runs: list[list[int]] = []
    for z in sorted(slices):
        if runs and z == runs[-1][-1] + 1:
            runs[-1][1:] = [z]
        else:
            runs.append([z])
    return ", ".join("-".join(map(str, ends)) for ends in runs)


def _slices(zs: Iterable[int]) -> str:
    zs = list(zs)
    return f"{'slice' if len(zs) == 1 else 'slices'} {spell_slices(zs)}"


def _are(zs: Sequence[int]) -> str:
    return "is" if len(zs) == 1 else "are"


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
