"""The key of a page that is served to other computers: one, kept, readable by its user only."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
from pathlib import Path

from deepfocus_live import _platform

__all__ = ["is_loopback", "page_host", "page_key"]

_KEY = re.compile(r"[A-Za-z0-9_-]{43}")
_EVERYWHERE = ("0.0.0.0", "::", "")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Return whether what is served there can be reached from this computer only."""
    return host in _LOOPBACK or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def page_host(host: str) -> str:
    """Return the name that a browser is to ask for, of what is bound to `host`."""
    return socket.gethostname() if host in _EVERYWHERE else host


def page_key() -> str:
    """Return the key, made where there is none: links and cookies outlive a daemon."""
    path = _key_file()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        kept = path.read_text(encoding="ascii").strip()
        if _KEY.fullmatch(kept):
            return kept
    key = secrets.token_urlsafe(32)
    _platform.replace_file(path, key.encode("ascii"), private=True)
    return key


def _key_file() -> Path:
    return _platform.runtime_dir() / "page.key"
