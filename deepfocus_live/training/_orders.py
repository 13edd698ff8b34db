"""The folder through which a daemon and its trainer talk: orders in, news out.

Design Notes
------------
Plain files, as they work alike on every system. A pipe would not: on Windows a thread that waits
for a line on it holds up the loading of libraries. The daemon writes `order.json` before it starts
the trainer; a file named `stop` or `pause` asks for that as long as it is there; a folder that is
gone asks to stop, too. The trainer writes `news.jsonl`, a line for each percent done at most, the
last of which is the outcome. One folder serves one training.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfocus_live import _platform
from deepfocus_live.config import Config
from deepfocus_live.errors import InputError
from deepfocus_live.training._job import TrainingJob

__all__ = ["OUTCOMES", "TrainerFolder", "TrainerOrder"]

OUTCOMES = ("passed", "refused", "failed", "stopped")
_PREFIX = "trainer-"
_MOST_LINES = 2000  # a training says a few hundred at most


@dataclass(frozen=True)
class TrainerOrder:
    """All that a trainer needs to know.

    Attributes
    ----------
    job : TrainingJob
    config : Config
        In force, the options of the command line too.
    models : Path
        The registry's folder.
    owner : ProcessStamp
        Of the daemon: when it is gone, the trainer ends.
    """

    job: TrainingJob
    config: Config
    models: Path
    owner: _platform.ProcessStamp


class TrainerFolder:
    """One training's folder, for both sides.

    Parameters
    ----------
    path : Path
        As `create` made it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0
        self._lines_told = 0

    # --- the daemon's side ---------------------------------------------------------------------

    @classmethod
    def create(cls, home: Path, order: TrainerOrder) -> TrainerFolder:
        """Make a folder below `home` with an order in it.

        Raises
        ------
        OSError
            If the disk refuses; nothing is left behind then.
        """
        folder = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home)))
        said = {
            "job": order.job.as_dict(),
            "config": order.config.model_dump(mode="json"),
            "models": str(order.models.absolute()),
            "owner": {"pid": order.owner.pid, "started": order.owner.started},
        }
        try:
            folder._order.write_text(json.dumps(said), encoding="utf-8")
        except BaseException:
            folder.remove()
            raise
        return folder

    @staticmethod
    def sweep(home: Path) -> None:
        """Remove the folders that a daemon who was killed has left; trainers of his then end."""
        for path in home.glob(f"{_PREFIX}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def ask_to_stop(self) -> None:
        """Ask the trainer to end at once."""
        _put(self._stop)

    def pause(self, paused: bool) -> None:
        """Ask the trainer to wait, or to go on."""
        if paused:
            _put(self._pause)
        else:
            with contextlib.suppress(OSError):
                self._pause.unlink(missing_ok=True)

    def news(self) -> list[dict[str, Any]]:
        """Return what was told since the last call: whole lines, oldest first."""
        try:
            with self._news.open("rb") as file:
                file.seek(self._read_to)
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return []
        if lines and not lines[-1].endswith(b"\n"):
            del lines[-1]
        self._read_to += sum(map(len, lines))
        return [json.loads(line) for line in lines]

    def remove(self) -> None:
        """Remove the folder, as far as nobody holds it open."""
        shutil.rmtree(self.path, ignore_errors=True)

    # --- the trainer's side --------------------------------------------------------------------

    def order(self) -> TrainerOrder:
        """Return what is to be done.

        Raises
        ------
        InputError
            If there is no order, or it cannot be followed.
        """
        try:
            said = json.loads(self._order.read_text(encoding="utf-8"))
            owner = said["owner"]
            return TrainerOrder(
                TrainingJob.from_dict(said["job"]),
                Config.model_validate(said["config"]),
                Path(said["models"]),
                _platform.ProcessStamp(int(owner["pid"]), float(owner["started"])),
            )
        except InputError as error:
            raise InputError(f"{self._order}: {error}") from None
        except OSError as error:
            raise InputError(f"{self._order}: no order ({error.strerror or error})") from None
        except (KeyError, TypeError, ValueError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"{self._order}: damaged ({type(error).__name__}: {what})") from None

    @property
    def stop_asked(self) -> bool:
        """Whether the trainer is to end."""
        return self._stop.exists() or not self.path.exists()

    @property
    def paused(self) -> bool:
        """Whether the trainer is to wait."""
        return self._pause.exists()

    def tell(self, line: Mapping[str, Any], *, last: bool = False) -> None:
        """Append one line of news; there is always room for the last."""
        if self._lines_told >= _MOST_LINES and not last:
            return
        self._lines_told += 1
        # What cannot be told must not end a training. In one call: a reader sees whole lines.
        with contextlib.suppress(OSError), self._news.open("ab", buffering=0) as file:
            file.write(json.dumps(dict(line)).encode() + b"\n")

    def scratch(self) -> Path:
        """Return a folder for what is only wanted while it trains; it goes with this one."""
        path = self.path / "scratch"
        path.mkdir(exist_ok=True)
        return path

    @property
    def _order(self) -> Path:
        return self.path / "order.json"

    @property
    def _news(self) -> Path:
        return self.path / "news.jsonl"

    @property
    def _stop(self) -> Path:
        return self.path / "stop"

    @property
    def _pause(self) -> Path:
        return self.path / "pause"


def _put(flag: Path) -> None:
    # A folder that is gone has said it already.
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(flag, os.O_CREAT | os.O_WRONLY))
