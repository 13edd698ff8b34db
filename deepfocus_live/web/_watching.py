"""One WebSocket: news out, confirmations in."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from starlette.websockets import WebSocket, WebSocketDisconnect

from deepfocus_live.web._hub import LiveHub
from deepfocus_live.web._status import StatusText
from deepfocus_live.web._viewer import Viewer

__all__ = ["watch"]

_LOG = logging.getLogger(__name__)
_STATUS_EVERY_S = 0.5
# Bundles what happens within a hundredth of a second: at 100 slices/s a viewer
# would else get several hundred small messages a second.
_PAUSE_S = 0.01
_LONGEST_CONFIRMATION = 256
_POLICY_VIOLATION, _TRY_LATER = 1008, 1013
_MOST_VIEWERS = 64


async def watch(websocket: WebSocket, hub: LiveHub, status: StatusText) -> None:
    """Serve one viewer until it goes."""
    await websocket.accept()
    if hub.viewers >= _MOST_VIEWERS:
        await websocket.close(_TRY_LATER)
        return
    viewer = hub.join()
    tasks = (
        asyncio.create_task(_tell(websocket, hub, viewer, status)),
        asyncio.create_task(_listen(websocket, viewer)),
    )
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.leave(viewer)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
                _LOG.error("A viewer of the page was lost", exc_info=outcome)


async def _tell(websocket: WebSocket, hub: LiveHub, viewer: Viewer, status: StatusText) -> None:
    next_status = 0.0
    while True:
        if (now := time.monotonic()) >= next_status:
            next_status = now + _STATUS_EVERY_S
            await websocket.send_text(f'{{"type":"status","status":{await status.get()}}}')
        for message in hub.news(viewer):
            if isinstance(message, str):
                await websocket.send_text(message)
            else:
                await websocket.send_bytes(message)
        await asyncio.sleep(_PAUSE_S)
        await viewer.wait(max(next_status - time.monotonic(), 0.001))


async def _listen(websocket: WebSocket, viewer: Viewer) -> None:
    """Take confirmations; whoever sends anything else is not our page."""
    while True:
        number = _confirmed_number(await websocket.receive_text())
        if number is None:
            await websocket.close(_POLICY_VIOLATION)
            return
        viewer.confirm(number)


def _confirmed_number(text: str) -> int | None:
    if len(text) > _LONGEST_CONFIRMATION:
        return None
    try:
        number = json.loads(text)["drawn"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return number if isinstance(number, int) else None
