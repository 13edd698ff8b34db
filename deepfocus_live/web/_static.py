"""The page's own files, read once: no path from a request reaches the file system."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

__all__ = ["PLOTLY", "StaticFile", "load_plotly", "load_static", "respond"]

PLOTLY: Final = "plotly.min.js"
_FOLDER: Final = Path(__file__).parent / "static"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


class StaticFile(NamedTuple):
    """One file in memory."""

    content: bytes
    media_type: str
    etag: str
    gzipped: bytes | None = None
    """The same, smaller, where that is worth it."""


def load_static() -> dict[str, StaticFile]:
    """Return the page's files by name; of those in folders it begins with the folders'."""
    found = sorted(path for path in _FOLDER.rglob("*") if path.suffix in _MEDIA_TYPES)
    return {
        path.relative_to(_FOLDER).as_posix(): _make(path.read_bytes(), path.suffix)
        for path in found
    }


@cache
def load_plotly() -> StaticFile | None:
    """Return Plotly's file as its Python package ships it; None where that is not installed.

    Takes a fifth of a second, once.
    """
    # Looked for and not imported: the package takes longer to import than the file to read.
    package = importlib.util.find_spec("plotly")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "package_data" / PLOTLY
        if path.is_file():
            file = _make(path.read_bytes(), path.suffix)
            return file._replace(gzipped=gzip.compress(file.content, 6, mtime=0))
    return None


def respond(request: Request, file: StaticFile | None) -> Response:
    """Return the file, or only that it has not changed."""
    if file is None:
        return PlainTextResponse("No such file.", status_code=404)
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    content = file.content
    if file.gzipped is not None:
        headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = file.gzipped
            headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=file.media_type, headers=headers)


def _make(content: bytes, suffix: str) -> StaticFile:
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return StaticFile(content, _MEDIA_TYPES[suffix], etag)
