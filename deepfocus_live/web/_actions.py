"""What the page may have the daemon do, and the door to it.

An action is asked for by the page itself or not at all: a POST of JSON, which no form and no
picture of another page can send without the browser asking us first, with a token that only what
may read our answers can know, behind `Guard`'s look at Host and Origin.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from deepfocus_live.errors import InputError
from deepfocus_live.web._answers import refuse
from deepfocus_live.web._limits import Allowance

__all__ = ["ACTIONS", "ActionDoor", "Actions", "Outcome"]

_LOG = logging.getLogger(__name__)
_TOKEN_HEADER = "x-deepfocus-token"
_MOST_BYTES = 4096
_LONGEST_VALUE = 100
_AT_ONCE, _PER_SECOND = 10, 1.0

ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "pause-masks": (),
    "resume-masks": (),
    "retrain": ("profile",),
    "use-model": ("name", "profile"),
    "rollback": ("profile",),
    "choose-profile": ("profile",),
    "stop-after-run": (),
}
"""Each action and the keys of its body."""

_MAY_BE_NULL: Final = frozenset({("choose-profile", "profile")})


class Outcome(NamedTuple):
    """What came of an action, in words for the person who asked for it."""

    ok: bool
    text: str


class Actions(Protocol):
    """Does what the page asks for; called in a thread, one call at a time.

    A method may raise `InputError` where it cannot do what was asked for.
    """

    @property
    def available(self) -> Collection[str]:
        """Names of `ACTIONS` that can be had."""
        ...

    def pause_masks(self) -> Outcome:
        """Make no masks until they are resumed; slices are stored all the same."""
        ...

    def resume_masks(self) -> Outcome:
        """Make masks again, all that are owed."""
        ...

    def retrain(self, profile: str) -> Outcome:
        """Fine-tune a profile's model now."""
        ...

    def use_model(self, name: str, profile: str) -> Outcome:
        """Make a version the current one of a profile."""
        ...

    def rollback(self, profile: str) -> Outcome:
        """Make the version before the current one current again."""
        ...

    def choose_profile(self, profile: str | None) -> Outcome:
        """Give runs to come a profile; None: those that match their channels."""
        ...

    def stop_after_run(self) -> Outcome:
        """End the daemon once no run is open."""
        ...


class ActionDoor:
    """Lets an action through that is asked for in order.

    Attributes
    ----------
    token : str
        What the page must show; another for each daemon.
    """

    def __init__(self, actions: Actions | None) -> None:
        self._actions = actions
        self.token = secrets.token_urlsafe(32)
        self._allowance = Allowance(_AT_ONCE, _PER_SECOND)
        self._turn = asyncio.Lock()

    @property
    def available(self) -> list[str]:
        """Names of the actions that can be had, as the page lists them."""
        there = () if self._actions is None else self._actions.available
        return [name for name in ACTIONS if name in there]

    async def answer(self, request: Request) -> Response:
        """Do what a POST to `/api/actions/{name}` asks for."""
        shown = request.headers.get(_TOKEN_HEADER, "").encode("utf-8", "replace")
        if not secrets.compare_digest(shown, self.token.encode()):
            return refuse(403, "The page is older than this daemon: ask for a new token.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return refuse(415, "Send JSON, as application/json.")
        name = str(request.path_params["name"])
        if name not in ACTIONS:
            return refuse(404, "There is no such action.")
        if not self._allowance.take():
            return refuse(429, "Too many actions at once: wait a second.")
        if (raw := await _read_body(request)) is None:
            return refuse(413, f"An action has {_MOST_BYTES} bytes at most.")
        if (arguments := _arguments(name, raw)) is None:
            keys = ", ".join(ACTIONS[name]) or "none"
            return refuse(400, f"{name} takes a JSON object with the keys: {keys}.")
        if name not in self.available:
            return _answer(Outcome(False, f"{name} is not available here."))
        async with self._turn:
            return await asyncio.to_thread(self._do, name, arguments)

    def _do(self, name: str, arguments: dict[str, str | None]) -> Response:
        try:
            outcome = getattr(self._actions, name.replace("-", "_"))(**arguments)
        except InputError as error:
            outcome = Outcome(False, str(error))
        except Exception:
            _LOG.exception("The page's action %s failed", name)
            return refuse(500, "That failed; see the daemon's log.")
        _LOG.info("the page's action %s: %s", name, outcome.text)
        return _answer(outcome)


def _answer(outcome: Outcome) -> Response:
    return JSONResponse(outcome._asdict(), status_code=200 if outcome.ok else 409)


async def _read_body(request: Request) -> bytes | None:
    """Return the body, or None where it is too long; no more of it than that is read."""
    raw = b""
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > _MOST_BYTES:
                return None
    except ClientDisconnect:
        return b""
    return raw


def _arguments(name: str, raw: bytes) -> dict[str, str | None] | None:
    """Return what an action is to be called with; None where it is not what the action takes."""
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or set(body) != set(ACTIONS[name]):
        return None
    for key, value in body.items():
        if value is None and (name, key) in _MAY_BE_NULL:
            continue
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_VALUE:
            return None
    return body
