"""A run's OME-Zarr store over HTTP: read-only, at an address that nobody can guess.

Design Notes
------------
The address is the right: whoever knows a run's secret may read that run, and programs that open
OME-Zarr by address can send nothing else. It is reckoned from a key that stays on this computer,
so that links go on working when the daemon starts anew. What follows the secret is held against
the names that a store of ours can have before a path is made of it, so no name can lead out, and
what was made of it is resolved and must lie in the store, so that no link in the store does either.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from deepfocus_live.web._answers import refuse
from deepfocus_live.web._limits import TooManyError, Turnstile
from deepfocus_live.web._source import RunSource

__all__ = ["VolumeServer", "is_store_key"]

_IMAGE = r"(?:\d{1,6}|[A-Za-z0-9]{1,16}/[A-Za-z0-9]{1,16}/\d{1,6})"
_LABEL = r"(?:in_focus|weak_label|undecided|corrected)"
_ARRAY = r"\d{1,2}/(?:zarr\.json|c(?:/\d{1,9}){5})"
_KEY: Final = re.compile(
    rf"zarr\.json|OME/(?:zarr\.json|METADATA\.ome\.xml)"
    rf"|[A-Za-z0-9]{{1,16}}(?:/[A-Za-z0-9]{{1,16}})?/zarr\.json"
    rf"|{_IMAGE}/(?:zarr\.json|{_ARRAY}|labels/zarr\.json|labels/{_LABEL}/(?:zarr\.json|{_ARRAY}))"
)
_DEVICES: Final = re.compile(r"(?:^|/)(?:con|prn|aux|nul|com\d|lpt\d)(?:/|$)", re.IGNORECASE)
"""Names that are no files on Windows, whatever folder they seem to lie in."""

_SECRET: Final = re.compile(r"[0-9a-f]{40}")
_TYPES: Final = {".json": "application/json", ".xml": "application/xml"}


def is_store_key(key: str) -> bool:
    """Return whether a Zarr store of a run can have something of this name."""
    return _KEY.fullmatch(key) is not None and _DEVICES.search(key) is None


class VolumeServer:
    """Serves the stores of runs.

    Parameters
    ----------
    runs : RunSource
        Knows which there are.
    key : bytes
        What the secrets are reckoned from.
    origins : iterable of str
        Origins of web pages that may read, as `https://example.org`.
    """

    def __init__(self, runs: RunSource, *, key: bytes, origins: Iterable[str] = ()) -> None:
        self._runs = runs
        self._key = key
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._stores: dict[str, Path] = {}
        self._turns = Turnstile(2, 256)

    def address(self, run_id: str) -> str:
        """Return where a run's store is, from the root of the server on."""
        return f"/volumes/{self._secret(run_id)}/"

    def allows(self, origin: str) -> bool:
        """Return whether pages of this origin may read."""
        return origin.lower() in self._origins

    async def answer(self, request: Request) -> Response:
        """Answer GET, HEAD and a browser's question before them."""
        headers = self._headers(request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        key = str(request.path_params["key"])
        if not is_store_key(key):
            return _with(refuse(404, "There is no such thing."), headers)
        try:
            async with self._turns.enter():
                content = await asyncio.to_thread(self._read, request.path_params["secret"], key)
        except TooManyError:
            return _with(refuse(429, "Too much at once: ask again."), headers)
        except (KeyError, OSError):
            return _with(refuse(404, "There is no such thing."), headers)
        kind = _TYPES.get(Path(key).suffix, "application/octet-stream")
        return Response(content, media_type=kind, headers=headers)

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Cross-Origin-Resource-Policy": "cross-origin", "Vary": "Origin"}
        origin = request.headers.get("origin", "")
        if not self.allows(origin):
            return headers
        headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, HEAD"
            headers["Access-Control-Allow-Headers"] = "Range"
            headers["Access-Control-Max-Age"] = "600"
            # Browsers ask this before a page of the internet may reach a private address.
            if request.headers.get("access-control-request-private-network") == "true":
                headers["Access-Control-Allow-Private-Network"] = "true"
        return headers

    def _read(self, secret: str, key: str) -> bytes:
        store = self._store(secret)
        path = (store / key).resolve()
        if not path.is_relative_to(store):
            raise KeyError(key)
        return path.read_bytes()

    def _store(self, secret: str) -> Path:
        if secret in self._stores:
            return self._stores[secret]
        if not _SECRET.fullmatch(secret):
            raise KeyError(secret)
        for run in self._runs.list_runs():
            # Compared whole: time tells nothing of how near a guess is.
            if hmac.compare_digest(self._secret(run["id"]), secret):
                store = self._stores[secret] = self._runs.store_of(run["id"]).resolve()
                return store
        raise KeyError(secret)

    def _secret(self, run_id: str) -> str:
        return hmac.new(self._key, run_id.encode(), hashlib.sha256).hexdigest()[:40]


def _with(answer: Response, headers: Mapping[str, str]) -> Response:
    answer.headers.update(headers)
    return answer
