"""The page's server: a thread and an event loop of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn

from deepfocus_live.config import WebConfig
from deepfocus_live.errors import InputError
from deepfocus_live.web import SERVER_OPTIONS, LiveHub, SliceSource, create_app

__all__ = ["PageServer"]

_USUAL_PORT = 8765


class PageServer:
    """Serves the live page until stopped. The port is taken when this is made.

    Parameters
    ----------
    web : WebConfig
        Where to serve.
    hub, source, status
        As `create_app` takes them.
    prefer_port : int or None
        Where an earlier daemon served its page: browsers wait for it there.

    Raises
    ------
    InputError
        If the port that the user asked for cannot be had.
    """

    def __init__(
        self,
        web: WebConfig,
        hub: LiveHub,
        source: SliceSource,
        status: Callable[[], dict[str, object]],
        *,
        prefer_port: int | None = None,
    ) -> None:
        self._socket = _listen(web, prefer_port)
        host = f"[{web.host}]" if ":" in web.host else web.host
        self.port: int = self._socket.getsockname()[1]
        self.address = f"http://{host}:{self.port}/"
        app = create_app(hub, source, status=status, allowed_hosts=[web.host])
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


def _listen(web: WebConfig, prefer_port: int | None) -> socket.socket:
    """Return a socket on the wanted port; on any free one where nobody insists on it."""
    insists = web.port is not None and prefer_port is None
    wanted = web.port if insists else (prefer_port or _USUAL_PORT)
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    for port in [wanted] if insists else [wanted, 0]:
        try:
            return socket.create_server((web.host, port or 0), family=family)
        except OSError as error:
            refusal = error
    raise InputError(
        f"the page cannot be served at {web.host}:{wanted}: {refusal.strerror}. "
        "Choose another --port (0 takes any that is free)."
    )
