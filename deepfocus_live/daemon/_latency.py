"""Rates and latencies over the last few hundred slices."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np

__all__ = ["LatencyWindow", "RateWindow"]


class LatencyWindow:
    """The latest latencies, in milliseconds. Thread-safe, bounded."""

    def __init__(self, size: int = 1000) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, milliseconds: float) -> None:
        """Count one more."""
        with self._lock:
            self._values.append(milliseconds)

    def summary(self) -> dict[str, float] | None:
        """Return median and 99th percentile, or None before the first."""
        with self._lock:
            values = list(self._values)
        if not values:
            return None
        p50, p99 = np.percentile(values, (50, 99))
        return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


class RateWindow:
    """Events per second over the last seconds. Thread-safe, bounded."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=4096)
        self._lock = threading.Lock()
        self.total = 0
        """Events ever."""

    def count(self) -> None:
        """Count one event now."""
        now = time.monotonic()
        with self._lock:
            self._times.append(now)
            while now - self._times[0] > self._seconds:
                self._times.popleft()
            self.total += 1

    def per_second(self) -> float:
        """Return the rate; 0 when nothing has happened for the whole window."""
        now = time.monotonic()
        with self._lock:
            recent = [at for at in self._times if now - at <= self._seconds]
        if len(recent) < 2:
            return 0.0
        return round((len(recent) - 1) / max(recent[-1] - recent[0], 1e-3), 2)
