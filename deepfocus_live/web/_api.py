"""What the page reads: runs, stored slices and pixels, views of stacks, models."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deepfocus_live.frames import Placement
from deepfocus_live.web._answers import plain, refuse
from deepfocus_live.web._contrast import Contrast
from deepfocus_live.web._hub import LiveHub
from deepfocus_live.web._limits import TooManyError, Turnstile
from deepfocus_live.web._source import (
    NotPossibleError,
    Progress,
    RunSource,
    SliceSource,
    StackViews,
    ViewKind,
)
from deepfocus_live.web._views import pack_view
from deepfocus_live.web._volumes import VolumeServer

__all__ = ["ReadDoor"]

_LOG = logging.getLogger(__name__)
_RUN_ID = re.compile(r"[^\x00-\x1f/\\]{1,200}")
_NUMBER = re.compile(r"\d{1,9}")
_READS_AT_A_TIME, _READS_WAITING = 2, 64
_LISTINGS_AT_A_TIME, _LISTINGS_WAITING = 1, 32
_BINARY = "application/octet-stream"
_AS_SLICE = "Ask as {path}?run=…&image=0&t=0&c=0&z=0{more}, with whole numbers."

T = TypeVar("T")


class _AskedWronglyError(Exception):
    """The query is not what the route takes."""


class ReadDoor:
    """Answers what only reads. Every read is in a thread, and few at a time.

    Parameters
    ----------
    hub, source, runs, views, models, volumes
        As `create_app` takes them; what is None is answered with 404.
    """

    def __init__(
        self,
        hub: LiveHub,
        source: SliceSource,
        *,
        runs: RunSource | None = None,
        views: StackViews | None = None,
        models: Callable[[], dict[str, Any]] | None = None,
        volumes: VolumeServer | None = None,
    ) -> None:
        self._hub = hub
        self._source = source
        self._runs = runs
        self._views = views
        self._models = models
        self._volumes = volumes
        self._reads = Turnstile(_READS_AT_A_TIME, _READS_WAITING)
        self._listings = Turnstile(_LISTINGS_AT_A_TIME, _LISTINGS_WAITING)

    async def slice(self, request: Request) -> Response:
        """Answer `/api/slice`."""

        def read() -> Response:
            run_id, placement = _placement(request, "&low=…&high=… (or neither)")
            contrast = _contrast(request)
            read = self._source.read_slice(run_id, placement)
            message = self._hub.stored_picture(run_id, placement, read, contrast)
            return Response(message, media_type=_BINARY)

        return await self._answer(self._reads, read, "There is no such slice.")

    async def pixel(self, request: Request) -> Response:
        """Answer `/api/pixel`."""

        def read() -> Response:
            run_id, placement = _placement(request, "&y=0&x=0")
            y, x = _number(request, "y"), _number(request, "x")
            slice_read = self._source.read_slice(run_id, placement)
            height, width = slice_read.pixels.shape[-2:]
            if not (y < height and x < width):
                raise KeyError("outside")
            probability, mask = slice_read.probability, slice_read.mask
            part = None
            if probability is not None:
                rows, columns = probability.shape
                at = min(y * rows // height, rows - 1), min(x * columns // width, columns - 1)
                part = round(float(probability[at]) / 255, 4)
            counts = np.asarray(slice_read.pixels[..., y, x]).tolist()
            told = {"counts": counts, "probability": part}
            return JSONResponse({**told, "in_focus": None if mask is None else bool(mask[y, x])})

        return await self._answer(self._reads, read, "There is no such pixel.")

    async def runs(self, request: Request) -> Response:
        """Answer `/api/runs`."""

        def read() -> Response:
            listed = [self._with_volume(run) for run in _there(self._runs).list_runs()]
            return JSONResponse(plain({"runs": listed}))

        return await self._answer(self._listings, read, "Runs are not listed here.")

    async def run(self, request: Request) -> Response:
        """Answer `/api/run`."""

        def read() -> Response:
            described = _there(self._runs).describe_run(_run_id(request, "Ask as /api/run?run=…"))
            return JSONResponse(plain(self._with_volume(described)))

        return await self._answer(self._listings, read, "There is no such run.")

    async def models(self, request: Request) -> Response:
        """Answer `/api/models`."""

        def read() -> Response:
            return JSONResponse(plain(_there(self._models)()))

        return await self._answer(self._listings, read, "Models are not listed here.")

    async def view(self, request: Request) -> Response:
        """Answer `/api/projection` and `/api/volume`."""
        kind = cast("ViewKind", request.url.path.rpartition("/")[2])

        def read() -> Response:
            run_id, placement = _placement(request, "")
            key = placement.stack(run_id)
            found = _there(self._views).get(kind, key)
            if isinstance(found, Progress):
                return _progress(found)
            return Response(pack_view(key, found), media_type=_BINARY)

        return await self._answer(self._reads, read, "There is no such stack.")

    def _with_volume(self, run: dict[str, Any]) -> dict[str, Any]:
        served = self._volumes is not None and run.get("pixels_stored")
        address = self._volumes.address(run["id"]) if self._volumes and served else None
        return {**run, "volume": address}

    async def _answer(
        self, turnstile: Turnstile, read: Callable[[], Response], absent: str
    ) -> Response:
        try:
            async with turnstile.enter():
                return await asyncio.to_thread(read)
        except TooManyError:
            return refuse(429, "Too much at once: ask again.")
        except _AskedWronglyError as error:
            return refuse(400, str(error))
        except KeyError:
            return refuse(404, absent)
        except NotPossibleError as error:
            return refuse(409, str(error))
        except Exception:
            _LOG.exception("The page's request could not be answered")
            return refuse(500, "This could not be read; see the daemon's log.")


def _there(value: T | None) -> T:
    if value is None:
        raise KeyError("not served")
    return value


def _progress(progress: Progress) -> Response:
    if progress.part is None:
        return JSONResponse({"state": "queued"}, status_code=202)
    told = {"state": "working", "progress": round(progress.part, 3)}
    return JSONResponse(told, status_code=202)


def _run_id(request: Request, words: str) -> str:
    run_id = request.query_params.get("run", "")
    if not _RUN_ID.fullmatch(run_id):
        raise _AskedWronglyError(words)
    return run_id


def _placement(request: Request, more: str) -> tuple[str, Placement]:
    words = _AS_SLICE.format(path=request.url.path, more=more)
    run_id = _run_id(request, words)
    return run_id, Placement(*(_number(request, axis, words) for axis in Placement._fields))


def _number(request: Request, name: str, words: str = "") -> int:
    text = request.query_params.get(name, "0")
    if not _NUMBER.fullmatch(text):
        raise _AskedWronglyError(words or f"{name} is a whole number.")
    return int(text)


def _contrast(request: Request) -> Contrast | None:
    """Return the contrast that the viewer chose, if any."""
    given = [name for name in ("low", "high") if name in request.query_params]
    if not given:
        return None
    low, high = _number(request, "low"), _number(request, "high")
    if len(given) < 2 or not low < high <= 65535:
        raise _AskedWronglyError("low and high are counts, low below high, 65535 at most.")
    return Contrast(float(low), float(high))
