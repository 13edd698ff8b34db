"""The port of the page, taken before there is a page."""

from __future__ import annotations

import socket

from deepfocus_live.config import WebConfig
from deepfocus_live.daemon._page._key import is_loopback, page_host, page_key
from deepfocus_live.errors import InputError

__all__ = ["listen_for_page", "page_address"]

_USUAL_PORT = 8765


def listen_for_page(web: WebConfig, prefer_port: int | None = None) -> socket.socket:
    """Return a socket on the wanted port; on any free one where nobody insists on it.

    Browsers that come before the page is served wait there.

    Parameters
    ----------
    web : WebConfig
        Where to serve.
    prefer_port : int or None
        Where an earlier daemon served its page: browsers wait for it there.

    Raises
    ------
    InputError
        If the port that the user asked for cannot be had.
    """
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


def page_address(web: WebConfig, listening: socket.socket) -> str:
    """Return the address of the page that is served at a socket, with its key where it has one."""
    name = page_host(web.host)
    host = f"[{name}]" if ":" in name else name
    key = "" if is_loopback(web.host) else f"?key={page_key()}"
    return f"http://{host}:{listening.getsockname()[1]}/{key}"
