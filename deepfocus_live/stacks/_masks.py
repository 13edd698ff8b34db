"""From a path to in-focus masks: mask images, or a label of an OME-Zarr.

What a pixel value means depends on where the masks come from; only this file knows:

- *mask images* (TIFF, folder of images, Zarr array): 0 is not in focus, anything else is;
- *a label* of an OME-Zarr: the same, and of `weak_label` the label `undecided` says where the
  rule would not say;
- *the label* `corrected`: 0 not in focus, 1 in focus, 2 undecided, and a slice that holds
  nothing but zeros has not been corrected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration
from deepfocus_live.stacks._names import path_stem
from deepfocus_live.stacks._open import open_stacks
from deepfocus_live.stacks._stack import Stack

__all__ = ["MaskStack", "open_masks"]

CORRECTED, UNDECIDED = "corrected", "undecided"
_PREFERRED = (CORRECTED, "in_focus", "weak_label")
_UNDECIDED_BESIDE = "weak_label"  # the one label that has a second one for its doubts


class MaskStack:
    """In-focus masks of one stack: (Z, Y, X), lazily read. Made by `open_masks`.

    Slices are read from disk each time they are asked for; nothing is kept. As with a
    `Stack`: `close` it, use it in a ``with`` block, or let it go out of scope.

    Attributes
    ----------
    name : str
        Unique among the stacks of one path, as of a `Stack`.
    path : Path
        What the user named.
    label : str or None
        Which label of an OME-Zarr; None for mask images.
    shape : (int, int, int)
        (Z, Y, X).
    position, time, channel : int
        Which of those at the path, from 0.
    pixel_size_um, z_step_um : Calibration or None
        None where the file says nothing.
    image : Stack or None
        What the masks were made of, where it lies in the same OME-Zarr.
    notes : tuple of str
        What was assumed or contradicted in the file, a line each.
    """

    def __init__(
        self,
        mask: Stack,
        *,
        label: str | None = None,
        undecided: Stack | None = None,
        image: Stack | None = None,
    ) -> None:
        described = image or mask
        self.name = described.name
        self.path = described.path
        self.label = label
        self.shape = mask.shape
        self.position, self.time = described.position, described.time
        self.channel = described.channel
        self.pixel_size_um: Calibration | None = described.pixel_size_um
        self.z_step_um: Calibration | None = described.z_step_um
        self.image = image
        self.notes: tuple[str, ...] = described.notes
        self._mask = mask
        self._undecided = undecided

    def __repr__(self) -> str:
        return f"<MaskStack {self.name!r} {self.label or 'images'} {self.shape}>"

    def __len__(self) -> int:
        """Return the number of slices."""
        return self.shape[0]

    def __getitem__(self, z_index: int) -> NDArray[np.uint8]:
        """Read the mask of one slice.

        Parameters
        ----------
        z_index : int
            Negative counts from the end.

        Returns
        -------
        (Y, X) uint8
            0 not in focus, 1 in focus, 2 undecided; the caller's own copy.

        Raises
        ------
        IndexError
            If there is no such slice.
        InputError
            If it cannot be read or is no mask.
        """
        plane = self._mask[z_index]
        if self.label == CORRECTED:
            return self._as_corrected(plane, z_index)
        if self.label is None:
            self._check_is_mask(plane, z_index)
        states: NDArray[np.uint8] = (plane != 0).astype(np.uint8)
        if self._undecided is not None:
            states[self._undecided[z_index] != 0] = 2
        return states

    def said(self, z_index: int) -> bool:
        """Return whether anybody said what is in focus in a slice.

        False for a slice of the label `corrected` that nobody has corrected (only zeros), True
        for every slice of anything else.

        Raises
        ------
        IndexError
            If there is no such slice.
        InputError
            If it has to be read for that and cannot be.
        """
        if not -len(self) <= z_index < len(self):
            raise IndexError(f"{self.name} has slices 0 to {len(self) - 1}, not {z_index}")
        return self.label != CORRECTED or bool(self[z_index].any())

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Read mask after mask, one in memory at a time."""
        return (self[z] for z in range(len(self)))

    def close(self) -> None:
        """Close the files, which Windows needs before they can be moved or deleted."""
        for stack in (self._mask, self._undecided, self.image):
            if stack is not None:
                stack.close()

    def __enter__(self) -> MaskStack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _as_corrected(self, plane: NDArray[Any], z: int) -> NDArray[np.uint8]:
        highest = plane.max()
        if not highest <= 2:
            raise InputError(
                f"{self.path}: slice {z} of the label {CORRECTED} has the value {highest:g}; "
                "use 0 not in focus, 1 in focus, 2 undecided"
            )
        states: NDArray[np.uint8] = plane.astype(np.uint8)
        return states

    def _check_is_mask(self, plane: NDArray[Any], z: int) -> None:
        # Everything in focus is one value. A camera's slice has many, and hardly ever a zero:
        # taken for a mask it would be all in focus, and nobody would notice.
        low, high = plane.min(), plane.max()
        if 0 < low < high:
            raise InputError(
                f"{self.path}: slice {z} has values {low} to {high} and no 0: that is an image, "
                "not a mask; give masks with 0 where it is not in focus"
            )


