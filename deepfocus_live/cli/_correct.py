"""`correct`: hand-corrected masks back into a run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    from deepfocus_live.frames import StackKey
    from deepfocus_live.stacks import MaskStack
    from deepfocus_live.volume import Correction, Ledger

__all__ = ["register"]

_UNDECIDED = 2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(correct)


def correct(
    run: Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN")],
    masks: Annotated[
        Path,
        typer.Argument(
            help="TIFF, folder of images, Zarr array (anything but 0 is in focus), OME-Zarr.",
            metavar="MASKS",
        ),
    ],
    image: Annotated[
        str | None, typer.Option(help="Which image, of several.", metavar="NAME|N")
    ] = None,
    t: Annotated[int | None, typer.Option("--t", help="Which time point, from 0.")] = None,
    channel: Annotated[
        str | None, typer.Option(help="Which channel, of several.", metavar="NAME|N")
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(help="Slices you looked at, from 0, as 3,5-9; by default all.", metavar="Z"),
    ] = None,
    reviewed: Annotated[
        Path | None,
        typer.Option(help="Masks that are not 0 where you looked.", metavar="REVIEWED"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--replace", help="Replace earlier corrections of these slices.")
    ] = False,
) -> None:
    """Take hand-corrected masks of one focal stack into its run, as the label `corrected`.

    MASKS are of the stack, or of all stacks of its image. The live masks stay as they are.

    Only runs are corrected so: to learn from masks of other stacks, `retrain --pair`.
    """
    from deepfocus_live.volume import correct_stack, open_run, read_ledger

    if slices is not None and reviewed is not None:
        raise InputError("--slices and --reviewed both say where you looked: give one of them.")
    ledger = read_ledger(run)
    key = _stack_of(ledger, image, t, channel)
    # A run has one channel count, but each image its own times and slices.
    shape = open_run(run).images[key.image].image.shape
    with contextlib.ExitStack() as files:
        drawn = _own_masks(masks, key, shape, files)
        looked = None if reviewed is None else _own_masks(reviewed, key, shape, files)
        taken = sorted(ledger.stacks[key])
        zs = _slices_given(slices, shape[2]) if slices is not None else _said(taken, drawn, looked)
        for note in drawn.notes:
            typer.echo(f"{masks.name}: {note}", err=True)
        if not zs:
            raise InputError(f"{reviewed or masks}: says nothing of any slice that was taken.")
        about = {"file": masks.name, **({"reviewed": reviewed.name} if reviewed else {})}
        read = _reader(drawn, looked)
        found = correct_stack(run, key, read, zs, about=about, overwrite=overwrite)
    typer.echo(f"{_words(ledger, key)}: {_outcome(found)}")


# ------------------------------------------------------------- which stack


def _stack_of(ledger: Ledger, image: str | None, t: int | None, channel: str | None) -> StackKey:
    """Return the one stack of a run that is meant."""
    images = [spec.name for spec in ledger.images]
    channels = [spec.name for spec in ledger.spec.channels]
    keys = sorted(
        key
        for key in ledger.stacks
        if _is_meant(key.image, image, images)
        and t in (None, key.t)
        and _is_meant(key.c, channel, channels)
    )
    if len(keys) == 1:
        return keys[0]
    if keys:
        asked = {"--image": "image", "--t": "t", "--channel": "c"}
        several = [
            option for option, axis in asked.items() if len({getattr(k, axis) for k in keys}) > 1
        ]
        raise InputError(
            f"{ledger.path}: that may be any of {len(keys)} stacks, from {_words(ledger, keys[0])} "
            f"to {_words(ledger, keys[-1])}: say which with {' '.join(several)}."
        )
    there = sorted(ledger.stacks)
    if not there:
        raise InputError(f"{ledger.path}: has no slices, so nothing to correct.")
    raise InputError(
        f"{ledger.path}: has no such stack; its {len(there)} are from {_words(ledger, there[0])} "
        f"to {_words(ledger, there[-1])}."
    )


def _is_meant(number: int, asked: str | None, names: Sequence[str]) -> bool:
    """Return whether a name or number means this one; names go first."""
    if asked is None or asked in names:
        return asked is None or names[number] == asked
    return asked == str(number)


def _words(ledger: Ledger, key: StackKey) -> str:
    """Return how a person calls a stack."""
    channel = ledger.spec.channels[key.c].name
    return f"image {key.image} ({ledger.images[key.image].name}), t {key.t}, {channel}"


# ------------------------------------------------------------- which masks


@dataclass(frozen=True)
class _Masks:
    """The part of a file's masks that is about one stack."""

    all: MaskStack
    first: int

    @property
    def notes(self) -> tuple[str, ...]:
        return self.all.notes

    def said(self, z: int) -> bool:
        return self.all.said(self.first + z)

    def __getitem__(self, z: int) -> NDArray[np.uint8]:
        return self.all[self.first + z]


