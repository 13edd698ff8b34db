"""Everybody who is connected, and what all of them, or some, are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from deepfocus_live.daemon._intake import Client
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.ring import Message

__all__ = ["Clients"]

_MOST_UNSENT_BYTES = 16 << 20
_GOODBYE_S = 0.05


class Clients:
    """The connected clients. Only the event loop adds and removes; any thread may tell."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._clients))

    def add(self, client: Client) -> None:
        """Add one that has come."""
        self._clients.add(client)

    def remove(self, client: Client) -> None:
        """Remove one that has gone."""
        self._clients.discard(client)

    def tell(self, message: Message) -> None:
        """Send a message to all."""
        for client in self:
            client.send(message)

    def subscribers(self) -> list[Client]:
        """Return those who want masks; who does not take them gets no more: memory is no queue."""
        return [
            client
            for client in self
            if client.subscribed and client.connection.unsent_bytes < _MOST_UNSENT_BYTES
        ]

    def tell_of_run(self, run_id: str, message: Message) -> None:
        """Send a message to whom a run is of."""
        for client in self:
            run = client.run
            if run is not None and run.spec.run_id == run_id:
                client.send(message)

    def beat(self, state: str, runs: Iterable[ActiveRun]) -> None:
        """Tell all that the event loop is alive, and how the open runs do; call in it."""
        masked = {run.spec.run_id: run.masked for run in runs}
        for client in self:
            client.connection.send({"type": "heartbeat", "state": state, "masked": masked})

    async def take_leave(self) -> None:
        """Tell all that the daemon ends, and close their connections."""
        for client in self:
            client.connection.send({"type": "bye"})
            await client.connection.close()
        await asyncio.sleep(_GOODBYE_S)
