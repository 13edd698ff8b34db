"""Viewers of the live page that are no browsers: they read and confirm as it does, and count.

A process of its own, so that they cost the microscope's nothing:
`python -m deepfocus_live.bench._page_viewers ADDRESS COUNT`. It says `ready` once all of them are
served, and what they saw when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

__all__ = ["Seen", "viewers"]

_PATIENCE_S = 30.0


@dataclass
class Seen:
    """What all viewers together were sent."""

    pictures: int = 0
    """Slices."""
    bytes: int = 0
    """Of slices and masks: all parts, with their headers."""


@contextmanager
def viewers(address: str, count: int) -> Iterator[Seen]:
    """Within this context so many viewers watch; what they saw is known after it.

    Parameters
    ----------
    address : str
        Of the page: `http://…/`.
    count : int
        0: nobody watches.
    """
    seen = Seen()
    if not count:
        yield seen
        return
    with subprocess.Popen(
        [sys.executable, "-m", __name__, address, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"{count} viewers of {address} were not served")
            yield seen
            told = json.loads(process.communicate(timeout=_PATIENCE_S)[0])
            seen.pictures, seen.bytes = told["pictures"], told["bytes"]
        finally:
            process.kill()


async def _run(address: str, count: int) -> Seen:
    seen = Seen()
    served = [asyncio.Event() for _ in range(count)]
    watching = [asyncio.create_task(_watch(address, seen, event)) for event in served]
    await asyncio.wait_for(asyncio.gather(*(event.wait() for event in served)), _PATIENCE_S)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return seen


async def _watch(address: str, seen: Seen, served: asyncio.Event) -> None:
    from websockets.asyncio.client import connect

    # `None`: a browser, too, takes pictures of any size.
    async with connect(f"{address.replace('http', 'ws', 1)}ws", max_size=None) as socket:
        async for message in socket:
            served.set()
            if isinstance(message, str):
                continue
            seen.bytes += len(message)
            header = json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")])
            if header["kind"] == "picture":
                seen.pictures += 1
                await socket.send(json.dumps({"drawn": header["number"]}))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(asyncio.run(_run(sys.argv[1], int(sys.argv[2]))))))
