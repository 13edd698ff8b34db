"""Who comes before the daemon is whole waits here.

A daemon says where it is before it has loaded what it works with. Whoever comes meanwhile is let
in, hears that it lives, and is served when it is ready: no run begins before that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from deepfocus_live.ring import Connection

__all__ = ["Doorway"]

_HEARTBEAT_S = 1.0


class Doorway:
    """Serves connections once it has been opened. Use from the event loop's thread."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._serve: Callable[[Connection], Awaitable[None]] | None = None

    def open(self, serve: Callable[[Connection], Awaitable[None]]) -> None:
        """Have `serve` awaited for everybody who waits, and for all who come."""
        self._serve = serve
        self._opened.set()

    async def let_in(self, connection: Connection) -> None:
        """Serve one connection, when the time has come."""
        while self._serve is None:
            # Who hears nothing for long takes the daemon for hung, and kills it.
            connection.send({"type": "heartbeat", "state": "starting"})
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await self._opened.wait()
            except TimeoutError:
                continue
        await self._serve(connection)
