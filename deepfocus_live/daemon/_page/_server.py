"""The page's server: a thread and an event loop of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from deepfocus_live.config import WebConfig
from deepfocus_live.daemon._page._key import is_loopback, page_host, page_key
from deepfocus_live.daemon._page._port import listen_for_page, page_address
from deepfocus_live.web import (
    SERVER_OPTIONS,
    Access,
    Actions,
    Health,
    LiveHub,
    RunSource,
    StackViews,
    VolumeServer,
    create_app,
)

__all__ = ["PageServer"]


class PageServer:
    """Serves the live page until stopped.

    Parameters
    ----------
    web : WebConfig
        Where to serve, and whether volumes too.
    hub, runs, status, health, views, models, actions
        As `create_app` takes them.
    listening : socket or None
        Where to serve; None: the port is taken now, as `listen_for_page` does.

    Raises
    ------
    InputError
        If the port that the user asked for cannot be had.
    """

    def __init__(
        self,
        web: WebConfig,
        hub: LiveHub,
        runs: RunSource,
        status: Callable[[], dict[str, object]],
        *,
        listening: socket.socket | None = None,
        health: Callable[[], Health] | None = None,
        views: StackViews | None = None,
        models: Callable[[], dict[str, Any]] | None = None,
        actions: Actions | None = None,
    ) -> None:
        self._socket = listen_for_page(web) if listening is None else listening
        self.address = page_address(web, self._socket)
        volumes = None
        if web.serve_volumes:
            volumes = VolumeServer(runs, key=page_key().encode(), origins=web.allowed_origins)
        app = create_app(
            hub,
            runs,
            status=status,
            access=_access(web),
            health=health,
            runs=runs,
            views=views,
            models=models,
            actions=actions,
            volumes=volumes,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=1,
                **SERVER_OPTIONS,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="page", daemon=True
        )

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        self._socket.close()


def _access(web: WebConfig) -> Access:
    """Return who may ask: whoever knows the key, where others than this computer can."""
    if is_loopback(web.host):
        return Access((web.host,))
    named = page_host(web.host)
    everywhere = named != web.host
    # As it is called in a network without names of its own, too; to ask for them may take seconds.
    own = (named, f"{named}.local") if everywhere else ()
    return Access((web.host, *own), any_address=everywhere, key=page_key())
