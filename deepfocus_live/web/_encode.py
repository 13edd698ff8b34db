"""Pictures as JPEG, masks as 1-bit PNG that is clear where they are 0, probabilities as PNG."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["encode_mask", "encode_picture", "encode_probability"]

_JPEG_QUALITY = 85
_GREY, _PALETTE = 0, 3  # PNG's colour types


def encode_picture(picture: NDArray[np.uint8]) -> bytes:
    """Return `picture` as JPEG: WebP takes 15 times as long for the same bytes.

    (Y, X) is grey, (Y, X, 3) red, green and blue.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def encode_mask(mask: NDArray[Any]) -> bytes:
    """Return `mask` (Y, X) as PNG: 0 transparent, everything else opaque white.

    Written by hand because Pillow takes four times as long to get to one bit a
    pixel. The page gives it a colour.
    """
    bits = np.packbits(mask != 0, axis=1)
    palette = (_chunk(b"PLTE", b"\x00\x00\x00\xff\xff\xff"), _chunk(b"tRNS", b"\x00"))
    return _png(bits, mask.shape, depth=1, colour=_PALETTE, chunks=palette)


def encode_probability(probability: NDArray[np.uint8]) -> bytes:
    """Return `probability` (Y, X) uint8 as grey PNG, its values as they are."""
    # Only runs are looked for: most of a map is 0, and the rest is not worth three times the time.
    return _png(probability, probability.shape, depth=8, colour=_GREY, strategy=zlib.Z_RLE)


def _png(
    rows: NDArray[np.uint8],
    shape: tuple[int, ...],
    *,
    depth: int,
    colour: int,
    chunks: tuple[bytes, ...] = (),
    strategy: int = zlib.Z_DEFAULT_STRATEGY,
) -> bytes:
    height, width = shape
    filtered = np.zeros((height, rows.shape[1] + 1), np.uint8)  # each row begins with "no filter"
    filtered[:, 1:] = rows
    packer = zlib.compressobj(1, strategy=strategy)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            *chunks,
            _chunk(b"IDAT", packer.compress(filtered.tobytes()) + packer.flush()),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))
