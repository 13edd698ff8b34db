"""The page's own files, read once: no path from a request reaches the file system."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

__all__ = ["StaticFile", "load_static", "respond"]

_FOLDER: Final = Path(__file__).parent / "static"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class StaticFile(NamedTuple):
    """One file in memory."""

    content: bytes
    media_type: str
    etag: str


def load_static() -> dict[str, StaticFile]:
    """Return the page's files by name."""
    return {path.name: _load(path) for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}


def respond(request: Request, file: StaticFile | None) -> Response:
    """Return the file, or only that it has not changed."""
    if file is None:
        return PlainTextResponse("No such file.", status_code=404)
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _load(path: Path) -> StaticFile:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return StaticFile(content, _MEDIA_TYPES[path.suffix], etag)
