"""Who made a file, as the file says it."""

from __future__ import annotations

import importlib.metadata

__all__ = ["made_by"]


def made_by() -> str:
    """Return the program's name and version."""
    try:
        return f"deepfocus-live {importlib.metadata.version('deepfocus-live')}"
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        return "deepfocus-live"
