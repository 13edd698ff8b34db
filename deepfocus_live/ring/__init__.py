"""Between the microscope's process and the daemon: memory ring and control channel.

The only room that knows slots.
"""

from __future__ import annotations

from deepfocus_live.ring._client import ControlClient
from deepfocus_live.ring._memory import MemoryRing, RingError
from deepfocus_live.ring._messages import check_request
from deepfocus_live.ring._private import private_daemon
from deepfocus_live.ring._protocol import Message, ProtocolError
from deepfocus_live.ring._runtime import (
    READY_S,
    DaemonAddress,
    DaemonDidNotStart,
    claim_daemon_lock,
    find_daemon,
    forget_daemon,
    leftover_rings,
    log_path,
    new_key,
    new_ring_path,
    publish_daemon,
    start_daemon,
)
from deepfocus_live.ring._server import Connection, serve_control
from deepfocus_live.ring._spill import FrameSpill, SpilledFrames, leftover_spills, spill_folder

__all__ = [
    "READY_S",
    "Connection",
    "ControlClient",
    "DaemonAddress",
    "DaemonDidNotStart",
    "FrameSpill",
    "MemoryRing",
    "Message",
    "ProtocolError",
    "RingError",
    "SpilledFrames",
    "check_request",
    "claim_daemon_lock",
    "find_daemon",
    "forget_daemon",
    "leftover_rings",
    "leftover_spills",
    "log_path",
    "new_key",
    "new_ring_path",
    "private_daemon",
    "publish_daemon",
    "serve_control",
    "spill_folder",
    "start_daemon",
]
