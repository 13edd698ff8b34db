"""One binary message per picture: a JSON header, the picture, the mask.

Layout: 4-byte big-endian length of the header, the header (UTF-8 JSON), as many
bytes of JPEG as its `picture_bytes` says, as many bytes of PNG as its
`mask_bytes` says. Either count may be 0. `/api/slice` answers in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["pack_message", "unpack_message"]


def pack_message(header: Mapping[str, Any], picture: bytes = b"", mask: bytes = b"") -> bytes:
    """Return the message; `picture_bytes` and `mask_bytes` are added to the header."""
    sizes = {"picture_bytes": len(picture), "mask_bytes": len(mask)}
    head = json.dumps({**header, **sizes}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((len(head).to_bytes(4, "big"), head, picture, mask))


def unpack_message(message: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Return header, picture and mask of a message.

    Raises
    ------
    ValueError
        If the message is not as long as its header says.
    """
    start = 4 + int.from_bytes(message[:4], "big")
    header: dict[str, Any] = json.loads(message[4:start])
    middle = start + header["picture_bytes"]
    end = middle + header["mask_bytes"]
    if end != len(message):
        raise ValueError(f"The message has {len(message)} bytes, its header says {end}.")
    return header, message[start:middle], message[middle:end]
