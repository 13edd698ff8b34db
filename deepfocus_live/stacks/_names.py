"""Names of stacks and files as a person would write and order them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["natural_key", "path_stem", "stack_names"]

_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.zarr", ".tiff", ".tif", ".zarr")


def path_stem(path: Path) -> str:
    """Return the name of `path` without the suffixes of a stack."""
    name = path.resolve().name if path.name in ("", ".", "..") else path.name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def stack_names(stem: str, indices: Sequence[tuple[int, int, int]]) -> list[str]:
    """Return one name per (position, time, channel), with the indices that differ."""
    varied = [len({index[axis] for index in indices}) > 1 for axis in range(3)]
    return [
        stem + "".join(f"-{'ptc'[axis]}{index[axis]}" for axis in range(3) if varied[axis])
        for index in indices
    ]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts ``z2`` before ``z10``."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
