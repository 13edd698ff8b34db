"""Whether a TIFF's directories all lie within the file: the test for truncation.

tifffile stops at the first directory that it cannot read and logs; a file cut
short would pass for a shorter stack, or lose its description.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["directories_are_whole"]

_DESCRIPTION = 270  # its text, one byte a character, is often the last thing in a file


@dataclass(frozen=True)
class _Dialect:
    """Sizes that differ between TIFF and BigTIFF."""

    order: str
    offset: str
    count: str
    tag_bytes: int
    inline_bytes: int
    first_link: int


def directories_are_whole(path: Path) -> bool:
    """Return whether every directory and description of a TIFF lies within its file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            dialect = _dialect(file.read(4))
            file.seek(dialect.first_link)
            link = _number(file, dialect, dialect.offset)
            seen: set[int] = set()
            while link:
                # A chain that bites its tail is what a link cut in half can become.
                if link in seen or link >= size:
                    return False
                seen.add(link)
                file.seek(link)
                whole, link = _next(file, dialect, size)
                if not whole:
                    return False
        except struct.error:  # fewer bytes than asked for: the end of the file
            return False
    return True


def _dialect(magic: bytes) -> _Dialect:
    order = "<" if magic[:2] == b"II" else ">"
    if struct.unpack(order + "H", magic[2:4])[0] == 43:
        return _Dialect(order, "Q", "Q", 20, 8, 8)
    return _Dialect(order, "I", "H", 12, 4, 4)


def _number(file: BinaryIO, dialect: _Dialect, form: str) -> int:
    spelled = dialect.order + form
    return int(struct.unpack(spelled, file.read(struct.calcsize(spelled)))[0])


def _next(file: BinaryIO, dialect: _Dialect, size: int) -> tuple[bool, int]:
    """Return whether the directory at the file's position is whole, and the next one's link."""
    n_tags = _number(file, dialect, dialect.count)
    if n_tags * dialect.tag_bytes > size:
        return False, 0
    tags = file.read(n_tags * dialect.tag_bytes)
    link = _number(file, dialect, dialect.offset)
    for start in range(0, len(tags), dialect.tag_bytes):
        spelled = f"{dialect.order}HH{dialect.offset}{dialect.offset}"
        code, _, count, offset = struct.unpack_from(spelled, tags, start)
        if code == _DESCRIPTION and count > dialect.inline_bytes and offset + count > size:
            return False, 0
    return True, link