def open_masks(
    path: str | Path, label: str | None = None, *, preferred: Sequence[str] = _PREFERRED
) -> list[MaskStack]:
    """Open the in-focus masks that a path holds: one `MaskStack` per position, time and channel.

    Only headers are read (and the label `corrected`, up to its first slice that says something);
    masks come when they are asked for.

    Parameters
    ----------
    path : str or Path
        Mask images: a TIFF, a folder with one image per slice, or a Zarr array (Z, Y, X), in
        which anything but 0 is in focus. Or an OME-Zarr with labels, a run directory, or one
        label's own folder.
    label : str or None
        Which label of an OME-Zarr or run directory. None: the first of `preferred` that there
        is in any of its images; `corrected` only where it says something.
    preferred : sequence of str
        Labels to take by themselves, best first.

    Returns
    -------
    list of MaskStack
        At least one, in order of position, time and channel, as `open_stacks` has them.

    Raises
    ------
    InputError
        If there is nothing at `path`, it holds no masks, or it has no such label; one line that
        says what to do.
    """
    path = Path(path)
    volume = _volume(path)
    if volume is None or _is_label(volume):
        if label is not None:
            raise InputError(f"{path}: holds masks and no labels: name no label, or its OME-Zarr")
        array = None if volume is None else _bare_array(volume)
        stacks = open_stacks(path) if array is None else [array]
        name = path.resolve().name if array is None and volume is not None else None
        return [MaskStack(_whole_numbers(stack), label=name) for stack in stacks]
    return _labels_of_images(path, volume, label, preferred)


def _volume(path: Path) -> Path | None:
    """Return the Zarr node that `path` is or holds; None where it is mask images."""
    from deepfocus_live.stacks._zarr import is_zarr

    if not path.is_dir():
        return None
    if is_zarr(path):
        return path
    volume = path / "volume.ome.zarr"
    return volume if volume.is_dir() else None


def _is_label(node: Path) -> bool:
    """Return whether a Zarr node is itself masks: a label's group, or an array."""
    from deepfocus_live.stacks._zarr import ome_attributes

    return _is_array(node) or "image-label" in ome_attributes(node)


