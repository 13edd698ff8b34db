"""Who comes before the daemon is whole hears that it lives, and is served when it is."""

from __future__ import annotations

import asyncio

import pytest

from deepfocus_live.daemon import _doorway
from deepfocus_live.daemon._doorway import Doorway
from deepfocus_live.ring import Connection
from deepfocus_live.ring._client import ControlClient
from deepfocus_live.ring._server import serve_control

KEY = "ab" * 32


def test_early_clients_hear_heartbeats_until_they_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_doorway, "_HEARTBEAT_S", 0.01)

    def come(port: int) -> tuple[list[str], str]:
        with ControlClient(port, KEY) as client:
            client.send({"type": "begin_run"})
            heard = [client.receive(5)["type"] for _ in range(2)]
            return heard, str(client.ask({"type": "status"}, timeout_s=5)["re"])

    async def scene() -> tuple[list[tuple[list[str], str]], list[str]]:
        doorway = Doorway()
        server = await serve_control(KEY, doorway.let_in)
        port = server.sockets[0].getsockname()[1]
        early = [asyncio.create_task(asyncio.to_thread(come, port)) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in early)
        served: list[str] = []

        async def serve_all(connection: Connection) -> None:
            for _ in range(2):
                served.append((await connection.receive())["type"])
            connection.send({"type": "answer", "re": served[-1]})
            await connection.drain()

        doorway.open(serve_all)
        answers = await asyncio.gather(*early)
        server.close()
        return answers, served

    answers, served = asyncio.run(scene())
    assert answers == [(["heartbeat", "heartbeat"], "status")] * 2
    assert sorted(served) == ["begin_run", "begin_run", "status", "status"], "nothing said is lost"
