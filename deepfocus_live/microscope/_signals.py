"""Slots that run on the thread that emits, whatever the signals are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psygnal

__all__ = ["connect_direct"]


def connect_direct(signal: Any, slot: Callable[..., None]) -> None:
    """Connect so that `slot` runs on the thread that emits, also where signals are Qt's."""
    if isinstance(signal, psygnal.SignalInstance):
        signal.connect(slot)
        return
    from qtpy.QtCore import Qt

    # Qt's automatic choice would queue the slot to the GUI thread.
    signal.connect(slot, Qt.ConnectionType.DirectConnection)
