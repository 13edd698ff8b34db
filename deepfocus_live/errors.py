"""Errors that are the user's to mend, told apart from failures that are ours."""

from __future__ import annotations

__all__ = ["DiskFullError", "InputError"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what to do. The command
    line prints it without a traceback and ends with exit code 2.
    """


class DiskFullError(InputError):
    """There is no room on the disk: the same can be tried again once there is."""
