"""Raw slices on the short way to the disk: checksum, compression and one file, in one thread.

Design Notes
------------
A slice is one whole chunk, so there is nothing to read back, split or put together. zarr writes it
through an event loop and two more threads, with copies between them: a fifth of the processor's
time for a slice. Here the calling thread compresses with the codec that the array names and writes
the file where zarr looks for it; the bytes are the same.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import zarr
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import LocalStore

from deepfocus_live.volume._store import FolderSyncs, make_folders, write_whole

__all__ = ["SliceWriter", "crc32_of"]

_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
Encode = Callable[[NDArray[Any]], Any]


def crc32_of(pixels: NDArray[Any]) -> str:
    """Return the CRC-32 of C-contiguous pixels, eight hexadecimal digits."""
    # The same sum as zlib's, several times as fast.
    sum_up: Callable[[Any], int] = zlib.crc32
    if imagecodecs.DEFLATE.available:
        sum_up = imagecodecs.deflate_crc32
    return f"{sum_up(pixels.data):08x}"


class SliceWriter:
    """Writes slices into one array, each of them one chunk. Safe to call from several threads.

    Parameters
    ----------
    array : zarr.Array
        (t, c, z, y, x) in a `LocalStore`, a chunk as large as a slice.
    folders : FolderSyncs, optional
        Where folders to be synced are noted. None: nothing is synced.
    """

    def __init__(self, array: zarr.Array[Any], folders: FolderSyncs | None) -> None:
        store = array.store_path.store
        if not isinstance(store, LocalStore):
            raise TypeError(f"{array}: slices are written to files only.")
        self._folder = store.root / array.store_path.path
        self._name_of = array.metadata.encode_chunk_key
        self._chunk = array.chunks
        self._dtype = array.dtype.newbyteorder("<")
        self._encode = _encoder(array)
        self._folders = folders

    def write(self, place: tuple[int, ...], pixels: NDArray[Any]) -> Path:
        """Write one slice, where zarr has it as `array[place]`; return its file.

        Parameters
        ----------
        place : (t, c, z)
            c counts chunks: a colour camera's three channels are one.
        pixels : (Y, X) or (3, Y, X)
            The chunk's pixels.

        Raises
        ------
        OSError
            If the disk refuses.
        ValueError
            If the slice is not one whole chunk.
        """
        if pixels.size != math.prod(self._chunk) or pixels.shape[-2:] != self._chunk[-2:]:
            raise ValueError(f"{self._folder}: a slice is {self._chunk}, got {pixels.shape}.")
        data = self._encode(np.ascontiguousarray(pixels, self._dtype))
        path = self._folder / self._name_of((*place, 0, 0))
        if self._folders is None:
            make_folders(path.parent)
            write_whole(path, data, sync=False)
        else:
            self._folders.make(path.parent)
            write_whole(path, data, sync=True)
            self._folders.add(path.parent)
        return path


def _encoder(array: zarr.Array[Any]) -> Encode:
    """Return what makes a chunk's bytes of its pixels, as the array's metadata say."""
    codecs = list(array.metadata.codecs)  # type: ignore[union-attr]
    match codecs:
        case [BytesCodec()]:
            return lambda pixels: pixels.reshape(-1).view(np.uint8).data
        case [BytesCodec(), BloscCodec() as codec]:
            encode: Encode = Blosc(
                codec.cname.value,
                codec.clevel,
                _SHUFFLES[codec.shuffle.value],
                codec.blocksize,
                codec.typesize,
            ).encode
            return encode
    raise ValueError(f"{array}: no run is compressed by {codecs}.")
