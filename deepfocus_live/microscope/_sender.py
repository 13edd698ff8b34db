"""Carries frames from the acquisition's thread into the ring, and owns them until acknowledged.

Design Notes
------------
The runner's thread only appends to a queue. One thread here does the rest, in
order: announce a run to the daemon, copy frames into free slots, announce
them, close the run. No frame waits for the daemon's answer before it is in the
ring. This is also the one place that reacts to a lost daemon: connect to a new
one, announce the run again (the daemon finds its folder in the ring), and
every slot that is not acknowledged. The ring's own counters say which those
are, so nothing that was said before needs to be remembered.

A run's frames all leave the ring before the next run may use it.

*When the ring is full.* Frames wait in memory, up to half of what was free,
then a software-timed run is held up. A hardware-sequenced one is not: its
camera would overflow, which ends the run. Its frames go to a disk, where they
are safe from this process's death as in the ring, and from there into the ring
in their order as slots become free. Only where that disk has no room either
they wait in memory, and where that is full too the camera is held up after
all: nothing is dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import useq
from numpy.typing import NDArray

from deepfocus_live import _platform
from deepfocus_live.config import RingConfig
from deepfocus_live.errors import InputError
from deepfocus_live.frames import RunSpec
from deepfocus_live.microscope._errands import (
    Begin,
    End,
    Errand,
    Flush,
    FrameCounts,
    Prepare,
    Stop,
    Taken,
)
from deepfocus_live.microscope._link import DaemonDidNotStart, DaemonLink
from deepfocus_live.microscope._plan import (
    can_be_stored,
    form_of,
    frame_header,
    plan_run,
    planes_of,
    said_of_form,
)
from deepfocus_live.microscope._ring_room import first_free_slot, make_ring
from deepfocus_live.ring import (
    FrameSpill,
    MemoryRing,
    Message,
    RingError,
    spill_folder,
)

__all__ = ["FrameSender"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_POLL_S = 0.05
_RETRY_S = 0.5
_LOOK_S = 0.005
_AGAIN_S = 2.0
"""Between two askings for a run that the disk has no room for."""
_MOST_RUNS = 100
"""That are remembered: a program may stay attached for weeks."""


class FrameSender:
    """The thread between the runner's deque and the ring.

    Parameters
    ----------
    link : callable
        Makes the link to the daemon, given the callback for its messages.
    ring : RingConfig
        How large the ring may be.
    on_message : callable
        Called with the daemon's announcements that are not acknowledgements.
    """

    def __init__(
        self,
        make_link: Callable[[Callable[[Message], None]], DaemonLink],
        ring: RingConfig,
        on_message: Callable[[Message], None],
    ) -> None:
        self._limits = ring
        self._on_message = on_message
        # Its `put` is C and takes no lock that a thread waiting for the interpreter could hold.
        self._items: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._acknowledged = threading.Event()
        self._room = threading.Condition()
        # Each counted by one thread only: their difference is what waits.
        self._taken_bytes = 0
        self._sent_bytes = 0
        # Half of what is free now: the acquisition's own buffers need the rest.
        self._budget = _platform.available_memory_bytes() // 2
        self._ring: MemoryRing | None = None
        self._spill: FrameSpill | None = None
        self._spec: RunSpec | None = None
        self._spilled_here = 0
        self._refusal: str | None = None
        self._announce_at: float | None = None
        self._frames_flow = False
        self._next_number = 0
        self.run_ids: list[str] = []
        """The last runs that were begun, in order."""
        self.counts = FrameCounts()
        self.link = make_link(self._receive)
        self._thread = threading.Thread(target=self._work, name="deepfocus-sender", daemon=True)
        self._thread.start()

    def prepare(self, frame_bytes: int) -> threading.Event:
        """Make the ring for frames of this size; the event is set when it is there.

        Filling hundreds of megabytes with zeros takes as long as many frames do.
        """
        self._put(Prepare(frame_bytes))
        return self.flush()

    # ------------------------------------------- on the acquisition's thread

    def begin(
        self,
        sequence: useq.MDASequence,
        summary: Mapping[str, Any],
        output: str | None,
        profile: str | None = None,
    ) -> None:
        """Note that a run begins; output and profile as `plan_run` takes them."""
        self._put(Begin(sequence, summary, output, profile))

    def take(self, image: NDArray[Any], event: useq.MDAEvent, meta: Mapping[str, Any]) -> None:
        """Take over a frame: microseconds, unless memory has run out (see `counts.waits`)."""
        image = planes_of(image)
        self.counts.taken += 1
        self._taken_bytes += image.nbytes
        hardware = bool(meta.get("hardware_triggered"))
        self._put(Taken(image, event, meta, time.time()))
        if self._waiting_bytes(hardware) > self._budget:
            self._wait_for_room(hardware)

    def end(self, reason: str) -> None:
        """Note that the run has ended: `completed`, `canceled` or `errored`."""
        self._put(End(reason))

    def _put(self, item: Errand) -> None:
        self._items.put(item)

    def _waiting_bytes(self, hardware: bool) -> int:
        """Return what waits: for a camera that cannot be slowed only what is in memory."""
        in_memory = self._taken_bytes - self._sent_bytes
        return in_memory if hardware else in_memory + self._spilled_bytes()

    def _spilled_bytes(self) -> int:
        spill = self._spill
        return 0 if spill is None else spill.waiting_bytes

    def _wait_for_room(self, hardware: bool) -> None:
        """Hold the acquisition up; a hardware-sequenced one only as the last resort."""
        self.counts.waits += 1
        if hardware:
            log.error(
                "deepfocus-live: memory for waiting frames is full and none can be spilled to a "
                "disk: the camera is held up, and its sequence may break."
            )
        begin = time.monotonic()
        with self._room:
            self._room.wait_for(lambda: self._waiting_bytes(hardware) <= self._budget)
        self.counts.waited_s += time.monotonic() - begin

    # ------------------------------------------------------- for the caller

    @property
    def frames_waiting(self) -> int:
        """Frames taken that are not acknowledged yet."""
        return self.counts.taken - self.frames_durable - self.counts.refused

    @property
    def frames_sent(self) -> int:
        """Frames in the ring, in the spill or further: safe from this process's death."""
        with self._room:
            return self.counts.durable + self._next_number

    @property
    def frames_durable(self) -> int:
        """Frames that are on the disk."""
        with self._room:
            ring = self._ring
            if ring is None or self._spec is None:
                return self.counts.durable
            spilled = 0 if self._spill is None else len(self._spill)
            return self.counts.durable + self._next_number - len(ring.waiting()) - spilled

    def flush(self) -> threading.Event:
        """Return an event that is set once everything handed over so far is on the disk."""
        done = threading.Event()
        self._put(Flush(done))
        return done

    def stop(self) -> None:
        """Ask the thread to end once everything before has been done."""
        self._put(Stop())

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --------------------------------------------------- on the own thread

    def _work(self) -> None:
        while True:
            item = self._next_item()
            if isinstance(item, Stop):
                break
            try:
                if item is None:
                    self._follow_idle()
                else:
                    self._handle(item)
            except Exception:
                # Whatever it is, the next item must still be tried.
                log.exception("deepfocus-live: unexpected failure while sending.")
                if isinstance(item, Taken):
                    self.counts.refused += 1
                elif isinstance(item, Flush):
                    item.done.set()
            if isinstance(item, Taken):
                self._sent_bytes += item.image.nbytes
                with self._room:
                    self._room.notify_all()
        if self._spill is not None:
            self._spill.clear()
        if self._ring is not None:
            self._ring.close(remove=True)
        self.link.close()

    def _next_item(self) -> Errand | None:
        """Return what is to be done next; None: nothing just now."""
        try:
            if self._spill:
                return self._items.get_nowait()
            return self._look() if self._frames_flow else self._wake()
        except queue.Empty:
            self._frames_flow = False
            return None

    def _look(self) -> Errand:
        """Look every few milliseconds for the next frame of a run that brings them quickly.

        To wake a thread that waits in `get` costs the acquisition's thread, in the slot, a call of
        the system, after which it often loses the processor to the one that it woke. Every look
        takes the interpreter from it, too: one every 2 ms made a software-timed run 4 % longer than
        one every 5 ms does.
        """
        deadline = time.monotonic() + _RETRY_S
        while self._items.empty() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return self._items.get_nowait()

    def _wake(self) -> Errand:
        """Sleep until there is something to do."""
        item = self._items.get(timeout=_RETRY_S)
        self._frames_flow = isinstance(item, Taken | Begin)
        return item

    def _handle(self, item: Errand) -> None:
        if isinstance(item, Prepare):
            self._prepare_ring(item.frame_bytes, b"")
        elif isinstance(item, Begin):
            self._open_run(item)
        elif isinstance(item, Taken):
            self._send(item)
        elif isinstance(item, End):
            self._close_run(item.reason)
        elif isinstance(item, Flush):
            self._drain()
            item.done.set()

    def _follow_idle(self) -> None:
        """Go on with what waits: a run for room on the disk, spilled frames for free slots.

        Between runs, come back to a daemon that was restarted by someone else.
        """
        self._ask_again()
        if self._spill:
            self._wait_for_acknowledgement()
            self._flow_back()
            return
        known = self.link.daemon is not None
        if known and not self.link.connected and not self.link.said_bye:
            try:
                self._reconnect()
            except (DaemonDidNotStart, InputError, OSError) as error:
                log.debug("no daemon yet: %s", error)

    def _open_run(self, begin: Begin) -> None:
        if self._spec is not None:
            self._close_run("interrupted")
        try:
            spec = self._plan(begin)
        except InputError as error:
            log.error("deepfocus-live cannot record this run: %s", error)
            return
        self._begin_run(spec)

    def _begin_run(self, spec: RunSpec) -> None:
        about = spec.model_dump_json().encode()
        self._prepare_ring(spec.frame_bytes, about)
        self._spill = FrameSpill(spill_folder(self._limits.spill), about)
        self.run_ids.append(spec.run_id)
        del self.run_ids[:-_MOST_RUNS]
        self._spec, self._refusal, self._next_number = spec, None, 0
        self._announce_at = self.counts.space = None
        self._spilled_here = 0
        self._insist(self._announce_run)

    def _follow_new_size(self, image: NDArray[Any]) -> None:
        """Go on in a run of its own where the camera changed its image in the middle of one."""
        spec = self._spec
        if spec is None or not can_be_stored(image):
            return
        changed = form_of(image)
        before = {name: getattr(spec, name) for name in changed}
        if changed == before:
            return
        log.warning(
            "the camera's images are %s now, they were %s: a new run begins.",
            *(said_of_form(changed), said_of_form(before)),
        )
        self._close_run("interrupted")
        name = f"{spec.name}-{changed['width_px']}x{changed['height_px']}"
        self._begin_run(
            spec.model_copy(
                update={
                    **changed,
                    "run_id": uuid.uuid4().hex,
                    "name": name,
                    "continues": spec.run_id,
                }
            )
        )

    def _plan(self, begin: Begin) -> RunSpec:
        try:
            # What stands in for an iterator warns whoever asks it for its sizes.
            known = begin.sequence if begin.sequence.axis_order else useq.MDASequence()
            return plan_run(known, begin.summary, output=begin.output, profile=begin.profile)
        except InputError:
            raise
        except Exception:
            # A sequence that we do not understand is no reason to lose its frames:
            # without a plan the run grows as they come.
            log.exception("deepfocus-live: this sequence cannot be planned for.")
            nothing = useq.MDASequence()
            return plan_run(nothing, begin.summary, output=begin.output, profile=begin.profile)

    def _prepare_ring(self, frame_bytes: int, run: bytes) -> None:
        if self._ring is not None and self._ring.fits(frame_bytes, run):
            self._ring.run = run
            return
        if self._ring is not None:
            self._ring.close(remove=True)
            self._ring = None
        self._ring = make_ring(self._limits, frame_bytes, run)

    def _announce_run(self) -> None:
        """Tell the daemon of the run; one that was replaced goes on with it."""
        spec, ring = self._spec, self._ring
        if spec is not None and ring is not None:
            run = spec.model_dump(mode="json")
            self.link.send({"type": "begin_run", "spec": run, "ring": str(ring.path)})

    def _give_up_refused(self) -> None:
        """Let a run go that the daemon cannot open; the acquisition itself goes on."""
        ring, refusal = self._ring, self._refusal
        if refusal is None or ring is None or self._spec is None:
            return
        if ring.folder is not None:
            # It was open once: its frames are not ours to give up, so it is tried again.
            self._refusal, self._announce_at = None, time.monotonic()
            raise ConnectionError(f"the run cannot be gone on with: {refusal}")
        log.error("deepfocus-live cannot record this run: %s", refusal)
        with self._room:
            self.counts.refused += self._next_number
            ring.discard()
            if self._spill is not None:
                self._spill.clear()
            self._spec = None

    def _ask_again(self) -> None:
        """Announce a run again, with its frames, that could not be begun just now."""
        due = self._announce_at
        if due is not None and time.monotonic() >= due:
            self._announce_at = None
            self._insist(self._announce_all)

    def _send(self, frame: Taken) -> None:
        self._ask_again()
        self._insist(self._give_up_refused)
        self._follow_new_size(frame.image)
        if self._spec is None or self._ring is None:
            self.counts.refused += 1
            return
        number = self._next_number
        header = frame_header(
            self._spec.run_id, number, frame.image, frame.event, frame.meta, frame.taken_at
        )
        raw = header.model_dump_json(exclude_none=True).encode()
        if self._put_aside(frame, raw):
            return
        slot = self._free_slot()
        if slot is None:
            self.counts.refused += 1
            return
        self._ring.put(slot, raw, frame.image, number)
        self._next_number += 1
        self._announce(slot, number)

    def _announce(self, slot: int, number: int) -> None:
        try:
            self.link.send({"type": "frames", "slots": [[slot, number]]})
        except OSError:
            # Reconnecting announces every waiting slot, this one too.
            self._insist(lambda: None)

    def _free_slot(self) -> int | None:
        """Wait for a free slot; None where the run was refused meanwhile."""
        while self._ring is not None and self._spec is not None:
            slot = first_free_slot(self._ring)
            if slot is not None:
                return slot
            self._wait_for_acknowledgement()
        return None

    # ------------------------------------------------------------ the spill

    def _put_aside(self, frame: Taken, header: bytes) -> bool:
        """Spill a frame that finds the ring full and cannot wait; return whether that was done.

        A frame behind spilled ones goes where they are: all leave in their order.
        """
        ring, spill, number = self._ring, self._spill, self._next_number
        if ring is None or spill is None:
            return False
        cannot_wait = bool(frame.meta.get("hardware_triggered"))
        if not spill and not (cannot_wait and first_free_slot(ring) is None):
            return False
        if not spill.append(header, frame.image, number, run_folder=ring.folder):
            self._drain(into_ring=True)
            return False
        if not self._spilled_here:
            log.warning(
                "deepfocus-live: the camera is faster than the disk: frames wait in %s until they "
                "are stored.",
                spill.folder,
            )
        self._spilled_here += 1
        self.counts.spilled += 1
        self._next_number += 1
        self._flow_back()
        return True

    def _flow_back(self) -> None:
        """Move spilled frames into the ring, as far as it has free slots."""
        spill, ring = self._spill, self._ring
        while spill and ring is not None and self._spec is not None:
            slot = first_free_slot(ring)
            if slot is None:
                return
            try:
                header, pixels, number = spill.first()
            except (OSError, RingError) as error:
                log.error("deepfocus-live: a spilled frame cannot be read back: %s", error)
                with self._room:
                    spill.forget_first()
                    self.counts.refused += 1
                    # It has a number, and will never be stored.
                    self.counts.durable -= 1
                continue
            ring.put(slot, header, pixels, number)
            with self._room:
                spill.forget_first()
                self._room.notify_all()
            self._announce(slot, number)

    def _wait_for_acknowledgement(self) -> None:
        self._acknowledged.wait(_POLL_S)
        self._acknowledged.clear()
        self._ask_again()
        if self._refusal is not None or not self.link.connected:
            self._insist(self._give_up_refused)

    def _close_run(self, reason: str) -> None:
        ring, spec = self._ring, self._spec
        if ring is None or spec is None:
            return
        self._drain()
        if self._spec is None:
            return
        message = {
            "type": "end_run",
            "run_id": spec.run_id,
            "reason": reason,
            "frames": self._next_number,
            "spilled": self._spilled_here,
        }
        self._tell_missed(self._insist(lambda: self.link.ask(message)).get("missed"))
        with self._room:
            self.counts.durable += self._next_number
            self._spec, self._next_number = None, 0
        self._announce_at = self.counts.space = None

    def _drain(self, *, into_ring: bool = False) -> None:
        """Wait until every frame sent is acknowledged (or in the ring), or its run refused."""
        while self._ring is not None and self._spec is not None:
            self._flow_back()
            if not self._spill and (into_ring or not self._ring.waiting()):
                return
            self._wait_for_acknowledgement()

    def _insist(self, act: Callable[[], _T]) -> _T:
        """Do `act` with a connected daemon, as often as it takes."""
        while True:
            try:
                self._reconnect()
                return act()
            except (DaemonDidNotStart, InputError, OSError) as error:
                log.warning("deepfocus-live: %s Trying again.", error)
                time.sleep(_RETRY_S)

    def _reconnect(self) -> None:
        if not self.link.ensure():
            return
        self._on_message({"type": "connected"})
        self._announce_all()

    def _announce_all(self) -> None:
        if self._spec is not None and self._ring is not None:
            self._announce_run()
            waiting = self._ring.waiting()
            if waiting:
                self.link.send({"type": "frames", "slots": [list(item) for item in waiting]})

    def _tell_missed(self, missed: Message | None) -> None:
        if missed:
            self.counts.missed += missed["count"]
            log.warning("deepfocus-live: %s", missed["text"])

    # ------------------------------------------------- on the link's thread

    def _receive(self, message: Message) -> None:
        if message["type"] == "acks":
            self._acknowledged.set()
        elif message.get("re") == "begin_run":
            self._run_answered(message)
        elif message["type"] == "space":
            self._tell_space(message["text"])
        else:
            self._on_message(message)

    def _run_answered(self, message: Message) -> None:
        if message.get("again"):
            self._tell_space(f"{message['reason']} Until then frames wait in memory.")
            self._announce_at = time.monotonic() + _AGAIN_S
            return
        self._tell_space(message.get("space"))
        if not message.get("ok"):
            self._refusal = str(message.get("reason"))
            self._acknowledged.set()
        elif message["path"] not in self.counts.paths[-1:]:
            self.counts.paths.append(message["path"])
            del self.counts.paths[:-_MOST_RUNS]

    def _tell_space(self, text: str | None) -> None:
        if text is not None and self.counts.space is None:
            log.warning("deepfocus-live: %s", text)
        self.counts.space = text
