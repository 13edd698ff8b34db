"""Wires the rooms: lifecycle, scheduling, what is said."""

from __future__ import annotations

from deepfocus_live.daemon._lifecycle import run_daemon
from deepfocus_live.daemon._recover import Recovery
from deepfocus_live.daemon._service import Daemon, DaemonState

__all__ = ["Daemon", "DaemonState", "Recovery", "run_daemon"]
