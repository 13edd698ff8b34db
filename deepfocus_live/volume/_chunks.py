"""Where the chunk of a slice lies, and whether a file can be one."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from deepfocus_live.frames import Placement

__all__ = ["chunk_path", "is_chunk"]

_BLOSC_HEAD = struct.Struct("<4BIII")


def chunk_path(image: Path, array: str, placement: Placement) -> Path:
    """Return the file of one slice in an array of an image's folder, as "0" or "labels/in_focus/1".

    The three colours of a slice are one chunk, so it is counted as its channel is.
    """
    _, t, c, z = placement
    return image / array / "c" / str(t) / str(c) / str(z) / "0" / "0"


def is_chunk(path: Path, nbytes: int) -> bool:
    """Return whether a file can be the chunk of `nbytes` of pixels; only its head is looked at.

    A compressed chunk begins with the number of bytes of its pixels and its own; a chunk that is
    not compressed is as long as its pixels.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_BLOSC_HEAD.size)
            size = file.seek(0, os.SEEK_END)
    except OSError:
        return False
    if size == nbytes:
        return True
    if len(head) < _BLOSC_HEAD.size:
        return False
    *_, of_pixels, _of_block, own = _BLOSC_HEAD.unpack(head)
    return (of_pixels, own) == (nbytes, size)