def _is_array(node: Path) -> bool:
    if (node / ".zarray").is_file():
        return True
    try:
        described: Any = json.loads((node / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whatever opens it next says what is wrong
    return isinstance(described, Mapping) and described.get("node_type") == "array"


def _bare_array(node: Path) -> Stack | None:
    """Return a Zarr array as a stack of 0 and 1; None for a group."""
    if not _is_array(node):
        return None
    import zarr  # slow to import

    try:
        array = zarr.open_array(str(node), mode="r")
    except Exception as error:  # zarr raises several kinds, by version and by damage
        raise InputError(f"{node}: is not a Zarr array ({error}): write it again") from error
    shape = array.shape
    if len(shape) < 3 or any(side != 1 for side in shape[:-3]) or shape[-3] < 2:
        raise InputError(
            f"{node}: is an array of shape {shape}; masks are (Z, Y, X) with at least 2 slices"
        )
    if array.dtype.kind not in "biu":
        raise InputError(
            f"{node}: {array.dtype} pixels are no mask; threshold them, and save as uint8 with 0 "
            "where it is not in focus"
        )
    first = (0,) * (len(shape) - 3)

    def read(z: int) -> NDArray[np.uint8]:
        mask: NDArray[np.uint8] = (np.asarray(array[(*first, z)]) != 0).astype(np.uint8)
        return mask

    n_z, height, width = shape[-3:]
    return Stack(
        name=path_stem(node),
        path=node,
        shape=(n_z, height, width),
        dtype=np.dtype(np.uint8),
        read_slice=read,
    )


def _labels_of_images(
    path: Path, volume: Path, label: str | None, preferred: Sequence[str]
) -> list[MaskStack]:
    from deepfocus_live.stacks._zarr import image_paths

    images = open_stacks(path)
    places = image_paths(volume)
    homes = {image.position: places[image.position] / "labels" for image in images}
    there = {name for home in homes.values() for name in _label_names(home)}
    known = f"its labels: {', '.join(sorted(there))}" if there else "it has no labels at all"
    if label is not None:
        if label not in there:
            raise InputError(f"{path}: has no label {label}; {known}")
        return list(_masks(images, homes, label))
    silent = ""
    for name in preferred:
        if name not in there:
            continue
        masks = list(_masks(images, homes, name))
        if name != CORRECTED or any(mask.said(z) for mask in masks for z in range(len(mask))):
            return masks
        silent = f"nothing in it is {CORRECTED} yet, and it "
    raise InputError(f"{path}: {silent}has none of the labels {', '.join(preferred)}; {known}")


def _label_names(home: Path) -> list[str]:
    from deepfocus_live.stacks._zarr import is_zarr

    return [child.name for child in home.iterdir() if is_zarr(child)] if home.is_dir() else []


def _masks(images: Sequence[Stack], homes: Mapping[int, Path], label: str) -> Iterator[MaskStack]:
    """Yield the masks of every image; `homes` are the images' folders of labels."""
    masks = _by_index(homes, label)
    doubts = _by_index(homes, UNDECIDED) if label == _UNDECIDED_BESIDE else {}
    for image in images:
        index = image.position, image.time, image.channel
        mask = masks.get(index)
        if mask is None and label == CORRECTED:
            mask = _blank(image)  # nobody has looked at this one yet
        if mask is None:
            raise InputError(
                f"{image.path}: {image.name} has no label {label}, others in it have: "
                "make it for all, or give one image"
            )
        doubt = doubts.get(index)
        for one in (mask, doubt):
            if one is not None and one.shape != image.shape:
                raise InputError(
                    f"{one.path}: the label is {_size(one)}, its image {_size(image)} (Z × Y × X): "
                    "make it again"
                )
        yield MaskStack(mask, label=label, undecided=doubt, image=image)


def _by_index(homes: Mapping[int, Path], label: str) -> dict[tuple[int, int, int], Stack]:
    """Return a label's stacks by their image's position, time and channel."""
    from deepfocus_live.stacks._zarr import is_zarr, zarr_stacks

    return {
        (position, stack.time, stack.channel): _whole_numbers(stack)
        for position, home in homes.items()
        if is_zarr(home / label)
        for stack in zarr_stacks(home / label)
    }


def _blank(image: Stack) -> Stack:
    return Stack(
        name=image.name,
        path=image.path,
        shape=image.shape,
        dtype=np.dtype(np.uint8),
        read_slice=lambda _: np.zeros(image.shape[1:], np.uint8),
    )


def _whole_numbers(stack: Stack) -> Stack:
    """Return a stack that can be masks; InputError where its pixels are fractions."""
    if stack.dtype.kind == "f":
        raise InputError(
            f"{stack.path}: {stack.dtype.name} pixels are no mask; threshold them, and save as "
            "uint8 with 0 where it is not in focus"
        )
    return stack


def _size(stack: Stack) -> str:
    return " × ".join(map(str, stack.shape))
