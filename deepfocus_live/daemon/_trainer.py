"""The trainer: `deepfocus-live retrain` in a process of its own, at low priority."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deepfocus_live import _platform
from deepfocus_live.config import Config
from deepfocus_live.model import Registry
from deepfocus_live.ring import log_path

__all__ = ["TrainerProcess"]

_MOST_RUNS = 4


class TrainerProcess:
    """Starts a fine-tune after every `learning.after_stacks` newly labelled stacks.

    What comes back is one thing: a new current model in the registry, if it
    passed the gate. The mask thread follows the registry by itself.

    Parameters
    ----------
    say : callable
        Called with one line when training begins and ends.
    """

    def __init__(self, config: Config, registry: Registry, say: Callable[[str], None]) -> None:
        self._config = config
        self._learning = config.learning
        self._registry = registry
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._stacks: dict[str, int] = {}
        self._runs: dict[str, list[Path]] = {}
        self._last: str | None = None

    def stack_labelled(self, profile: str, run: Path) -> None:
        """Count a stack of `run` that can be learned from."""
        self._stacks[profile] = self._stacks.get(profile, 0) + 1
        runs = [path for path in self._runs.get(profile, []) if path != run]
        self._runs[profile] = [*runs, run][-_MOST_RUNS:]

    def look(self) -> None:
        """Start a fine-tune that is due; notice one that has ended."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._last = "done" if self._process.returncode == 0 else "failed, see the log"
            self._say(f"fine-tuning: {self._last}")
            self._process = None
        due = self._learning.after_stacks
        for profile, count in self._stacks.items():
            if due and count >= due:
                self._stacks[profile] = 0
                self._start(profile)
                return

    def stop(self) -> None:
        """End a fine-tune under way; one of the same runs would go on from where it was."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def status(self) -> dict[str, Any]:
        """Return what the trainer is doing."""
        return {
            "running": self._process is not None,
            "after_stacks": self._learning.after_stacks,
            "stacks_since": dict(self._stacks),
            "last": self._last,
        }

    def _write_config(self) -> Path:
        """Write down the settings in force, those of the command line too."""
        path = _platform.runtime_dir() / "trainer.yaml"
        path.write_text(yaml.safe_dump(self._config.model_dump(mode="json")), encoding="utf-8")
        return path

    def _start(self, profile: str) -> None:
        command = [
            sys.executable,
            *("-m", "deepfocus_live", "retrain"),
            *(str(run) for run in self._runs[profile]),
            *("--profile", profile, "--minutes", str(self._learning.minutes)),
            *("--models", str(self._registry.root), "--activate", "--background"),
            *("--config", str(self._write_config())),
        ]
        log = log_path().with_name("trainer.log")
        if log.exists():
            # The last one's is kept, no more: nobody else bounds it.
            _platform.replace(log, log.with_name("trainer-before.log"))
        self._process = _platform.spawn_detached(command, log=log)
        self._say(f"fine-tuning profile {profile} for {self._learning.minutes:g} min")
