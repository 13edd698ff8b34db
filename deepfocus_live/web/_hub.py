"""The hub between the daemon's threads and the browsers.

Design Notes
------------
The hub holds the *present*, not a history: the run, the curves of the last
stacks, the last notes, the newest slice. Every change gets the next number of
one count, and a viewer is told what changed after the number it has seen. So a
viewer that joins late, comes back, or is slow needs no case of its own, and
memory is bounded however long a run is and whoever watches.

The daemon's threads only write numbers and references under a lock that is
never held while anything is encoded or sent.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import FrameHeader, Placement, RunSpec, StackKey
from deepfocus_live.web._contrast import Contrast
from deepfocus_live.web._curves import StackCurves, finite
from deepfocus_live.web._draw import draw_slice, draw_stored_mask, most_counts
from deepfocus_live.web._message import pack_message
from deepfocus_live.web._pictures import FrameId, MadeMask, PictureMaker, TakenSlice
from deepfocus_live.web._source import StoredSlice
from deepfocus_live.web._viewer import Viewer

__all__ = ["LiveHub"]

_MOST_NOTES = 20
_MOST_RUNS = 4


class LiveHub:
    """What is known of the run that goes on, for everybody who watches.

    Thread-safe. None of the methods waits for a viewer, and none raises for what
    a viewer does.

    Parameters
    ----------
    pictures_per_second : float
        The most pictures made for all viewers together.
    """

    def __init__(self, *, pictures_per_second: float = 25.0) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._runs: OrderedDict[str, RunSpec] = OrderedDict()
        self._run: tuple[int, dict[str, Any] | None] = (0, None)
        self._curves = StackCurves()
        self._notes: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_MOST_NOTES)
        self._viewers: set[Viewer] = set()
        self._waking: set[asyncio.AbstractEventLoop] = set()
        self._maker = PictureMaker(self._wake, pictures_per_second=pictures_per_second)

    # What the daemon tells ---------------------------------------------------

    def run_started(self, spec: RunSpec) -> None:
        """Begin a run: the page turns to it."""
        with self._lock:
            self._runs[spec.run_id] = spec
            while len(self._runs) > _MOST_RUNS:
                self._runs.popitem(last=False)
            self._run = (self._next_version(), {**_describe_run(spec), "ended": False})
        self._wake()

    def run_ended(self, run_id: str) -> None:
        """End a run: its last slice stays in view, marked as ended."""
        with self._lock:
            run = self._run[1]
            if run is None or run["run"] != run_id:
                return
            self._run = (self._next_version(), {**run, "ended": True})
        self._wake()

    def slice_taken(self, placement: Placement, header: FrameHeader, z_slice: NDArray[Any]) -> None:
        """Show a slice that is safely stored.

        Parameters
        ----------
        placement : Placement
            Where it lies in its run.
        header : FrameHeader
            Everything else that is known of it.
        z_slice : (Y, X) or (3, Y, X) uint8 or uint16
            Its pixels: kept by reference until the next slice, never written to.
        """
        key = placement.stack(header.run_id)
        with self._lock:
            point = self._curves.point(key, placement.z, self._next_version())
            point.sequence_number = header.sequence_number
            point.z_um = self._z_um(key, placement.z, header.z_um)
            described = self._describe_place(key, placement.z)
            described["provisional"] = not self._curves.is_labelled(key)
            spec = self._runs.get(key.run_id)
        frame = FrameId(header.run_id, header.sequence_number)
        described |= {
            "sequence_number": header.sequence_number,
            "taken_at": header.taken_at,
            "x_um": finite(header.x_um),
            "y_um": finite(header.y_um),
            "exposure_ms": finite(header.exposure_ms),
        }
        # Wakes nobody: the viewers are told when the picture is made.
        most = most_counts(spec, z_slice)
        self._maker.offer_slice(TakenSlice(frame, key, z_slice, described, most))

    def mask_made(
        self,
        run_id: str,
        placement: Placement,
        sequence_number: int,
        mask: NDArray[np.uint8],
        *,
        in_focus_fraction: float,
        focus_score: float | None,
        model: str,
        provider: str,
        milliseconds: float,
        latency_ms: float,
        probability: NDArray[np.uint8] | None = None,
        threshold: float | None = None,
    ) -> None:
        """Lay a mask over its slice and put its fraction on the curve.

        Parameters
        ----------
        run_id, placement, sequence_number
            The slice that the mask is of.
        mask : (Y, X) uint8
            1 where in focus; kept by reference for a short while.
        in_focus_fraction : float
            Part of the pixels that is in focus, 0 … 1.
        focus_score : float or None
            Higher is sharper; comparable within the stack only.
        model, provider : str
            The model's version, and what it really runs on.
        milliseconds, latency_ms : float
            Time in the network, and from the camera to this mask.
        probability : (Y / r, X / r) uint8 or None
            The network's, 0 … 255, at its own resolution; kept as the mask is.
        threshold : float or None
            Probability from which the mask is 1, 0 … 1.
        """
        key = placement.stack(run_id)
        with self._lock:
            point = self._curves.point(key, placement.z, self._next_version())
            point.sequence_number = sequence_number
            point.in_focus_fraction = in_focus_fraction
            point.focus_score = focus_score
            if point.z_um is None:
                point.z_um = self._z_um(key, placement.z, None)
        told = {
            "in_focus_fraction": finite(in_focus_fraction),
            "focus_score": finite(focus_score),
            "model": model,
            "provider": provider,
            "milliseconds": finite(milliseconds, 2),
            "latency_ms": finite(latency_ms, 2),
        }
        frame = FrameId(run_id, sequence_number)
        self._maker.offer_mask(MadeMask(frame, mask, told, probability, finite(threshold)))
        self._wake()

    def stack_labelled(self, key: StackKey, in_focus_fraction: Sequence[float | None]) -> None:
        """Put the rule's in-focus fraction of every z of a stack on its curve."""
        with self._lock:
            self._curves.label(key, in_focus_fraction, self._next_version())
        self._wake()

    def note(self, level: str, text: str) -> None:
        """Show one line on the page; `level` is "info", "warning" or "error"."""
        with self._lock:
            told = {"level": level, "text": text, "at": time.time()}
            self._notes.append((self._next_version(), told))
        self._wake()

    def close(self) -> None:
        """Stop making pictures. Telling the hub more does no harm."""
        self._maker.close()

    # What the page's server asks ---------------------------------------------

    @property
    def viewers(self) -> int:
        """How many browsers watch."""
        return len(self._viewers)

    def join(self) -> Viewer:
        """Add a viewer; call in the event loop that serves it, and `leave` at the end."""
        viewer = Viewer(asyncio.get_running_loop())
        with self._lock:
            self._viewers.add(viewer)
        self._maker.watch(True)
        viewer.wake()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer; after the last one nothing is encoded any more."""
        with self._lock:
            self._viewers.discard(viewer)
            watched = bool(self._viewers)
        self._maker.watch(watched)

    def news(self, viewer: Viewer) -> list[str | bytes]:
        """Return the messages that bring a viewer up to date."""
        with self._lock:
            events = self._events_since(viewer.seen_version)
            viewer.seen_version = self._version
        texts = [json.dumps(event, allow_nan=False) for event in events]
        return [*texts, *viewer.choose(self._maker.pictures())]

    def stored_picture(
        self,
        run_id: str,
        placement: Placement,
        read: StoredSlice,
        contrast: Contrast | None = None,
    ) -> bytes:
        """Return the message for a slice that was read back; takes milliseconds.

        `contrast` is the viewer's own; None: as the channel's other slices are shown.
        """
        key = placement.stack(run_id)
        if contrast is None:
            contrast = self._maker.contrast_of(key, read.pixels)
        with self._lock:
            spec = read.spec or self._runs.get(run_id)
            point = self._curves.peek(key, placement.z)
            described = self._describe_place(key, placement.z, spec, read.z_um)
            labelled = read.labelled or self._curves.is_labelled(key)
        number = read.sequence_number
        if number is None and point is not None:
            number = point.sequence_number
        drawn, parts = draw_slice(read.pixels, contrast, most_counts(spec, read.pixels))
        told, mask_parts = draw_stored_mask(read)
        described |= {"kind": "stored", "sequence_number": number, "provisional": not labelled}
        return pack_message({**described, **drawn, **told}, (*parts, *mask_parts))

    # Inside, with the lock held ----------------------------------------------

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _events_since(self, version: int) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        changed, run = self._run
        if run is not None and changed > version:
            events.append({"type": "run", **run})
        for curve in self._curves.changed_since(version):
            key = curve.key
            place = {"run": key.run_id, "image": key.image, "t": key.t, "c": key.c}
            rows = curve.changed_since(version)
            size_z = self._size_z(key, max(curve.points))
            labelled = curve.labelled is not None
            told = {"size_z": size_z, "labelled": labelled, "points": rows}
            events.append({"type": "points", **place, **told})
            if curve.labelled is not None and curve.labelled > version:
                events.append({"type": "labelled", **place})
        notes = [note for changed, note in self._notes if changed > version]
        if notes:
            events.append({"type": "notes", "notes": notes})
        return events

    def _size_z(self, key: StackKey, z: int, spec: RunSpec | None = None) -> int:
        """Return how many slices a stack has: as planned, or as many as came."""
        spec = spec or self._runs.get(key.run_id)
        planned = spec.images[key.image].size_z if spec and key.image < len(spec.images) else 1
        return max(planned, z + 1)

    def _z_um(
        self, key: StackKey, z: int, measured: float | None, spec: RunSpec | None = None
    ) -> float | None:
        """Return where a slice lies, µm: by the stage, else counted from the stack's start."""
        if measured is not None:
            return measured
        spec = spec or self._runs.get(key.run_id)
        return z * spec.z_step_um.um if spec and spec.z_step_um else None

    def _describe_place(
        self, key: StackKey, z: int, spec: RunSpec | None = None, measured: float | None = None
    ) -> dict[str, Any]:
        spec = spec or self._runs.get(key.run_id)
        image = spec.images[key.image] if spec and key.image < len(spec.images) else None
        channel = spec.channels[key.c].name if spec and key.c < len(spec.channels) else None
        point = self._curves.peek(key, z)
        if measured is None and point is not None:
            measured = point.z_um
        return {
            "run": key.run_id,
            "image": key.image,
            "image_name": image.name if image else f"image {key.image + 1}",
            "t": key.t,
            "size_t": max(image.size_t if image else 1, key.t + 1),
            "c": key.c,
            "channel": channel or f"channel {key.c + 1}",
            "z": z,
            "size_z": self._size_z(key, z, spec),
            "z_um": finite(self._z_um(key, z, measured, spec), 4),
        }

    def _wake(self) -> None:
        """Tell the viewers that there is news; call without the lock.

        One hand-over to each event loop, however many watch and however much
        happens before it gets there: every single one costs the caller a switch
        of threads, which for ten viewers was 1.7 ms a slice.
        """
        if not self._viewers:
            return
        with self._lock:
            loops = {viewer.loop for viewer in self._viewers} - self._waking
            self._waking |= loops
        for loop in loops:
            try:
                loop.call_soon_threadsafe(self._wake_viewers, loop)
            except RuntimeError:
                self._forget_loop(loop)

    def _wake_viewers(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run in the event loop."""
        with self._lock:
            self._waking.discard(loop)
            viewers = [viewer for viewer in self._viewers if viewer.loop is loop]
        for viewer in viewers:
            viewer.wake()

    def _forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the viewers of a server that has ended without a word."""
        with self._lock:
            self._waking.discard(loop)
            self._viewers = {viewer for viewer in self._viewers if viewer.loop is not loop}
            watched = bool(self._viewers)
        self._maker.watch(watched)


def _describe_run(spec: RunSpec) -> dict[str, Any]:
    """Return what the page shows of a run; names of positions come with each picture."""
    pixel, step = spec.pixel_size_um, spec.z_step_um
    return {
        "run": spec.run_id,
        "name": spec.name,
        "height_px": spec.height_px,
        "width_px": spec.width_px,
        "dtype": spec.dtype,
        "images": len(spec.images),
        "channels": [channel.name for channel in spec.channels],
        "profile": spec.profile_of(0),
        "profiles": [spec.profile_of(c) for c in range(len(spec.channels))],
        "frames_expected": spec.frames_expected,
        "pixel_size_um": None if pixel is None else asdict(pixel),
        "z_step_um": None if step is None else asdict(step),
    }
