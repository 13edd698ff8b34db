"""The command line: parses, calls, prints."""

from __future__ import annotations

from deepfocus_live.cli._main import main

__all__ = ["main"]
