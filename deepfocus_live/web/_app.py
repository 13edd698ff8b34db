"""The page's server: a Starlette application around a hub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from deepfocus_live.web._actions import ActionDoor, Actions
from deepfocus_live.web._api import ReadDoor
from deepfocus_live.web._guard import LOOPBACK_HOSTS, Guard
from deepfocus_live.web._hub import LiveHub
from deepfocus_live.web._metrics import METRICS_TYPE, metrics_text
from deepfocus_live.web._source import RunSource, SliceSource, StackViews
from deepfocus_live.web._static import PLOTLY, load_plotly, load_static, respond
from deepfocus_live.web._status import StatusText
from deepfocus_live.web._volumes import VolumeServer
from deepfocus_live.web._watching import watch

__all__ = ["SERVER_OPTIONS", "Access", "Health", "create_app"]

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


class Health(NamedTuple):
    """Whether the daemon is well; `reason` says in words why not."""

    ok: bool
    state: str
    reason: str | None = None


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes
    ----------
    hosts : tuple of str
        Names (without port) that the page may be asked for by, beside those of
        the loopback interface: the bound host when it is another.
    any_address : bool
        Whether every IP address is such a name.
    key : str or None
        What whoever asks must know; None: nothing.
    """

    hosts: tuple[str, ...] = ()
    any_address: bool = False
    key: str | None = None


def create_app(
    hub: LiveHub,
    source: SliceSource,
    *,
    status: Callable[[], dict[str, object]],
    allowed_hosts: Iterable[str] = (),
    access: Access | None = None,
    health: Callable[[], Health] | None = None,
    runs: RunSource | None = None,
    views: StackViews | None = None,
    models: Callable[[], dict[str, Any]] | None = None,
    actions: Actions | None = None,
    volumes: VolumeServer | None = None,
) -> Starlette:
    """Return the application that serves the live page, as `docs/api.md` has it.

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
        As `Access.hosts`, where nothing else of it is needed.
    access : Access or None
        Who may ask; None: this computer.
    health : callable
        Whether the daemon is well; must be quick.
    runs, views, models, actions, volumes
        What else can be asked for; None: it answers that it is not there.
    """
    access = access or Access(tuple(allowed_hosts))
    reads = ReadDoor(hub, source, runs=runs, views=views, models=models, volumes=volumes)
    page = _Page(hub, status, health, ActionDoor(actions))
    routes: list[Route | WebSocketRoute] = [
        Route("/", page.index),
        Route("/static/{name:path}", page.static),
        WebSocketRoute("/ws", page.socket),
        Route("/api/session", page.session),
        Route("/api/status", page.status),
        Route("/api/runs", reads.runs),
        Route("/api/run", reads.run),
        Route("/api/slice", reads.slice),
        Route("/api/pixel", reads.pixel),
        Route("/api/projection", reads.view),
        Route("/api/volume", reads.view),
        Route("/api/models", reads.models),
        Route("/api/actions/{name}", page.action, methods=["POST"]),
        Route("/metrics", page.metrics),
        Route("/health", page.health),
    ]
    if volumes is not None:
        path = "/volumes/{secret}/{key:path}"
        routes.append(Route(path, volumes.answer, methods=["GET", "HEAD", "OPTIONS"]))
    guard = Middleware(
        Guard,
        allowed_hosts=LOOPBACK_HOSTS | set(access.hosts),
        any_address=access.any_address,
        key=access.key,
        reads_volumes=volumes.allows if volumes is not None else _nobody,
    )
    app = Starlette(routes=routes, middleware=[guard])
    # What is asked for wrongly is not there; nobody is sent elsewhere.
    app.router.redirect_slashes = False
    return app


def _nobody(_origin: str) -> bool:
    return False


class _Page:
    """The page itself, and what is said of the daemon."""

    def __init__(
        self,
        hub: LiveHub,
        status: Callable[[], dict[str, object]],
        health: Callable[[], Health] | None,
        door: ActionDoor,
    ) -> None:
        self._hub = hub
        self._status = StatusText(status)
        self._health = health
        self._door = door
        self._files = load_static()

    async def index(self, request: Request) -> Response:
        return respond(request, self._files["index.html"])

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == PLOTLY and name not in self._files:
            return respond(request, await asyncio.to_thread(load_plotly))
        return respond(request, self._files.get(name))

    async def socket(self, websocket: WebSocket) -> None:
        await watch(websocket, self._hub, self._status)

    async def session(self, request: Request) -> Response:
        status = await self._status.values()
        known = {key: status.get(key) for key in ("version", "pid")}
        return JSONResponse({"token": self._door.token, **known, "actions": self._door.available})

    async def status(self, request: Request) -> Response:
        return Response(await self._status.get(), media_type="application/json")

    async def action(self, request: Request) -> Response:
        return await self._door.answer(request)

    async def metrics(self, request: Request) -> Response:
        healthy = self._health is None or self._health().ok
        status = await self._status.values()
        text = metrics_text(status, healthy=healthy, viewers=self._hub.viewers)
        return Response(text, media_type=METRICS_TYPE)

    async def health(self, request: Request) -> Response:
        found = self._health() if self._health else Health(True, "unknown")
        told: dict[str, Any] = {"ok": found.ok, "state": found.state, "viewers": self._hub.viewers}
        if found.reason is not None:
            told["reason"] = found.reason
        return JSONResponse(told, status_code=200 if found.ok else 503)
