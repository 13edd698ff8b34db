"""One browser that watches: what it has been sent, and what it is sent next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from deepfocus_live.web._pictures import Picture

__all__ = ["Viewer"]

_REMEMBERED = 8
# Two, so that one is on its way while the other is drawn. What the sockets would
# take without a count is megabytes: seconds of old pictures on a slow link.
_MOST_UNCONFIRMED = 2


class Viewer:
    """A viewer's state. Its methods run in its event loop.

    There is no queue: it is told what changed since it was last told, so a slow
    one gets the newest and misses what lay between.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.seen_version = 0
        self._woken = asyncio.Event()
        self._last_number = 0
        self._unconfirmed: set[int] = set()
        self._has_mask: OrderedDict[int, bool] = OrderedDict()

    def wake(self) -> None:
        """Say that there is news."""
        self._woken.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next news, or after `timeout_s`."""
        try:
            await asyncio.wait_for(self._woken.wait(), timeout_s)
        except TimeoutError:
            return
        self._woken.clear()

    def confirm(self, number: int) -> None:
        """Note that the browser has drawn a picture and can take another."""
        self._unconfirmed.discard(number)
        self.wake()

    def choose(self, pictures: Sequence[Picture]) -> list[bytes]:
        """Return the newest picture if the browser can take one, then masks it lacks."""
        messages = []
        newest = pictures[-1] if pictures else None
        if newest is not None and self._can_take(newest):
            messages.append(newest.message())
            self._last_number = newest.number
            self._unconfirmed.add(newest.number)
            self._remember(newest)
        for picture in pictures:
            if picture.mask_header is not None and self._has_mask.get(picture.number) is False:
                messages.append(picture.mask_message())
                self._has_mask[picture.number] = True
        return messages

    def _can_take(self, picture: Picture) -> bool:
        return picture.number > self._last_number and len(self._unconfirmed) < _MOST_UNCONFIRMED

    def _remember(self, picture: Picture) -> None:
        self._has_mask[picture.number] = picture.mask_header is not None
        while len(self._has_mask) > _REMEMBERED:
            self._has_mask.popitem(last=False)
