"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["ProgressLine"]

_PLAIN_EVERY_S = 5.0


class ProgressLine:
    """One job's progress, written to stderr so that stdout stays for results."""

    def __init__(self, total: float) -> None:
        self._total = total
        self._done = 0.0
        self._console = Console(stderr=True)
        self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def advance(self, text: str, by: float = 1.0) -> None:
        """Say that `by` more is done, and what comes now."""
        self.reach(self._done + by, text)

    def reach(self, done: float, text: str) -> None:
        """Say that `done` of the total is done, and what comes now."""
        self._done = done
        self._bar.update(self._task, completed=done, description=text)
        plain = not self._console.is_terminal
        if plain and time.monotonic() - self._said > _PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._console.print(f"{100 * done / self._total:.0f} % {text}", markup=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
