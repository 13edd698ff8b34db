"""Live mode: masks for what the camera shows while the user focuses by hand.

Design Notes
------------
Live mode emits no frames: the newest one is looked at in MMCore's circular buffer, and left there
for the program that shows it. One frame is on its way at a time, and the next is taken only once
its mask is back, at most ten times a second: the camera may run at any speed, the newest frame
wins, and those in between are nobody's loss. A ring of two slots carries the frame, apart from the
acquisition's ring, so that it can never be taken for a frame of a run. Nothing is stored.

A thread of its own does this, and only between acquisitions: while the MDA runner is not idle the
core is left alone.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from numpy.typing import NDArray
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.mda import RunState

from deepfocus_live.frames import FrameHeader
from deepfocus_live.microscope._link import DaemonLink
from deepfocus_live.microscope._plan import can_be_stored, form_of, planes_of
from deepfocus_live.microscope._signals import connect_direct
from deepfocus_live.ring import MemoryRing, Message, new_ring_path

__all__ = ["LiveFollower"]

log = logging.getLogger(__name__)

_EVERY_S = 0.1
_PATIENCE_S = 3.0
"""A mask that has not come by then is waited for no longer."""
_ROOM = 4096


class LiveFollower:
    """Has the daemon mask what the core's camera shows in live mode.

    Parameters
    ----------
    core : CMMCorePlus
        Its continuous sequence acquisitions are followed, from the present one on.
    link : DaemonLink
        Where frames are announced; whoever reads it tells `answered`.
    """

    def __init__(self, core: CMMCorePlus, link: DaemonLink) -> None:
        self._core = core
        self._link = link
        self._ring: MemoryRing | None = None
        self._number = 0
        self._seen: tuple[str, ...] = ()
        self._showing = False
        self._answered = threading.Event()
        self._wake = threading.Event()
        self._stopping = False
        self._wanted = bool(core.getCameraDevice() and core.isSequenceRunning())
        connect_direct(core.events.continuousSequenceAcquisitionStarted, self._on_live)
        self._thread = threading.Thread(target=self._work, name="deepfocus-live-view", daemon=True)
        self._thread.start()

    @property
    def following(self) -> bool:
        """Whether live frames are being masked."""
        return self._showing

    def answered(self, message: Message) -> None:
        """Take the daemon's answer to the last frame: its mask, or why there is none."""
        if message.get("ok") is False:
            log.warning("no masks in live mode: %s", message.get("reason"))
            self._wanted = False
        self._answered.set()

    def stop(self) -> None:
        """End, and leave nothing behind; returns once the core is left alone."""
        self._core.events.continuousSequenceAcquisitionStarted.disconnect(self._on_live)
        self._stopping = True
        self._answered.set()
        self._wake.set()
        self._thread.join()

    def _on_live(self) -> None:
        self._wanted = True
        self._wake.set()

    # --------------------------------------------------- on the own thread

    def _work(self) -> None:
        while not self._stopping:
            try:
                wait_s = self._look()
            except Exception:
                # Whatever it is, the user's live view is not ours to disturb.
                log.exception("no masks in live mode, until it is started again.")
                self._wanted, wait_s = False, None
            self._wake.wait(wait_s)
            self._wake.clear()
        self._close_ring()

    def _look(self) -> float | None:
        """Do what is to be done now; return how long there is nothing to do, None: until woken."""
        if not self._wanted:
            self._end_view()
            return None
        if self._core.mda.status.phase is not RunState.IDLE:
            self._end_view()
            return _EVERY_S
        if not (self._core.getCameraDevice() and self._core.isSequenceRunning()):
            self._wanted = False
            return 0.0
        begin = time.monotonic()
        image = self._newest()
        if image is not None and self._send(image):
            self._answered.wait(_PATIENCE_S)
        return max(begin + _EVERY_S - time.monotonic(), 0.0)

    def _newest(self) -> NDArray[Any] | None:
        """Return the newest frame, which stays in the buffer; None where it was seen before."""
        try:
            image, meta = self._core.getLastImageAndMD()
        except (IndexError, RuntimeError):
            # The first one has not come yet, or the buffer was emptied just now.
            return None
        keys = ("Camera", "ImageNumber", "ElapsedTime-ms", "TimeReceivedByCore")
        seen = tuple(str(meta.get(key, "")) for key in keys)
        if seen == self._seen and any(seen[1:]):
            return None
        self._seen = seen
        image = planes_of(image)
        if not can_be_stored(image):
            log.warning(
                "no masks in live mode: the camera delivers %s images of %s; grey or RGB images of "
                "uint8 or uint16 can be masked.",
                *("×".join(map(str, image.shape)), image.dtype),
            )
            self._wanted = False
            return None
        return image

    def _send(self, image: NDArray[Any]) -> bool:
        """Hand one frame over; return whether a daemon was there to take it."""
        ring = self._ring_for(image.nbytes)
        header = FrameHeader(
            run_id="live",
            sequence_number=self._number,
            index={},
            **form_of(image),
            taken_at=time.time(),
        )
        slot = self._number % ring.slots
        if not ring.is_free(slot):
            # A daemon that has died, or is far behind: its frame is out of date.
            ring.discard()
        ring.put(slot, header.model_dump_json().encode(), image, self._number)
        self._answered.clear()
        message = {"type": "live", "ring": str(ring.path), "slot": slot, "number": self._number}
        self._number += 1
        try:
            self._link.send(message)
        except OSError:
            ring.discard()
            return False
        self._showing = True
        return True

    def _ring_for(self, frame_bytes: int) -> MemoryRing:
        if self._ring is None or self._ring.slot_bytes < frame_bytes:
            self._close_ring()
            path = new_ring_path(2 * (frame_bytes + 8192) + _ROOM)
            self._ring = MemoryRing.create(path, slots=2, slot_bytes=frame_bytes, run_room=_ROOM)
        return self._ring

    def _end_view(self) -> None:
        if self._showing:
            self._showing = False
            try:
                self._link.send({"type": "live_end"})
            except OSError:
                log.debug("not connected; the daemon knows that live mode is over.")
        self._close_ring()

    def _close_ring(self) -> None:
        if self._ring is not None:
            self._ring.close(remove=True)
            self._ring = None
