"""The page's server: a Starlette application around a hub."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from deepfocus_live.frames import Placement
from deepfocus_live.web._guard import LOOPBACK_HOSTS, Guard
from deepfocus_live.web._hub import LiveHub
from deepfocus_live.web._source import SliceSource
from deepfocus_live.web._static import load_static, respond
from deepfocus_live.web._status import StatusText
from deepfocus_live.web._watching import watch

__all__ = ["SERVER_OPTIONS", "create_app"]

_LOG = logging.getLogger(__name__)

SERVER_OPTIONS: Final[dict[str, Any]] = {
    # uvicorn's other integration uses the part of `websockets` that is deprecated.
    "ws": "websockets-sansio",
    # Pictures are compressed already: deflating them again only costs time.
    "ws_per_message_deflate": False,
    # The page sends nothing longer than a confirmation.
    "ws_max_size": 4096,
    "server_header": False,
    "proxy_headers": False,
}
"""What uvicorn needs to be told: `uvicorn.Config(app, **SERVER_OPTIONS)`."""

_RUN_ID = re.compile(r"[^\x00-\x1f/\\]{1,200}")
_NUMBER = re.compile(r"\d{1,9}")
_READS_AT_A_TIME = 2


def create_app(
    hub: LiveHub,
    source: SliceSource,
    *,
    status: Callable[[], dict[str, object]],
    allowed_hosts: Iterable[str] = (),
) -> Starlette:
    """Return the application that serves the live page.

    Parameters
    ----------
    hub : LiveHub
        Where the news come from.
    source : SliceSource
        Reads earlier slices back.
    status : callable
        The daemon's state, as plain values; called in a thread, at most every
        0.4 s.
    allowed_hosts : iterable of str
        Names (without port) that the page may be asked for by, beside those of
        the loopback interface: the bound host when it is another.
    """
    page = _Page(hub, source, status)
    return Starlette(
        routes=[
            Route("/", page.index),
            Route("/static/{name}", page.static),
            Route("/api/status", page.status),
            Route("/api/slice", page.slice),
            Route("/health", page.health),
            WebSocketRoute("/ws", page.socket),
        ],
        middleware=[Middleware(Guard, allowed_hosts=LOOPBACK_HOSTS | set(allowed_hosts))],
    )


class _Page:
    """The endpoints."""

    def __init__(
        self, hub: LiveHub, source: SliceSource, status: Callable[[], dict[str, object]]
    ) -> None:
        self._hub = hub
        self._source = source
        self._status = StatusText(status)
        self._files = load_static()
        self._reads = asyncio.Semaphore(_READS_AT_A_TIME)

    async def index(self, request: Request) -> Response:
        return respond(request, self._files["index.html"])

    async def static(self, request: Request) -> Response:
        return respond(request, self._files.get(request.path_params["name"]))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"ok": True, "viewers": self._hub.viewers})

    async def status(self, request: Request) -> Response:
        return Response(await self._status.get(), media_type="application/json")

    async def socket(self, websocket: WebSocket) -> None:
        await watch(websocket, self._hub, self._status)

    async def slice(self, request: Request) -> Response:
        wanted = _wanted_slice(request)
        if wanted is None:
            return _error(400, "Ask as /api/slice?run=…&image=0&t=0&c=0&z=0, with whole numbers.")
        try:
            async with self._reads:
                message = await asyncio.to_thread(self._stored_picture, *wanted)
        except KeyError:
            return _error(404, "There is no such slice.")
        except Exception:
            _LOG.exception("A slice for the page could not be read: %s", wanted)
            return _error(500, "The slice could not be read; see the daemon's log.")
        return Response(message, media_type="application/octet-stream")

    def _stored_picture(self, run_id: str, placement: Placement) -> bytes:
        pixels, mask = self._source.read_slice(run_id, placement)
        return self._hub.stored_picture(run_id, placement, pixels, mask)


def _wanted_slice(request: Request) -> tuple[str, Placement] | None:
    run_id = request.query_params.get("run", "")
    numbers = [request.query_params.get(axis, "0") for axis in Placement._fields]
    if not _RUN_ID.fullmatch(run_id) or not all(map(_NUMBER.fullmatch, numbers)):
        return None
    return run_id, Placement(*map(int, numbers))


def _error(code: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=code)
