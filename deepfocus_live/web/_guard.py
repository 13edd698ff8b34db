"""Keeps others out: Host and Origin checked, a key where it is needed, a strict content policy.

A page from anywhere, open in the same browser, can send requests to loopback.
By DNS rebinding its own name may even lead here, so the Host header must be one
of ours; and what a browser says of where a request comes from (`Origin`,
`Sec-Fetch-Site`) must be this very page.

Where the page is served to other computers, whoever asks must know the key. A browser gets it in
the address, once, and keeps it as a cookie that no script can read and no other site can have sent.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

__all__ = ["LOOPBACK_HOSTS", "Guard"]

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        # Plotly puts an empty style element into the page, whose hash this is, and writes rules
        # into it from its script; and it writes style attributes.
        "default-src 'none'; script-src 'self'; "
        "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
        "style-src-attr 'unsafe-inline'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY_VIOLATION: Final = 1008
_VOLUMES: Final = "/volumes/"
_KEY_SECONDS: Final = 30 * 24 * 3600
_ENTRANCE: Final = (
    '<!doctype html><meta charset="utf-8"><title>deepfocus-live</title>'
    '<meta http-equiv="refresh" content="0;url=/"><p><a href="/">deepfocus-live</a></p>'
)
"""Leads on to the page without the key: no redirection, after which no strict cookie is sent."""
_FOREIGN = (403, "Only the page itself may ask for this.")
_NO_KEY = (401, "Open the address that `deepfocus-live status` prints: it carries the key.")


class Guard:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    allowed_hosts : iterable of str
        Names (without port) that the page may be asked for by.
    any_address : bool
        Whether every IP address is such a name: no other site can take one for its own.
    key : str or None
        What whoever asks must know; None: nothing.
    reads_volumes : callable
        Whether pages of an origin may read below `/volumes/`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Iterable[str],
        any_address: bool = False,
        key: str | None = None,
        reads_volumes: Callable[[str], bool] = lambda _origin: False,
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in allowed_hosts)
        self._any_address = any_address
        self._key = None if key is None else key.encode()
        self._reads_volumes = reads_volumes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._problem(scope["path"], headers)
        if problem is None and self._brings_key(scope):
            entrance = HTMLResponse(_ENTRANCE, headers={"Set-Cookie": self._cookie(headers)})
            await entrance(scope, receive, _with_security_headers(send))
            return
        if problem is None and not self._may_enter(scope["path"], headers):
            problem = _NO_KEY
        if problem is None:
            await self._app(scope, receive, _with_security_headers(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(_POLICY_VIOLATION, problem[1])(scope, receive, send)
        else:
            refusal = JSONResponse({"error": problem[1]}, status_code=problem[0])
            await refusal(scope, receive, _with_security_headers(send))

    def _problem(self, path: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        if not self._is_ours(_without_port(host)):
            return (403, "This page is not served under that host name.")
        origin = headers.get("origin")
        reads = path.startswith(_VOLUMES) and origin is not None and self._reads_volumes(origin)
        if origin is not None and not (reads or _is_same_origin(origin, host)):
            return _FOREIGN
        # Following a link here is fine, and comes from elsewhere; anything else is not.
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if elsewhere and not (path == "/" or reads):
            return _FOREIGN
        return None

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _may_enter(self, path: str, headers: Headers) -> bool:
        # Below /volumes/ the address itself is the key: what opens such an address sends no other.
        if self._key is None or path.startswith(_VOLUMES):
            return True
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_key(shown.strip()):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        cookie = cookies.get(_cookie_name(headers))
        return cookie is not None and self._is_key(cookie.value)

    def _brings_key(self, scope: Scope) -> bool:
        if self._key is None or scope["type"] != "http" or scope["path"] != "/":
            return False
        try:
            query = parse_qs(scope["query_string"].decode("ascii", "replace"), max_num_fields=8)
        except ValueError:
            return False
        return any(self._is_key(shown) for shown in query.get("key", []))

    def _is_key(self, shown: str) -> bool:
        return self._key is not None and secrets.compare_digest(
            shown.encode("utf-8", "replace"), self._key
        )

    def _cookie(self, headers: Headers) -> str:
        key = (self._key or b"").decode()
        return (
            f"{_cookie_name(headers)}={key}; Path=/; Max-Age={_KEY_SECONDS}; HttpOnly; "
            "SameSite=Strict"
        )


def _cookie_name(headers: Headers) -> str:
    # Cookies know no ports: two users of one computer have a daemon each.
    port = headers.get("host", "").rpartition(":")[2]
    return f"deepfocus_{port if port.isdigit() else 80}"


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