def _own_masks(
    path: Path, key: StackKey, shape: Sequence[int], files: contextlib.ExitStack
) -> _Masks:
    """Return the masks of one stack; a file holds those, or of its whole image or run.

    Raises
    ------
    InputError
        If they cannot be opened, or are of another size or number of slices.
    """
    from deepfocus_live.stacks import open_masks

    found = [files.enter_context(mask) for mask in open_masks(path)]
    n_t, n_c, n_z, *_ = shape
    several = len({mask.position for mask in found}) > 1
    own = [mask for mask in found if not several or mask.position == key.image]
    number = key.t * n_c + key.c
    if len(own) == n_t * n_c:
        mask, first = own[number], 0
    elif len(own) == 1:
        mask, first = own[0], 0
    else:
        raise InputError(
            f"{path}: holds masks of {len(found)} stacks, the image of the run has {n_t * n_c}: "
            "give those of the stack alone."
        )
    if len(own) == 1 and mask.shape[0] == n_t * n_c * n_z:
        # All planes of the image in order, as napari saves a layer of it.
        first = number * n_z
    elif mask.shape[0] != n_z:
        raise _other_size(path, mask, shape)
    if mask.shape[1:] != tuple(shape[3:]):
        raise _other_size(path, mask, shape)
    return _Masks(mask, first)


def _other_size(path: Path, mask: MaskStack, shape: Sequence[int]) -> InputError:
    return InputError(
        f"{path}: masks are {_size(mask.shape)}, the stack is {_size(shape[2:])} (Z × Y × X): "
        "give masks of all its slices, neither cropped nor scaled."
    )


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


# ------------------------------------------------------------ which slices


def _slices_given(given: str, count: int) -> list[int]:
    """Return the slices that `3,5-9` names."""
    zs: set[int] = set()
    for part in given.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InputError(f"--slices {given}: name slices as 3,5-9.")
        if last >= count:
            raise InputError(f"--slices {given}: the stack has slices 0 to {count - 1}.")
        zs.update(range(first, last + 1))
    return sorted(zs)


def _said(taken: Iterable[int], drawn: _Masks, looked: _Masks | None) -> list[int]:
    """Return the slices that a person looked at, where nobody named them."""
    return [z for z in taken if (drawn.said(z) if looked is None else bool(looked[z].any()))]


def _reader(drawn: _Masks, looked: _Masks | None) -> Callable[[int], NDArray[np.uint8]]:
    def read(z: int) -> NDArray[np.uint8]:
        mask = drawn[z]
        if looked is not None:
            mask[looked[z] == 0] = _UNDECIDED
        return mask

    return read


def _outcome(found: Correction) -> str:
    from deepfocus_live.volume import spell_slices

    one = len(found.slices) == 1
    said = f"{'slice' if one else 'slices'} {spell_slices(found.slices)} corrected"
    if found.pixels_changed is None:
        return f"{said}; no live masks to compare with"
    share = 100 * found.pixels_changed / max(1, found.pixels_compared)
    return f"{said}; {found.pixels_changed} pixels ({share:.2f} %) differ from the live masks"
