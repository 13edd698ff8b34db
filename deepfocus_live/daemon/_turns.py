"""Worker threads that take what waits in turns: one job of each queue, then the next of each.

Design Notes
------------
A client that floods has a long queue, and nobody else waits behind it: whoever comes is served
after the jobs in hand. A queue whose jobs cannot be done now (its disk refuses) rests, and holds no
thread meanwhile: another one's disk may be well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

__all__ = ["Turns"]

log = logging.getLogger(__name__)

Job = Callable[[], float | None]
"""Returns None, or after how many seconds it is to be tried again."""


@dataclass
class _Queue:
    jobs: deque[Job] = field(default_factory=deque)
    rests_until: float = 0.0


class Turns:
    """Threads that work off queues in turns, each in its own order.

    Parameters
    ----------
    threads : int
    name : str
        Of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        # In the order in which they come next.
        self._queues: dict[Hashable, _Queue] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, key: Hashable, job: Job) -> None:
        """Queue a job; passed over when stopping."""
        with self._changed:
            if not self._stopping:
                self._queues.setdefault(key, _Queue()).jobs.append(job)
                self._changed.notify()

    def put_again(self, key: Hashable, job: Job, after_s: float) -> None:
        """Put a job back as the first of its queue, which rests for so long."""
        with self._changed:
            if not self._stopping:
                queue = self._queues.setdefault(key, _Queue())
                queue.jobs.appendleft(job)
                queue.rests_until = time.monotonic() + after_s
                self._changed.notify()

    def stop(self) -> None:
        """End the threads after the jobs in hand; what waits is dropped."""
        with self._changed:
            self._stopping = True
            self._queues.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            key, job = taken
            try:
                after_s = job()
            except Exception:
                # A thread lost to one job would be missed by all.
                log.exception("a job has failed")
                continue
            if after_s is not None:
                self.put_again(key, job, after_s)

    def _take(self) -> tuple[Hashable, Job] | None:
        """Wait for a job and take it; None: it is over."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                for key, queue in self._queues.items():
                    if queue.rests_until <= now:
                        return key, self._take_from(key, queue)
                resting = [queue.rests_until for queue in self._queues.values()]
                self._changed.wait(min(resting) - now if resting else None)
            return None

    def _take_from(self, key: Hashable, queue: _Queue) -> Job:
        """Take the first job of a queue, which goes behind all others: there are no empty ones."""
        del self._queues[key]
        job = queue.jobs.popleft()
        if queue.jobs:
            self._queues[key] = queue
        return job
