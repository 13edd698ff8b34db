"""The page's server: a thread and an event loop of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn

from deepfocus_live.config import WebConfig
from deepfocus_live.errors import InputError
from deepfocus_live.web import LiveHub, SliceSource, create_app

__all__ = ["PageServer"]


class PageServer:
    """Serves the live page until stopped. The port is taken when this is made.

    Raises
    ------
    InputError
        If the port cannot be had.
    """

    def __init__(
        self,
        web: WebConfig,
        hub: LiveHub,
        source: SliceSource,
        status: Callable[[], dict[str, object]],
    ) -> None:
        try:
            family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
            self._socket = socket.create_server((web.host, web.port), family=family)
        except OSError as error:
            raise InputError(
                f"the page cannot be served at {web.host}:{web.port}: {error.strerror}. "
                "Choose another --port (0 takes any that is free)."
            ) from None
        host = f"[{web.host}]" if ":" in web.host else web.host
        self.address = f"http://{host}:{self._socket.getsockname()[1]}/"
        app = create_app(hub, source, status=status, allowed_hosts=[web.host])
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                ws="websockets-sansio",
                lifespan="off",
                timeout_graceful_shutdown=1,
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
