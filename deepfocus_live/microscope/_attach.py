"""`attach(core)`: follow every acquisition of a pymmcore-plus core from now on."""

from __future__ import annotations

import atexit
import base64
import logging
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psygnal
import useq
from numpy.typing import NDArray
from pymmcore_plus import CMMCorePlus

from deepfocus_live.config import Config, load_config, writable_folder
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.microscope._link import DaemonLink
from deepfocus_live.microscope._quiet import quiet_at_exit
from deepfocus_live.microscope._sender import FrameSender
from deepfocus_live.ring import Message

__all__ = ["Attachment", "MaskResult", "StackResult", "attach"]

log = logging.getLogger(__name__)

_attachments: dict[int, Attachment] = {}
_attaching = threading.Lock()


@dataclass(frozen=True)
class MaskResult:
    """One slice's in-focus mask, as the daemon's network made it."""

    run_id: str
    sequence_number: int
    placement: Placement
    mask: NDArray[np.bool_]
    """(Y, X); True is in focus."""
    in_focus_fraction: float
    model: str
    milliseconds: float


@dataclass(frozen=True)
class StackResult:
    """What the masks say of one finished stack."""

    key: StackKey
    z_um: tuple[float | None, ...]
    in_focus_fraction: tuple[float | None, ...]
    """Per slice; None where its mask is missing."""
    best_z: int | None
    """The slice with the largest in-focus fraction; None where nothing is in focus."""


class Attachment:
    """What `attach` returns: the way to results, and to letting go.

    A context manager; leaving it detaches.
    """

    def __init__(
        self, core: CMMCorePlus, output: Path | None, config: Path | None, settings: Config
    ) -> None:
        quiet_at_exit(core)
        self._core = core
        self._output = None if output is None else str(output)
        self._callbacks: dict[str, list[Callable[[Any], object]]] = {"mask": [], "stack": []}
        self._subscribed = False
        self._latest: MaskResult | None = None
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
        except BaseException:
            self._sender.stop()
            raise
        if core.getCameraDevice():
            frame_bytes = core.getImageWidth() * core.getImageHeight() * core.getBytesPerPixel()
            # Waited for: better now than while the first frames come.
            self._sender.prepare(frame_bytes).wait()
        if core.mda.is_running():
            log.warning("attached while an acquisition runs: following from the next one on.")
        self._following = False
        events = core.mda.events
        _connect_direct(events.sequenceStarted, self._on_started)
        _connect_direct(events.frameReady, self._on_frame)
        _connect_direct(events.sequenceFinished, self._on_finished)
        atexit.register(self._at_exit)

    # ------------------------------------------- on the acquisition's thread

    def _on_started(self, sequence: useq.MDASequence, summary: Mapping[str, Any]) -> None:
        self._following = True
        self._sender.begin(sequence, summary, self._output)

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
        """Call `callback` with each mask as it is made, on a thread of its own."""
        self._subscribe()
        self._callbacks["mask"].append(callback)

    def on_stack(self, callback: Callable[[StackResult], object]) -> None:
        """Call `callback` as soon as a stack's last mask is there, on a thread of its own."""
        self._subscribe()
        self._callbacks["stack"].append(callback)

    def latest_mask(self) -> MaskResult | None:
        """Return the newest mask; None before the first. Masks are sent from the first call on."""
        self._subscribe()
        return self._latest

    def status(self) -> dict[str, Any]:
        """Return the daemon's `pid` and `page`, and what became of the frames so far.

        `space` says in one line why the present run does not fit on its disk, and is None
        otherwise.
        """
        sender = self._sender
        address = sender.link.daemon
        return {
            "pid": None if address is None else address.pid,
            "page": None if address is None else address.page,
            "connected": sender.link.connected,
            "restarts": sender.link.restarts,
            "frames_taken": sender.counts.taken,
            "frames_sent": sender.frames_sent,
            "frames_durable": sender.frames_durable,
            "frames_waiting": sender.frames_waiting,
            "frames_refused": sender.counts.refused,
            "waits": sender.counts.waits,
            "waited_s": round(sender.counts.waited_s, 3),
            "space": sender.counts.space,
            "runs": list(sender.counts.paths),
        }

    # ---------------------------------------------------------- letting go

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every frame handed over so far is on the disk; return whether it is."""
        # After `detach` nothing is left to wait for.
        return self._detached or self._sender.flush().wait(timeout_s)

    def detach(self) -> None:
        """Stop following, and wait, saying how many are left, until every frame is on the disk."""
        with _attaching:
            if self._detached:
                return
            self._detached = True
            _attachments.pop(id(self._core), None)
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
        if message["type"] == "connected":
            if self._subscribed:
                self._send_subscription()
        else:
            self._events.put((message["type"], message))

    def _call(self) -> None:
        while (event := self._events.get()) is not None:
            kind, message = event
            if kind not in self._callbacks:
                continue
            result: Any = _mask_of(message) if kind == "mask" else _stack_of(message)
            if kind == "mask":
                self._latest = result
            for callback in list(self._callbacks[kind]):
                try:
                    callback(result)
                except Exception:
                    log.exception("a callback given to on_%s failed.", kind)


def attach(
    core: CMMCorePlus, *, output: Path | str | None = None, config: Path | str | None = None
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

    Raises
    ------
    InputError
        If `output` cannot be written to, or the configuration is wrong.
    DaemonDidNotStart
        If no daemon is running and none can be started; the message says why.
    """
    with _attaching:
        attachment = _attachments.get(id(core))
        if attachment is None:
            file = None if config is None else Path(config).expanduser().absolute()
            # Read before anything is made: a wrong key leaves nothing behind.
            settings = load_config(file)
            folder = None if output is None else writable_folder(Path(output))
            attachment = Attachment(core, folder, file, settings)
            _attachments[id(core)] = attachment
    return attachment


def _connect_direct(signal: Any, slot: Callable[..., None]) -> None:
    """Connect so that `slot` runs on the thread that emits, also where signals are Qt's."""
    if isinstance(signal, psygnal.SignalInstance):
        signal.connect(slot)
        return
    from qtpy.QtCore import Qt

    # Qt's automatic choice would queue the slot to the GUI thread.
    signal.connect(slot, Qt.ConnectionType.DirectConnection)


def _mask_of(message: Message) -> MaskResult:
    height, width = message["shape"]
    bits = np.frombuffer(zlib.decompress(base64.b64decode(message["mask"])), np.uint8)
    mask = np.unpackbits(bits, count=height * width).reshape(height, width).view(np.bool_)
    return MaskResult(
        run_id=message["run_id"],
        sequence_number=message["sequence_number"],
        placement=Placement(*message["placement"]),
        mask=mask,
        in_focus_fraction=message["in_focus_fraction"],
        model=message["model"],
        milliseconds=message["milliseconds"],
    )


def _stack_of(message: Message) -> StackResult:
    return StackResult(
        key=StackKey(*message["key"]),
        z_um=tuple(message["z_um"]),
        in_focus_fraction=tuple(message["in_focus_fraction"]),
        best_z=message["best_z"],
    )
