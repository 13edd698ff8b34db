"""What is given to learn from: stacks, hand-made masks, and how much of it fits into memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfocus_live.errors import InputError
from deepfocus_live.stacks import MaskStack, open_masks, open_stacks
from deepfocus_live.training._examples import SliceStack, Source
from deepfocus_live.training._label import MaskSlices, StoredLabels

__all__ = ["Given", "choose_slices", "fingerprint", "gather", "has_corrected", "reopen"]

_CORRECTED = "corrected"
_WHERE_LABELS_LIE = ("labels", "*/labels", "*/*/*/labels")  # an image, a collection, a plate
_LEAST_KEPT = 4  # slices of a stack that is thinned


@dataclass(frozen=True)
class Given:
    """An opened stack, its hand-made masks if there are some, and where both came from.

    `stored` is what the rule said of it before, if that is kept; `replay` says that it is learnt
    from lest it be forgotten, beside others that are new.
    """

    stack: SliceStack
    masks: MaskSlices | None = None
    source: Source | None = None
    stored: StoredLabels | None = None
    replay: bool = False

    @property
    def nbytes(self) -> int:
        """Memory of the whole stack; of 16 bit where it does not tell its type."""
        dtype = np.dtype(getattr(self.stack, "dtype", np.uint16))
        return int(np.prod(self.stack.shape)) * dtype.itemsize


def gather(
    stacks: Sequence[SliceStack | Path | str],
    pairs: Sequence[tuple[Path | str, Path | str]],
    files: contextlib.ExitStack,
) -> list[Given]:
    """Open everything that was given; `files` closes it again.

    Parameters
    ----------
    stacks : sequence of stacks or paths
        Of a path with `labels/corrected` these are used by themselves.
    pairs : sequence of (path, path)
        Stacks and their hand-made masks, as `open_stacks` and `open_masks` read them. A path that
        is among `stacks` too is taken once, with the masks of the pair.

    Raises
    ------
    InputError
        If something cannot be opened, or a pair holds more stacks than masks or fewer.
    """
    given: list[Given] = []
    for image, masks in pairs:
        given += _pair(Path(image), Path(masks), files)
    paired = {_key(image) for image, _ in pairs}
    for stack in stacks:
        if not isinstance(stack, (str, Path)):
            given.append(Given(stack))
        elif _key(stack) not in paired:
            paired.add(_key(stack))
            given += _opened(Path(stack), files)
    return given


def reopen(source: Source, files: contextlib.ExitStack) -> Given | None:
    """Return a stack that was held out once; None where it is no longer there.

    Raises
    ------
    InputError
        If it is there and cannot be opened.
    """
    path = Path(source.path)
    if not path.exists():
        return None
    masks = None if source.masks is None else Path(source.masks)
    if masks is not None and masks.exists():
        found = _pair(path, masks, files)
    else:
        found = _opened(path, files)
    return next((one for one in found if one.stack.name == source.stack), None)


def _pair(image: Path, masks: Path, files: contextlib.ExitStack) -> list[Given]:
    stacks = [files.enter_context(stack) for stack in open_stacks(image)]
    drawn = [files.enter_context(mask) for mask in open_masks(masks)]
    if len(stacks) != len(drawn):
        raise InputError(
            f"{masks}: holds masks of {len(drawn)} stacks, {image} holds {len(stacks)}; give one "
            "--pair for each stack"
        )
    return [
        Given(stack, mask, Source(str(image.resolve()), stack.name, str(masks.resolve())))
        for stack, mask in zip(stacks, drawn, strict=True)
    ]


def _opened(path: Path, files: contextlib.ExitStack) -> list[Given]:
    stacks = [files.enter_context(stack) for stack in open_stacks(path)]
    drawn: list[MaskStack] = []
    if has_corrected(path):
        drawn = [files.enter_context(mask) for mask in open_masks(path, _CORRECTED)]
    # Both come in order of position, time and channel.
    masks: Sequence[MaskStack | None] = drawn or [None] * len(stacks)
    source = str(path.resolve())
    return [
        Given(stack, mask, Source(source, stack.name))
        for stack, mask in zip(stacks, masks, strict=True)
    ]


def has_corrected(path: Path) -> bool:
    """Return whether a folder is an OME-Zarr, or a run, with a label `corrected`."""
    if not path.is_dir():
        return False
    volume = path / "volume.ome.zarr"
    home = volume if volume.is_dir() else path
    return any(any(home.glob(f"{where}/{_CORRECTED}")) for where in _WHERE_LABELS_LIE)


def choose_slices(
    given: Sequence[Given], most_bytes: float, random: np.random.Generator
) -> list[list[int] | None]:
    """Return which slices of each stack to hold in memory; None: all of them.

    A random choice of the same share of every stack where they do not fit together, those with
    hand-made masks first; nothing of the stacks that do not fit even so.
    """
    total = sum(one.nbytes for one in given)
    if total <= most_bytes:
        return [None] * len(given)
    share, room = most_bytes / total, float(most_bytes)
    choice: list[list[int] | None] = [[] for _ in given]
    order = random.permutation(len(given))
    for index in sorted(order, key=lambda i: given[i].masks is None):
        one, count = given[index], given[index].stack.shape[0]
        wanted = min(count, max(_LEAST_KEPT, int(share * count)))
        fits = int(room // (one.nbytes / count))
        choice[index] = _some_slices(one, min(wanted, fits), random)
        room -= len(choice[index] or ()) * one.nbytes / count
    return choice


def _some_slices(one: Given, count: int, random: np.random.Generator) -> list[int]:
    z = random.permutation(one.stack.shape[0])
    masks = one.masks
    if masks is not None:
        z = np.array(sorted(z, key=lambda i: not masks.said(int(i))))
    return sorted(int(i) for i in z[:count])


def fingerprint(
    stacks: Sequence[SliceStack | Path | str],
    pairs: Sequence[tuple[Path | str, Path | str]],
    settings: Mapping[str, Any],
) -> str:
    """Return a checksum of what is learnt from and how: paths, sizes, times, settings."""
    described = {
        "stacks": [_described(stack) for stack in stacks],
        "pairs": [[_described(image), _described(masks)] for image, masks in pairs],
        "settings": dict(settings),
    }
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _described(stack: SliceStack | Path | str) -> list[Any]:
    if isinstance(stack, (str, Path)):
        files = [(file.stat().st_size, file.stat().st_mtime_ns) for file in _files(Path(stack))]
        newest = max((time for _, time in files), default=0)
        return [_key(stack), len(files), sum(size for size, _ in files), newest]
    first = np.ascontiguousarray(stack[0])
    return [stack.name, list(stack.shape), zlib.crc32(first.tobytes())]


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path] if path.exists() else []
    return (Path(root) / name for root, _, names in os.walk(path) for name in names)


def _key(path: Path | str) -> str:
    return str(Path(path).resolve())
