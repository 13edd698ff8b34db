"""An OME-Zarr of image and labels written in one go, offline: all of it or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.errors import InputError
from deepfocus_live.volume._display import DisplayRange
from deepfocus_live.volume._layout import ImageLayout, create_image, create_store, open_levels
from deepfocus_live.volume._pyramid import halve_labels, halve_mean

__all__ = ["VolumeFile"]


class VolumeFile:
    """Writes `path` as OME-Zarr: one bare image, or several in bioformats2raw layout.

    A context manager: the file appears under its name when the block is left
    in order, and leaves nothing behind otherwise.

    Raises
    ------
    InputError
        If `path` exists and `overwrite` is not set, or cannot be written.
    """

    def __init__(
        self, path: Path, layouts: Sequence[ImageLayout], *, overwrite: bool = False
    ) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already. Choose another -o, or give --overwrite.")
        if path.is_file():
            raise InputError(f"{path}: is a file, and no OME-Zarr is. Choose another -o.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._partial, ignore_errors=True)
            self._create(layouts)
        except OSError as error:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise InputError(
                f"{path}: cannot be written: {error.strerror}. Choose another -o."
            ) from None
        self._store = LocalStore(self._partial)
        bare = len(layouts) == 1
        self._groups = ["" if bare else str(number) for number in range(len(layouts))]
        self._displays = [DisplayRange(self._store, group) for group in self._groups]

    def _create(self, layouts: Sequence[ImageLayout]) -> None:
        if len(layouts) == 1:
            create_image(LocalStore(self._partial), "", layouts[0])
            return
        store = create_store(self._partial, [str(number) for number in range(len(layouts))])
        for number, layout in enumerate(layouts):
            create_image(store, str(number), layout)

    def write_slice(self, image: int, z: int, pixels: NDArray[Any]) -> None:
        """Write one slice of an image, (Y, X), at all levels.

        Counts are averaged for the coarser levels. Floating-point numbers are measurements, with
        NaN where there is none: every second one is taken. Viewers are told to show the range of
        counts that there is, and of measurements the range that the layout gives.
        """
        if pixels.dtype.kind == "u":
            self._displays[image].look(0, pixels)
        for level in open_levels(self._store, self._groups[image]):
            level[0, 0, z] = pixels
            pixels = pixels[::2, ::2] if pixels.dtype.kind == "f" else halve_mean(pixels)

    def write_label(self, image: int, label: str, z: int, mask: NDArray[np.uint8]) -> None:
        """Write one slice of a label, (Y, X), at all levels."""
        group = f"{self._groups[image]}/labels/{label}".lstrip("/")
        for level in open_levels(self._store, group):
            level[0, 0, z] = mask
            mask = halve_labels(mask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if error is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        if self._path.is_dir():
            shutil.rmtree(self._path)
        _platform.replace(self._partial, self._path)
