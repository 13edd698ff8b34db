"""A run's folder: its name, its `run.json`, and the lock of its one writer."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from deepfocus_live.errors import DiskFullError, InputError
from deepfocus_live.frames import RunSpec

__all__ = [
    "FORMAT_VERSION",
    "JOURNAL",
    "keeps_pixels",
    "lock_run",
    "new_folder",
    "partial_of",
    "read_run_json",
    "spec_of",
    "unwritable",
]

FORMAT_VERSION = 1
JOURNAL = "frames.jsonl"


def new_folder(output: Path, name: str) -> tuple[Path, Path]:
    """Return a free name for a run, and the folder that keeps it free: both below `output`."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    try:
        output.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = output / (f"{stamp}_{plain}" + (f"_{attempt + 1}" if attempt else ""))
            partial = partial_of(path)
            try:
                partial.mkdir()
            except FileExistsError:
                continue
            # Asked only now: until here another could have been about to take the name.
            if not path.exists():
                return path, partial
            partial.rmdir()
    except OSError as error:
        raise unwritable(output, error) from None
    raise InputError(f"{output}: too many runs named {stamp}_{plain}.")


def unwritable(output: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{output}: no run can be begun here: {error.strerror}. Make room, or choose another "
            "--output."
        )
    return InputError(
        f"{output}: cannot write runs here: {error.strerror}. Choose another --output."
    )


def partial_of(path: Path) -> Path:
    """Return the folder in which a run directory is made, before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def lock_run(path: Path) -> FileLock:
    """Return the lock of a run's one writer, held.

    Raises
    ------
    InputError
        If another process holds it.
    """
    lock = FileLock(path / ".writer.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{path}: another process is writing this run.") from None
    return lock


def read_run_json(path: Path) -> dict[str, Any]:
    """Return the contents of a run's `run.json`.

    Raises
    ------
    InputError
        If there is none, or it was written by a later version.
    """
    try:
        record = json.loads((path / "run.json").read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: not a run directory: no readable run.json ({error.strerror})."
        ) from None
    except ValueError:
        raise InputError(f"{path}: run.json is damaged: not JSON.") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: run.json is damaged: not a record.")
    if record.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{path}: run format {record.get('format')}, this version reads {FORMAT_VERSION}: "
            "update deepfocus-live."
        )
    return record


def spec_of(path: Path, record: Mapping[str, Any]) -> RunSpec:
    """Return what was planned, as a run's `run.json` says.

    Raises
    ------
    InputError
        If it does not say so.
    """
    try:
        return RunSpec.model_validate(record["spec"])
    except (KeyError, ValidationError):
        raise InputError(
            f"{path}: run.json is damaged: it does not say what was planned."
        ) from None


def keeps_pixels(record: Mapping[str, Any]) -> bool:
    """Return whether the run with this `run.json` keeps the pixels of its slices."""
    return bool(record.get("pixels_stored", True))
