"""A profile put into a configuration file, the rest of which stays as a person wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deepfocus_live import _platform
from deepfocus_live.config import load_config
from deepfocus_live.errors import InputError

__all__ = ["has_profile", "write_profile"]

_HEADER = "# deepfocus-live: what is left out has its usual value; see configs/default.yaml.\n"


def has_profile(file: Path, name: str) -> bool:
    """Return whether a configuration file has a profile of this name.

    Raises
    ------
    InputError
        If the file is there and is no valid configuration.
    """
    if not file.exists():
        return False
    load_config(file)
    return name in (_tree(file.read_text(encoding="utf-8")).get("profiles") or {})


def write_profile(
    file: Path, name: str, profile: Mapping[str, Any], *, output: Path | None = None
) -> Path:
    """Put a profile into `file`, in the place of one of that name; return the file written.

    `output`, the folder that runs are written into, is put in as well where the file names none.
    Comments and all other settings stay. Where the file is written in a way that does not allow
    that, it is left alone, and a new one beside it has all of its settings, and no comments.

    Raises
    ------
    InputError
        If what would be written is no valid configuration, or cannot be written.
    """
    before = file.read_text(encoding="utf-8") if file.exists() else _HEADER
    tree = _tree(before)
    wanted = {**tree, "profiles": {**(tree.get("profiles") or {}), name: dict(profile)}}
    text = before
    if output is not None and "output" not in tree:
        wanted["output"] = str(output.absolute())
        line = yaml.safe_dump({"output": wanted["output"]}, allow_unicode=True, width=1 << 16)
        text = f"{before.rstrip()}\n{line}"
    text = _put(text, name, profile)
    if _tree_or_none(text) != wanted:
        file = _free_name_beside(file, name)
        text = _HEADER + yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    _write(file, text)
    return file


def _tree(text: str) -> dict[str, Any]:
    return yaml.safe_load(text) or {}


def _tree_or_none(text: str) -> dict[str, Any] | None:
    try:
        return _tree(text)
    except yaml.YAMLError:
        return None


def _put(text: str, name: str, profile: Mapping[str, Any]) -> str:
    """Return `text` with the profile in its block of profiles, line by line."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if re.match(r"profiles:\s*(#.*)?$", line)), -1)
    if start < 0:
        return "\n".join([*lines, "profiles:", *_block(name, profile, "  ")]) + "\n"
    end = _end_of_block(lines, start)
    inner = [line for line in lines[start + 1 : end] if _says(line)]
    margin = _margin(inner[0]) if inner else "  "
    old = next((n for n in range(start + 1, end) if _is_key(lines[n], margin, name)), None)
    if old is None:
        first, last = start + 1, start + 1
    else:
        first, last = old, _end_of_block(lines, old)
    return "\n".join([*lines[:first], *_block(name, profile, margin), *lines[last:]]) + "\n"


def _block(name: str, profile: Mapping[str, Any], margin: str) -> list[str]:
    dumped = yaml.safe_dump({name: dict(profile)}, sort_keys=False, allow_unicode=True)
    return [margin + line for line in dumped.splitlines()]


def _end_of_block(lines: list[str], start: int) -> int:
    """Return the line behind what belongs to the key in line `start`."""
    depth, end = len(_margin(lines[start])), start + 1
    for n in range(start + 1, len(lines)):
        if _says(lines[n]):
            if len(_margin(lines[n])) <= depth:
                break
            # Comments behind the last of it belong to what follows.
            end = n + 1
    return end


def _says(line: str) -> bool:
    """Return whether a line has more than a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _is_key(line: str, margin: str, name: str) -> bool:
    if not _says(line) or _margin(line) != margin:
        return False
    key = line.strip().partition(":")[0].strip()
    return key.strip("'\"") == name


def _free_name_beside(file: Path, name: str) -> Path:
    stem = f"{file.stem}-{re.sub(r'[^0-9A-Za-z_-]+', '-', name)}"
    names = [f"{stem}{file.suffix}", *(f"{stem}-{n}{file.suffix}" for n in range(2, 100))]
    return next(file.with_name(one) for one in names if not file.with_name(one).exists())


def _write(file: Path, text: str) -> None:
    """Write what `load_config` reads back, or nothing."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            load_config(partial)
            _platform.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written: {error.strerror}; name another --config."
        ) from None
