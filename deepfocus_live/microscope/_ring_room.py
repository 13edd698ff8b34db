"""Makes the ring: as large as the settings and the memory allow."""

from __future__ import annotations

import logging

from deepfocus_live import _platform
from deepfocus_live.config import RingConfig
from deepfocus_live.ring import MemoryRing, new_ring_path

__all__ = ["first_free_slot", "make_ring", "ring_slots"]

log = logging.getLogger(__name__)


def ring_slots(limits: RingConfig, frame_bytes: int) -> int:
    """Return how many frames the ring is made for; fewer where shared memory has less room."""
    if limits.slots is not None:
        return limits.slots
    megabytes = limits.memory_mb
    if megabytes is None:
        megabytes = min(_platform.available_memory_bytes() // 8 >> 20, 512)
    return min(max((megabytes << 20) // frame_bytes, 4), 1024)


def make_ring(limits: RingConfig, frame_bytes: int, run: bytes) -> MemoryRing:
    """Make a ring for frames of this size that names a run.

    Raises
    ------
    OSError
        If shared memory has no room for two frames.
    """
    slots = ring_slots(limits, frame_bytes)
    room = max(len(run), 1 << 20)
    while True:
        path = new_ring_path(slots * (frame_bytes + 8192) + room)
        try:
            ring = MemoryRing.create(path, slots=slots, slot_bytes=frame_bytes, run_room=room)
            break
        except OSError as error:
            if slots <= 2:
                raise
            log.warning("no room for a ring of %d frames (%s); trying half.", slots, error)
            slots = max(slots // 2, 2)
    ring.run = run
    return ring


def first_free_slot(ring: MemoryRing) -> int | None:
    """Return the first free slot; None: the ring is full.

    Always the first: while few frames wait, the same few slots are used again and again, whose
    memory both processes have mapped and the processor still has at hand. Going round the whole
    ring cost twice as much for a frame.
    """
    return next((slot for slot in range(ring.slots) if ring.is_free(slot)), None)
