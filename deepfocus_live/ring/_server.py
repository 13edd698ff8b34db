"""The daemon's end of the control channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from deepfocus_live.ring._protocol import (
    LENGTH_BYTES,
    MAX_GREETING_BYTES,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Message,
    ProtocolError,
    answer,
    challenge,
    decode,
    encode,
    length_of,
    proves,
)

__all__ = ["Connection", "serve_control"]

GREETING_S = 5.0
MESSAGE_S = 30.0
"""A message once begun must be whole within this time: half a message is a dead peer."""


class Connection:
    """One authenticated client. Use from the event loop's thread."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Queue one message; a client that is gone is passed over."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def drain(self) -> None:
        """Wait until the client has taken most of what was sent."""
        await self._writer.drain()

    @property
    def unsent_bytes(self) -> int:
        """How much the client has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def receive(
        self, *, first_byte_s: float | None = None, limit: int = MAX_MESSAGE_BYTES
    ) -> Message:
        """Return the next message; waits for its beginning as long as `first_byte_s` allows."""
        async with asyncio.timeout(first_byte_s):
            first = await self._reader.readexactly(1)
        async with asyncio.timeout(MESSAGE_S):
            prefix = first + await self._reader.readexactly(LENGTH_BYTES - 1)
            body = await self._reader.readexactly(length_of(prefix, limit=limit))
        return decode(body)

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()


async def serve_control(key: str, serve: Callable[[Connection], Awaitable[None]]) -> asyncio.Server:
    """Listen on a free loopback port; `serve` is awaited for each client that knows `key`."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        # A peer that breaks the rules or goes away ends its own connection and nothing else.
        # The loop's end, passed on, is reported by Python 3.11 as a failure of this handler.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                if await _greet(connection, key):
                    await serve(connection)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass
            finally:
                await connection.close()

    return await asyncio.start_server(accept, "127.0.0.1", 0)


async def _greet(connection: Connection, key: str) -> bool:
    mine = challenge()
    connection.send({"type": "greeting", "protocol": PROTOCOL_VERSION, "challenge": mine})
    hello = await connection.receive(first_byte_s=GREETING_S, limit=MAX_GREETING_BYTES)
    theirs = str(hello.get("challenge"))
    if hello.get("protocol") != PROTOCOL_VERSION:
        reason = f"protocol {hello.get('protocol')}, the daemon speaks {PROTOCOL_VERSION}"
    elif not proves(hello.get("proof"), key, "client", theirs, mine):
        reason = "wrong key"
    else:
        proof = answer(key, "daemon", mine, theirs)
        connection.send({"type": "welcome", "proof": proof})
        return True
    connection.send({"type": "refused", "reason": reason})
    with contextlib.suppress(ProtocolError):
        await connection.drain()
    return False
