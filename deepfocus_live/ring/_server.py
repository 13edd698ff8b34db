"""The daemon's end of the control channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
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

log = logging.getLogger(__name__)

GREETING_S = 5.0
MESSAGE_S = 30.0
"""A message once begun must be whole within this time: half a message is a dead peer."""


MOST_STRANGERS = 256
"""Connections that have not proved who they are; of more the oldest is let go."""
_MOST_REASONS = 30
_PER_S = 60.0


class _Refusals:
    """Says in the log what was refused: each reason once a minute, a flood in few lines."""

    def __init__(self) -> None:
        self._since = 0.0
        self._reasons: set[str] = set()
        self._unsaid = 0

    def say(self, peer: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._since > _PER_S:
            if self._unsaid:
                log.warning("%d more were refused since.", self._unsaid)
            self._since, self._unsaid = now, 0
            self._reasons.clear()
        if reason in self._reasons or len(self._reasons) >= _MOST_REASONS:
            self._unsaid += 1
            return
        self._reasons.add(reason)
        log.warning("refused %s: %s", peer, reason)


class Connection:
    """One authenticated client. Use from the event loop's thread."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        refusals: _Refusals | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._refusals = refusals or _Refusals()
        name = writer.get_extra_info("peername")
        self.peer = f"port {name[1]}" if isinstance(name, tuple) else "a client that is gone"

    def refused(self, reason: str) -> None:
        """Say in the log that the client did what it may not."""
        self._refusals.say(self.peer, reason)

    def abort(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()

    def send(self, message: Message) -> None:
        """Queue one message; a client that is gone is passed over."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def drain(self) -> None:
        """Wait until the client has taken most of what was sent.

        Raises
        ------
        TimeoutError
            If it takes nothing for `MESSAGE_S`.
        """
        async with asyncio.timeout(MESSAGE_S):
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
    refusals = _Refusals()
    strangers: dict[Connection, None] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, refusals)
        strangers[connection] = None
        if len(strangers) > MOST_STRANGERS:
            # Each holds a file: with none left no slice can be stored.
            oldest = next(iter(strangers))
            oldest.refused("too many that do not say who they are.")
            oldest.abort()
        # A peer that breaks the rules or goes away ends its own connection and nothing else.
        # The loop's end, passed on, is reported by Python 3.11 as a failure of this handler.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                known = await _greet(connection, key)
                strangers.pop(connection, None)
                if known:
                    await serve(connection)
            except ProtocolError as error:
                connection.refused(str(error))
            except TimeoutError:
                connection.refused("was silent, or stopped in the middle of a message.")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    connection.refused("went away in the middle of a message.")
            except OSError:
                pass
            except Exception:
                log.exception("%s: unexpected failure; its connection is closed", connection.peer)
            finally:
                strangers.pop(connection, None)
                await connection.close()

    return await asyncio.start_server(accept, "127.0.0.1", 0)


async def _greet(connection: Connection, key: str) -> bool:
    mine = challenge()
    connection.send({"type": "greeting", "protocol": PROTOCOL_VERSION, "challenge": mine})
    hello = await connection.receive(first_byte_s=GREETING_S, limit=MAX_GREETING_BYTES)
    theirs = str(hello.get("challenge"))
    if hello["type"] != "hello":
        reason = f"began with {hello['type'][:40]!r} instead of hello"
    elif hello.get("protocol") != PROTOCOL_VERSION:
        reason = f"protocol {str(hello.get('protocol'))[:40]}, the daemon speaks {PROTOCOL_VERSION}"
    elif not proves(hello.get("proof"), key, "client", theirs, mine):
        reason = "wrong key"
    else:
        proof = answer(key, "daemon", mine, theirs)
        connection.send({"type": "welcome", "proof": proof})
        return True
    connection.refused(f"{reason}.")
    connection.send({"type": "refused", "reason": reason})
    with contextlib.suppress(ProtocolError):
        await connection.drain()
    return False
