"""The control channel's messages: length-prefixed JSON, and who may speak.

Both sides prove that they know the runtime file's key (HMAC-SHA256 over both
sides' random challenges) before anything else is read. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from typing import Any

__all__ = [
    "MAX_MESSAGE_BYTES",
    "PROTOCOL_VERSION",
    "ProtocolError",
    "answer",
    "challenge",
    "decode",
    "encode",
    "length_of",
    "proves",
]

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 64 << 20
MAX_GREETING_BYTES = 4096
_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size

Message = dict[str, Any]


class ProtocolError(ConnectionError):
    """The other side does not speak as agreed; the connection is of no more use."""


def encode(message: Message) -> bytes:
    """Return the message as it goes over the wire."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


def length_of(prefix: bytes, *, limit: int = MAX_MESSAGE_BYTES) -> int:
    """Return the length that a prefix announces.

    Raises
    ------
    ProtocolError
        If it is over `limit`.
    """
    length = int(_LENGTH.unpack(prefix)[0])
    if length > limit:
        raise ProtocolError(f"a message of {length} bytes is over the limit of {limit}.")
    return length


def decode(body: bytes) -> Message:
    """Return the message in `body`.

    Raises
    ------
    ProtocolError
        If it is not a JSON object with a `type`.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("a message is not JSON.") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("a message is not an object with a type.")
    return message


def challenge() -> str:
    """Return fresh random text for the other side to sign."""
    return secrets.token_hex(32)


def answer(key: str, side: str, mine: str, theirs: str) -> str:
    """Return the proof that `side` knows `key`, bound to both challenges and to the side."""
    text = f"deepfocus-live:{PROTOCOL_VERSION}:{side}:{mine}:{theirs}"
    return hmac.new(bytes.fromhex(key), _bytes(text), hashlib.sha256).hexdigest()


def proves(given: object, key: str, side: str, theirs: str, mine: str) -> bool:
    """Return whether `given` is the proof that `side` owes us."""
    return isinstance(given, str) and hmac.compare_digest(
        _bytes(given), _bytes(answer(key, side, theirs, mine))
    )


def _bytes(text: str) -> bytes:
    # JSON can carry half of a surrogate pair, which plain UTF-8 refuses with a ValueError.
    return text.encode(errors="surrogatepass")
