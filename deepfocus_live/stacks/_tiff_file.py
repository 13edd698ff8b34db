"""An open TIFF: planes by number, checked for truncation before the first is read.

Series, which tifffile would build from the metadata, are not used: OME-XML names
absent files and contradicts the pages in real files. What is read is what is there.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.stacks._directory import directories_are_whole
from deepfocus_live.stacks._plane import checked_dtype

__all__ = ["PlaneType", "TiffPlanes", "is_tiff"]

_MAGIC = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def is_tiff(path: Path) -> bool:
    """Return whether the file begins like a TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


@dataclass(frozen=True)
class PlaneType:
    """Size and type of a plane, known from its header."""

    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.shape_yx[0]} x {self.shape_yx[1]} {self.dtype.name}"


class TiffPlanes:
    """The planes of one TIFF, in file order.

    Parameters
    ----------
    path : Path
        Of an existing file.

    Raises
    ------
    InputError
        If it is no TIFF, or shorter than its own directory says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open_file: tifffile.TiffFile | None = None
        self._finalizer: weakref.finalize[..., TiffPlanes] | None = None
        try:
            tiff = self._file()
            self.description = str(tiff.pages.first.description or "")
            self.imagej: dict[str, Any] | None = tiff.imagej_metadata
            n_pages = len(tiff.pages)
            whole = self._is_whole(tiff)
        except Exception as error:  # tifffile raises nearly anything on damaged headers
            self.close()
            raise InputError(
                f"{path}: cannot be read as TIFF ({error}): it is damaged or not a TIFF, "
                "copy or export it again"
            ) from error
        if not whole:
            self.close()
            raise InputError(
                f"{path}: the file is truncated, it ends before its last page does: "
                "copy or export it again"
            )
        # ImageJ writes one page for any number of planes when a file passes 4 GB.
        listed = int((self.imagej or {}).get("images", 1))
        self._one_page = n_pages == 1 and listed > 1
        self._count = listed if self._one_page else n_pages
        self._check_one_page_data()

    def __len__(self) -> int:
        return self._count

    def pixels_per_unit(self) -> float | None:
        """Return the X resolution tag, as ImageJ uses it."""
        tag = self._file().pages.first.tags.get("XResolution")
        if tag is None or not tag.value[1]:
            return None
        return float(tag.value[0] / tag.value[1])

    def plane_type(self, index: int) -> PlaneType:
        """Return size and type of plane `index` without decoding it."""
        with self._lock:
            page = self._file().pages[0 if self._one_page else index].aspage()
            dtype = page.dtype
            if dtype is None:
                raise InputError(f"{self.path}: plane {index} has an unknown pixel type")
            shape_yx = (int(page.imagelength), int(page.imagewidth))
        return PlaneType(shape_yx, checked_dtype(dtype, f"{self.path}: plane {index}"))

    def read(self, index: int) -> NDArray[Any]:
        """Decode plane `index`; (Y, X), or with colour channels as stored."""
        with self._lock:
            tiff = self._file()
            if not self._one_page:
                return np.asarray(tiff.pages[index].asarray())
            page = tiff.pages.first
            dtype = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
            count = int(np.prod(page.shape))
            offset = page.dataoffsets[0] + index * count * dtype.itemsize
            raw = tiff.filehandle.read_array(dtype, count, offset)
            return np.asarray(raw).reshape(page.shape)

    def close(self) -> None:
        """Close the file; reading opens it again."""
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()
            self._open_file = self._finalizer = None

    def _file(self) -> tifffile.TiffFile:
        if self._open_file is None:
            self._open_file = tifffile.TiffFile(self.path, is_ome=False)
            # Closes it when the last stack goes, without a ResourceWarning.
            self._finalizer = weakref.finalize(self, self._open_file.close)
        return self._open_file

    def _is_whole(self, tiff: tifffile.TiffFile) -> bool:
        size = tiff.filehandle.size
        for page in tiff.pages:
            ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
            if not page.dataoffsets or max(ends) > size:
                return False
        return directories_are_whole(self.path)

    def _check_one_page_data(self) -> None:
        if not self._one_page:
            return
        tiff = self._file()
        page = tiff.pages.first
        plane_bytes = int(np.prod(page.shape)) * np.dtype(page.dtype).itemsize
        end = page.dataoffsets[0] + self._count * plane_bytes
        if page.compression != 1 or end > tiff.filehandle.size:
            self.close()
            raise InputError(
                f"{self.path}: ImageJ says {self._count} slices, the file holds fewer: "
                "it is truncated, copy or export it again"
            )
