"""Keeps other web pages out: Host and Origin checked, and a strict content policy.

A page from anywhere, open in the same browser, can send requests to loopback.
By DNS rebinding its own name may even lead here, so the Host header must be one
of ours; and what a browser says of where a request comes from (`Origin`,
`Sec-Fetch-Site`) must be this very page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

__all__ = ["LOOPBACK_HOSTS", "Guard"]

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY_VIOLATION: Final = 1008


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        problem = self._problem(scope["path"], Headers(scope=scope))
        if problem is None:
            await self._app(scope, receive, _with_security_headers(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(_POLICY_VIOLATION, problem)(scope, receive, send)
        else:
            refusal = PlainTextResponse(problem, status_code=403)
            await refusal(scope, receive, _with_security_headers(send))

    def _problem(self, path: str, headers: Headers) -> str | None:
        host = headers.get("host", "").lower()
        if _without_port(host) not in self._hosts:
            return "This page is not served under that host name."
        origin = headers.get("origin")
        if origin is not None and not _is_same_origin(origin, host):
            return "Only the page itself may ask for this."
        # Following a link here is fine, and comes from elsewhere; anything else is not.
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if elsewhere and path != "/":
            return "Only the page itself may ask for this."
        return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == host


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_with_headers
