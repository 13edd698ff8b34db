"""The daemon's status as JSON, asked for once for all viewers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from deepfocus_live.web._answers import plain

__all__ = ["StatusText"]

_LOG = logging.getLogger(__name__)
_KEEP_S = 0.4


class StatusText:
    """Calls `status` in a thread, at most every 0.4 s however many ask."""

    def __init__(self, status: Callable[[], dict[str, object]]) -> None:
        self._status = status
        self._lock = asyncio.Lock()
        self._made_at = -math.inf
        self._text = "{}"

    async def get(self) -> str:
        """Return the status as a JSON object."""
        async with self._lock:
            if time.monotonic() - self._made_at > _KEEP_S:
                self._text = await asyncio.to_thread(self._ask)
                self._made_at = time.monotonic()
            return self._text

    async def values(self) -> dict[str, Any]:
        """Return the status as it was read from that object."""
        values: dict[str, Any] = json.loads(await self.get())
        return values

    def _ask(self) -> str:
        try:
            return json.dumps(plain(self._status()), allow_nan=False, default=str)
        except Exception as error:
            # The page must go on, and say that something is wrong.
            _LOG.exception("The status for the page could not be made")
            warning = {"text": f"No status: {error}", "count": 1}
            return json.dumps({"state": "unknown", "warnings": [warning]})
