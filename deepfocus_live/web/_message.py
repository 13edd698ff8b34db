"""The binary message: a JSON header, and parts that it lists.

Layout: 4-byte big-endian length of the header, the header (UTF-8 JSON), the parts without gaps.
The header's `parts` says of each its name, media type and length, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["BYTES", "JPEG", "PNG", "Part", "pack_message", "unpack_message"]

JPEG = "image/jpeg"
PNG = "image/png"
BYTES = "application/octet-stream"


class Part(NamedTuple):
    """One thing that a message carries beside its header."""

    name: str
    media_type: str
    content: bytes


def pack_message(header: Mapping[str, Any], parts: Iterable[Part] = ()) -> bytes:
    """Return the message; `parts` is added to the header, what is empty left out of it."""
    there = [part for part in parts if part.content]
    listed = [
        {"name": part.name, "media_type": part.media_type, "length": len(part.content)}
        for part in there
    ]
    said = {**header, "parts": listed}
    head = json.dumps(said, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((len(head).to_bytes(4, "big"), head, *(part.content for part in there)))


def unpack_message(message: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return header and parts, by name, of a message.

    Raises
    ------
    ValueError
        If the message is not as long as its header says.
    """
    start = 4 + int.from_bytes(message[:4], "big")
    header: dict[str, Any] = json.loads(message[4:start])
    parts = {}
    for listed in header["parts"]:
        end = start + listed["length"]
        parts[listed["name"]] = message[start:end]
        start = end
    if start != len(message):
        raise ValueError(f"The message has {len(message)} bytes, its header says {start}.")
    return header, parts
