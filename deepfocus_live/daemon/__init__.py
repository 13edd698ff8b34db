"""Wires the rooms: lifecycle, scheduling, what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepfocus_live.daemon._lifecycle import run_daemon

if TYPE_CHECKING:
    from deepfocus_live.daemon._recover import Recovery
    from deepfocus_live.daemon._service import Daemon, DaemonState

__all__ = ["Daemon", "DaemonState", "Recovery", "run_daemon"]

_MODULES = {"Daemon": "_service", "DaemonState": "_service", "Recovery": "_recover"}


def __getattr__(name: str) -> Any:
    """Load what is heavy when it is first asked for: a daemon says where it is before that."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
