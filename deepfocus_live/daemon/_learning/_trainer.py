"""The trainer: one fine-tune at a time, in a process of its own, at the lowest priority.

It hands back one thing, a candidate in the registry. Whether and when to train, and what becomes
of the candidate, is not decided here.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepfocus_live import _platform
from deepfocus_live.config import Config
from deepfocus_live.model import Registry
from deepfocus_live.ring import log_path
from deepfocus_live.training import TrainerFolder, TrainerOrder, TrainingJob

__all__ = ["TrainerNews", "TrainerProcess"]

_STOP_S = 5.0
_MODULE = "deepfocus_live.training._trainer_main"
_PROGRESS = ("step", "loss", "iou", "done", "message")

Line = dict[str, Any]


@dataclass(frozen=True)
class TrainerNews:
    """What became of a fine-tune.

    Attributes
    ----------
    state : "passed", "refused", "failed" or "stopped"
        By the gate, the first two: then there is a candidate. "failed": nothing could be learnt,
        or the process ended by itself. "stopped": as it was asked to; started again with the same
        job it goes on from there.
    version : str or None
        The candidate's name in the registry; it is not the current model.
    reason : str
        One line.
    metrics : dict
        Of a candidate: `iou_before`, `iou_after` on what was held out, `truth` those are measured
        against, `empty_share_before`, `empty_share_after`, the gate's `checks`, `steps`, `minutes`,
        `stacks`, `left_out`, `held_out`, `parent`.
    """

    state: Literal["passed", "refused", "failed", "stopped"]
    version: str | None
    reason: str
    metrics: dict[str, Any] = field(default_factory=dict)


class TrainerProcess:
    """Starts, holds, ends and listens to the trainer. Safe to call from several threads.

    Parameters
    ----------
    config : Config
        In force; its `learning` sets the budget of threads and memory.
    registry : Registry
        Where candidates go.
    say : callable
        Called with one line when a fine-tune begins and ends.
    """

    def __init__(self, config: Config, registry: Registry, say: Callable[[str], None]) -> None:
        self._config = config
        self._registry = registry
        self._say = say
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: TrainerFolder | None = None
        self._stopping = False
        self._paused = False
        self._progress: Line = {}
        self._outcome: Line | None = None
        self._news: TrainerNews | None = None

    def reconfigure(self, config: Config) -> None:
        """Start the fine-tunes to come with other settings."""
        self._config = config

    def start(self, job: TrainingJob) -> None:
        """Start a fine-tune. Where it cannot be, `look` says so.

        Raises
        ------
        RuntimeError
            If one is running.
        """
        with self._lock:
            if self._process is not None:
                raise RuntimeError("a trainer is running: wait for it, or stop it first")
            self._news = self._outcome = None
            self._progress, self._stopping, self._paused = {}, False, False
            try:
                self._spawn(job)
            except OSError as error:
                self._clear()
                reason = f"the trainer cannot be started: {error.strerror or error}"
                self._news = TrainerNews("failed", None, reason)
                return
        self._say(f"fine-tuning profile {job.profile} for {job.minutes:g} min")

    def look(self) -> TrainerNews | None:
        """Return what became of a fine-tune, once, after its process has ended; None else."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._settle(self._process.returncode)
            news, self._news = self._news, None
        if news is not None:
            self._say(f"fine-tuning: {news.state}: {news.reason}")
        return news

    @property
    def running(self) -> bool:
        """Whether there is a process, until `look` has had its news."""
        with self._lock:
            return self._process is not None

    @property
    def progress(self) -> dict[str, Any]:
        """How far it is: step, loss, iou, done (0..1), message; empty when idle."""
        with self._lock:
            self._listen()
            return dict(self._progress)

    def pause(self, paused: bool) -> None:
        """Hold the training between two steps, or let it go on; its minutes stand still."""
        with self._lock:
            if self._folder is not None and paused != self._paused:
                self._paused = paused
                with contextlib.suppress(OSError):
                    self._folder.pause(paused)

    def stop(self) -> None:
        """End the fine-tune at once; waits at most 5 s, then kills. `look` has the news."""
        with self._lock:
            process, folder = self._process, self._folder
            self._stopping = process is not None
        if process is None or folder is None:
            return
        with contextlib.suppress(OSError):
            folder.ask_to_stop()
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._lock:
            if self._process is process:
                self._settle(process.returncode)

    # --- with the lock held --------------------------------------------------------------------

    def _spawn(self, job: TrainingJob) -> None:
        home = _platform.runtime_dir()
        # There is one daemon to a runtime folder: what lies there is of one that was killed.
        TrainerFolder.sweep(home)
        owner = _platform.ProcessStamp.mine()
        order = TrainerOrder(job, self._config, self._registry.root, owner)
        self._folder = TrainerFolder.create(home, order)
        command = [sys.executable, "-m", _MODULE, str(self._folder.path)]
        self._process = _platform.spawn_detached(command, log=_fresh_log())

    def _listen(self) -> None:
        if self._folder is None:
            return
        for line in self._folder.news():
            if "state" in line:
                self._outcome = line
            else:
                self._progress = {key: line.get(key) for key in _PROGRESS}

    def _settle(self, code: int) -> None:
        """Turn what an ended process has said into news."""
        self._listen()
        said = self._outcome
        if said is not None:
            self._news = TrainerNews(
                said["state"], said["version"], said["reason"], dict(said["metrics"])
            )
        elif self._stopping:
            self._news = TrainerNews("stopped", None, "stopped in the middle of a step")
        else:
            reason = f"the trainer ended with exit code {code}; {_log()} says more"
            self._news = TrainerNews("failed", None, reason)
        self._clear()

    def _clear(self) -> None:
        if self._folder is not None:
            self._folder.remove()
        self._process, self._folder, self._outcome = None, None, None
        self._progress, self._stopping, self._paused = {}, False, False


def _log() -> Path:
    return log_path().with_name("trainer.log")


def _fresh_log() -> Path:
    """Return the trainer's log, empty; the last one's is kept beside it, no more."""
    log = _log()
    if log.exists():
        # One that a reader holds open on Windows is written on.
        with contextlib.suppress(OSError):
            _platform.replace(log, log.with_name("trainer-before.log"))
    return log
