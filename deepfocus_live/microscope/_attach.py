"""`attach(core)`: follow every acquisition of a pymmcore-plus core from now on."""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import useq
from numpy.typing import NDArray
from pymmcore_plus import CMMCorePlus

from deepfocus_live.config import Config, load_config, writable_folder
from deepfocus_live.errors import InputError
from deepfocus_live.microscope._best_focus import (
    StackMemory,
    is_idle,
    move_focus,
    wait_until_idle,
)
from deepfocus_live.microscope._link import DaemonLink
from deepfocus_live.microscope._live import LiveFollower
from deepfocus_live.microscope._quiet import quiet_at_exit
from deepfocus_live.microscope._results import MaskResult, StackResult, mask_of, stack_of
from deepfocus_live.microscope._sender import FrameSender
from deepfocus_live.microscope._signals import connect_direct
from deepfocus_live.ring import Message

__all__ = ["Attachment", "MaskResult", "StackResult", "attach"]

log = logging.getLogger(__name__)

_attachments: dict[int, Attachment] = {}
_attaching = threading.Lock()


class Attachment:
    """What `attach` returns: the way to results, and to letting go.

    A context manager; leaving it detaches.
    """

    def __init__(
        self,
        core: CMMCorePlus,
        output: Path | None,
        config: Path | None,
        settings: Config,
        profile: str | None = None,
    ) -> None:
        quiet_at_exit(core)
        self._core = core
        self._output = None if output is None else str(output)
        self._profile = profile
        self._callbacks: dict[str, list[Callable[[Any], object]]] = {"mask": [], "stack": []}
        self._subscribed = False
        self._daemon_state: str | None = None
        self._masked: dict[str, int] = {}
        self._masked_earlier = 0  # of runs that are no longer remembered
        self._latest: MaskResult | None = None
        self._stacks = StackMemory()
        self._acquiring_on: int | None = None
        self._focus_device = ""
        self._live: LiveFollower | None = None
        self._events: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        arguments = () if config is None else ("--config", str(config))

        def make_link(on_message: Callable[[Message], None]) -> DaemonLink:
            return DaemonLink(arguments=arguments, python=settings.python, on_message=on_message)

        self._sender = FrameSender(make_link, settings.ring, self._receive)
        self._caller = threading.Thread(target=self._call, name="deepfocus-callbacks", daemon=True)
        self._caller.start()
        self._detached = False
        try:
            self._sender.link.ensure()
            if core.getCameraDevice():
                frame_bytes = core.getImageWidth() * core.getImageHeight() * core.getBytesPerPixel()
                # Waited for: better now than while the first frames come.
                self._sender.prepare(frame_bytes).wait()
            _check_profile(profile, self._sender.link.await_ready())
        except BaseException:
            self._sender.stop()
            raise
        if core.mda.is_running():
            log.warning("attached while an acquisition runs: following from the next one on.")
        self._following = False
        events = core.mda.events
        connect_direct(events.sequenceStarted, self._on_started)
        connect_direct(events.frameReady, self._on_frame)
        connect_direct(events.sequenceFinished, self._on_finished)
        atexit.register(self._at_exit)

    # ------------------------------------------- on the acquisition's thread

    def _on_started(self, sequence: useq.MDASequence, summary: Mapping[str, Any]) -> None:
        self._following = True
        self._acquiring_on = threading.get_ident()
        self._focus_device = self._core.getFocusDevice()
        self._sender.begin(sequence, summary, self._output, self._profile)

    def _on_frame(self, image: NDArray[Any], event: useq.MDAEvent, meta: Mapping[str, Any]) -> None:
        if self._following:
            self._sender.take(image, event, meta)

    def _on_finished(self, _sequence: useq.MDASequence) -> None:
        if self._following:
            self._following = False
            reason = self._core.mda.status.finish_reason
            self._sender.end(getattr(reason, "value", None) or "interrupted")

    # ------------------------------------------------------------- results

    def on_mask(self, callback: Callable[[MaskResult], object]) -> None:
        """Call `callback` with each mask as it is made, on a thread of its own.

        Masks come newest slice first; in live mode also those, marked `live`. What the callback
        raises is logged, and stops nothing.
        """
        self._subscribe()
        self._callbacks["mask"].append(callback)

    def on_stack(self, callback: Callable[[StackResult], object]) -> None:
        """Call `callback` as soon as a stack's last mask is there, on a thread of its own.

        Stacks of a run from an iterator, whose length nobody knows, are told when the next one
        begins; stacks that were cut off, when the run has ended. The callback may call
        `move_to_best_focus`. What it raises is logged, and stops nothing.
        """
        self._subscribe()
        self._callbacks["stack"].append(callback)

    def latest_mask(self) -> MaskResult | None:
        """Return the newest mask; None before the first. Masks are sent from the first call on."""
        self._subscribe()
        return self._latest

    def move_to_best_focus(
        self, stack: StackResult | None = None, *, timeout_s: float = 60.0
    ) -> float:
        """Move the focus stage to the best slice of a stack; return that z in µm.

        Waits until no acquisition is under way (the MDA engine itself moves the stage at the end
        of one), then for the stack's last mask. The stage comes from the side that the scan came
        from, so that backlash is as it was. It moves in z only: where a stack was taken at another
        place in x and y, the log says of which one the height is. Not for a GUI's own thread,
        which it would hold up while it waits.

        Parameters
        ----------
        stack : StackResult or None
            None: the last stack of the last acquisition.
        timeout_s : float
            How long to wait, for both together.

        Raises
        ------
        InputError
            If nothing is in focus in the stack or its height is not known, if there is no stack,
            if the time is over before there is one or before the acquisition ends, if the focus
            stage is another one than during the acquisition, or if called by the acquisition's own
            thread, which would wait for itself. The stage has not been moved then.
        """
        if self._acquiring_on == threading.get_ident() and not is_idle(self._core):
            raise InputError(
                "move_to_best_focus was called on the acquisition's own thread, whose end it waits "
                "for: call it on another one, such as that of a callback given to on_stack."
            )
        deadline = time.monotonic() + timeout_s
        wait_until_idle(self._core, deadline)
        found = stack or self._last_stack(deadline)
        if self._focus_device not in ("", device := self._core.getFocusDevice()):
            raise InputError(
                f"the focus stage is {device!r} now and was {self._focus_device!r} during the "
                "acquisition: make it that again with setFocusDevice."
            )
        return move_focus(self._core, found)

    def _last_stack(self, deadline: float) -> StackResult:
        """Return the result of the last stack, which may have to be waited for."""
        # The run is announced, and its end told, on the sender's thread.
        if not self.wait(max(deadline - time.monotonic(), 0.0)):
            raise InputError("the last acquisition's frames are still on their way to the disk.")
        if not self._sender.run_ids:
            raise InputError("no stack has been taken since `attach`: acquire one first.")
        return self._stacks.last_of(self._sender.run_ids[-1], deadline)

    def follow_live(self) -> None:
        """Mask what the camera shows in live mode, too, from now on; see `attach`."""
        with _attaching:
            if self._live is None and not self._detached:
                self._subscribe()
                self._live = LiveFollower(self._core, self._sender.link)

    def status(self) -> dict[str, Any]:
        """Return the daemon's `pid`, `page` and `state`, and what became of the frames so far.

        Returns
        -------
        dict
            `state`: what the daemon does, "starting", "ready", "acquiring", "catching-up" or
            "stopping", as of at most a second ago; None where there is none. `connected`: whether
            there is a daemon now; `restarts`: how often it had to be started again. Numbers of
            frames: `frames_taken` from the acquisition, `frames_sent` to where the death of this
            process cannot take them, `frames_durable` on the disk, `frames_waiting` for that,
            `frames_masked` as of at most a second ago, `frames_refused` as their run could not be
            opened, `frames_spilled` by way of a disk as the ring was full, `frames_missed` as the
            camera did not deliver them. `waits` and `waited_s`: how often and how long the
            acquisition was slowed. `live`: whether live mode is followed. `space`: in one line why
            the present run does not fit on its disk, else None. `runs`: folders of the last 100
            runs.
        """
        sender = self._sender
        address = sender.link.daemon
        return {
            "pid": None if address is None else address.pid,
            "page": None if address is None else address.page,
            "state": self._daemon_state if sender.link.connected else None,
            "connected": sender.link.connected,
            "restarts": sender.link.restarts,
            "frames_taken": sender.counts.taken,
            "frames_sent": sender.frames_sent,
            "frames_durable": sender.frames_durable,
            "frames_waiting": sender.frames_waiting,
            "frames_masked": self._masked_earlier + sum(self._masked.values()),
            "frames_refused": sender.counts.refused,
            "frames_spilled": sender.counts.spilled,
            "frames_missed": sender.counts.missed,
            "waits": sender.counts.waits,
            "waited_s": round(sender.counts.waited_s, 3),
            "live": self._live is not None and self._live.following,
            "space": sender.counts.space,
            "runs": list(sender.counts.paths),
        }

    # ---------------------------------------------------------- letting go

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every frame handed over so far is on the disk; return whether it is.

        Parameters
        ----------
        timeout_s : float or None
            How long at most; None: as long as it takes.
        """
        # After `detach` nothing is left to wait for.
        return self._detached or self._sender.flush().wait(timeout_s)

    def detach(self) -> None:
        """Stop following, and wait, saying how many are left, until every frame is on the disk."""
        with _attaching:
            if self._detached:
                return
            self._detached = True
            _attachments.pop(id(self._core), None)
        if self._live is not None:
            self._live.stop()
        events = self._core.mda.events
        for signal, slot in (
            (events.sequenceStarted, self._on_started),
            (events.frameReady, self._on_frame),
            (events.sequenceFinished, self._on_finished),
        ):
            signal.disconnect(slot)
        if self._following:
            self._sender.end("interrupted")
        self._sender.stop()
        said = time.monotonic()
        while not self._sender.join(0.05):
            if time.monotonic() - said > 2.0:
                said = time.monotonic()
                left = self._sender.frames_waiting
                sys.stderr.write(f"deepfocus-live: {left} frames on their way to the disk …\n")
        self._events.put(None)
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        # Threads still run here; this is what keeps a five-line script's last frames.
        self.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.detach()

    # -------------------------------------------------------------- inside

    def _subscribe(self) -> None:
        if not self._subscribed:
            self._subscribed = True
            self._send_subscription()

    def _send_subscription(self) -> None:
        try:
            self._sender.link.send({"type": "subscribe"})
        except OSError:
            # Sent again as soon as there is a connection.
            log.debug("not connected; subscribing later.")

    def _receive(self, message: Message) -> None:
        kind = message["type"]
        if kind == "connected" and self._subscribed:
            self._send_subscription()
        live = message.get("live") or message.get("re") == "live"
        if self._live is not None and (live or kind == "connected"):
            self._live.answered(message)
        # One daemon may serve several microscopes: what is not ours must move nothing of ours.
        if kind == "mask" and (live or message["run_id"] in self._sender.run_ids):
            self._events.put((kind, message))
        elif kind == "stack" and message["key"][0] in self._sender.run_ids:
            result = stack_of(message)
            self._stacks.add(result, message["last_number"])
            self._events.put((kind, result))
        elif kind == "masked":
            self._note_masked({message["run_id"]: message["masked"]})
            self._stacks.all_masked(message["run_id"])
        elif kind == "heartbeat":
            self._daemon_state = message["state"]
            self._note_masked(message.get("masked", {}))

    def _note_masked(self, counts: Mapping[str, int]) -> None:
        known = self._sender.run_ids
        ours = {run_id: count for run_id, count in counts.items() if run_id in known}
        counted = self._masked | ours
        self._masked_earlier += sum(counted.pop(run_id) for run_id in counted.keys() - set(known))
        # Not changed in place: `status` goes through it in another thread.
        self._masked = counted

    def _call(self) -> None:
        while (event := self._events.get()) is not None:
            kind, result = event
            if kind not in self._callbacks:
                continue
            if kind == "mask":
                result = self._latest = mask_of(result)
            for callback in list(self._callbacks[kind]):
                try:
                    callback(result)
                except Exception:
                    log.exception("a callback given to on_%s failed.", kind)


def _check_profile(profile: str | None, status: Message) -> None:
    known = [one["name"] for one in status["profiles"]]
    if profile is not None and profile not in known:
        raise InputError(
            f"there is no profile {profile!r} in the configuration of the daemon; there are: "
            f"{', '.join(known)}."
        )


def attach(
    core: CMMCorePlus,
    *,
    output: Path | str | None = None,
    config: Path | str | None = None,
    follow_live: bool = False,
    profile: str | None = None,
) -> Attachment:
    """Follow every acquisition of `core` from now on.

    Starts the daemon where none runs and returns once it is ready. Attaching
    twice to one core gives the same attachment. Frames taken are on the disk
    before `detach` returns, the `with` block is left, or the interpreter ends.

    Parameters
    ----------
    core : CMMCorePlus
        A core of any pymmcore-plus program.
    output : path or None
        Folder that the runs are written into; None: the daemon's own.
    config : path or None
        Configuration for a daemon that this call starts.
    follow_live : bool
        Whether to mask what the camera shows in live mode, too
        (`startContinuousSequenceAcquisition`, between acquisitions): the newest frame, at most ten
        times a second and never faster than masks are made. Frames are looked at and left to the
        program that shows them; nothing is stored. Masks come by `on_mask` and `latest_mask`, and
        the page shows them. Images of several cameras take their turns as they come.
    profile : str or None
        That all channels of the runs are looked at with, by its name in the daemon's
        configuration; None: what `match` gives each channel there. A choice on the page goes
        before both.

    Returns
    -------
    Attachment

    Raises
    ------
    InputError
        If `output` cannot be written to, the configuration is wrong, or there is no such profile.
    DaemonDidNotStart
        If no daemon is running and none can be started; the message says why. A RuntimeError.
    """
    with _attaching:
        attachment = _attachments.get(id(core))
        if attachment is None:
            file = None if config is None else Path(config).expanduser().absolute()
            # Read before anything is made: a wrong key leaves nothing behind.
            settings = load_config(file)
            folder = None if output is None else writable_folder(Path(output))
            attachment = Attachment(core, folder, file, settings, profile)
            _attachments[id(core)] = attachment
    if follow_live:
        attachment.follow_live()
    return attachment
