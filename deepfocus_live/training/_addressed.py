"""Stacks of a trainer's job: read from their runs, with the labels that are stored there.

What was labelled beside the acquisition is not labelled again: the run's `weak_label` and
`undecided` are what the rule said, and its journal says which rule, of which slices, and whether
the specimen drifted. A stack that the journal says nothing of, or that another rule labelled, is
labelled anew. Slices that were never taken are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration, StackKey
from deepfocus_live.stacks import MaskStack, Stack, open_masks, open_stacks
from deepfocus_live.training._examples import Source
from deepfocus_live.training._inputs import Given, has_corrected
from deepfocus_live.training._job import StackAddress, TrainingJob
from deepfocus_live.training._label import MaskSlices, StoredLabels
from deepfocus_live.volume import CORRECTED, JOURNAL, read_journal, read_ledger

__all__ = ["gather_job"]

_WEAK_LABEL = "weak_label"
_Place = tuple[int, int, int]


def gather_job(
    job: TrainingJob,
    preset: str,
    files: contextlib.ExitStack,
    leave_out: Callable[[str], None],
) -> list[Given]:
    """Open the stacks of a job, new ones first; `files` closes them again.

    Parameters
    ----------
    job : TrainingJob
        An address that comes twice is taken once.
    preset : str
        Stored labels of another rule are not taken.
    files : ExitStack
    leave_out : callable
        Called with a line for each stack or run that cannot be opened: runs may have been moved
        since the job was written.
    """
    opened: dict[Path, _OpenRun | None] = {}
    given: dict[StackAddress, Given] = {}
    replayed = [(address, True) for address in job.replay]
    for address, replay in [*((address, False) for address in job.new), *replayed]:
        if address in given:
            continue
        try:
            if address.run not in opened:
                opened[address.run] = None  # said once of a run, not for each of its stacks
                opened[address.run] = _OpenRun(address.run, files)
            run = opened[address.run]
            if run is not None:
                given[address] = run.given(address, preset, replay)
        except (InputError, OSError) as error:
            leave_out(f"left out: {error}")
    return list(given.values())


@dataclass(frozen=True)
class _Labelled:
    """What a run's journal says of the weak labels of one stack."""

    preset: str
    taken: tuple[int, ...]
    trainable: bool


class _OpenRun:
    """One run of a job: its stacks and labels, each by (image, t, c)."""

    def __init__(self, path: Path, files: contextlib.ExitStack) -> None:
        self._path = path
        ledger = read_ledger(path)
        if not ledger.pixels_stored:
            raise InputError(f"{path}: keeps no pixels (storage.mode: masks-only): none to learn")
        self._taken = ledger.stacks
        self._run_id = ledger.spec.run_id
        self._labelled = _label_lines(path)
        self._stacks = {_place(s): files.enter_context(s) for s in open_stacks(path)}
        self._weak = self._masks(_WEAK_LABEL, files)
        self._corrected = self._masks(CORRECTED, files) if has_corrected(path) else {}

    def _masks(self, label: str, files: contextlib.ExitStack) -> dict[_Place, MaskStack]:
        return {_place(m): files.enter_context(m) for m in open_masks(self._path, label)}

    def given(self, address: StackAddress, preset: str, replay: bool) -> Given:
        place = (address.image, address.t, address.c)
        stack = self._stacks.get(place)
        taken = tuple(sorted(self._taken.get(StackKey(self._run_id, *place), ())))
        if stack is None or not taken:
            raise InputError(
                f"{self._path}: has no stack at image {place[0]}, t {place[1]}, c {place[2]}"
            )
        said = self._labelled.get(place)
        stored: StoredLabels | None = None
        if said is not None and said.preset == preset and said.taken:
            taken = said.taken
            stored = StoredLabels(_some(self._weak[place], taken), said.trainable)
        masks = self._corrected.get(place)
        return Given(
            _some_slices(stack, taken),
            None if masks is None else _some(masks, taken),
            Source(str(self._path.resolve()), stack.name),
            stored=stored,
            replay=replay,
        )


def _place(stack: Stack | MaskStack) -> _Place:
    return stack.position, stack.time, stack.channel


def _label_lines(path: Path) -> dict[_Place, _Labelled]:
    """Return what the journal says last of each stack that was labelled."""
    found: dict[_Place, _Labelled] = {}
    for line in read_journal(path / JOURNAL):
        # Damaged lines say nothing: the stack is then labelled anew.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if line["kind"] == "label":
                place = (int(line["image"]), int(line["t"]), int(line["c"]))
                found[place] = _labelled(line)
    return found


def _labelled(line: Mapping[str, Any]) -> _Labelled:
    fractions = line["in_focus_fraction"]
    taken = tuple(z for z, fraction in enumerate(fractions) if fraction is not None)
    return _Labelled(str(line["preset"]), taken, bool(line["trainable"]))


# --- some slices of a stack -----------------------------------------------------------------


class _SomeMasks:
    """Masks of some slices, as if there were no others."""

    def __init__(self, masks: MaskSlices, zs: Sequence[int]) -> None:
        self._masks = masks
        self._zs = zs
        self.name = masks.name
        self.shape = (len(zs), *masks.shape[1:])

    def __getitem__(self, z_index: int) -> NDArray[np.uint8]:
        return self._masks[self._zs[z_index]]

    def said(self, z_index: int) -> bool:
        return self._masks.said(self._zs[z_index])


class _SomeSlices:
    """Some slices of a stack, as if there were no others."""

    def __init__(self, stack: Stack, zs: Sequence[int]) -> None:
        self._stack = stack
        self._zs = zs
        self.name = stack.name
        self.dtype = stack.dtype
        self.shape = (len(zs), *stack.shape[1:])
        self.pixel_size_um: Calibration | None = stack.pixel_size_um
        self.z_step_um: Calibration | None = stack.z_step_um

    def __getitem__(self, z_index: int) -> NDArray[Any]:
        return self._stack[self._zs[z_index]]


def _some(masks: MaskSlices, zs: Sequence[int]) -> MaskSlices:
    return masks if len(zs) == masks.shape[0] else _SomeMasks(masks, zs)


def _some_slices(stack: Stack, zs: Sequence[int]) -> Stack | _SomeSlices:
    return stack if len(zs) == stack.shape[0] else _SomeSlices(stack, zs)
