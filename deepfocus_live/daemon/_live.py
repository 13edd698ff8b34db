"""Live mode: masks for frames that are stored nowhere.

Design Notes
------------
A frame comes in a ring of its own, is copied out, and its slot is free again: no acknowledgement
here promises anything. Of each microscope only the newest frame waits for its mask, and live frames
and stored slices take turns, so that neither a backlog keeps the user waiting nor live mode keeps
the backlog from being worked off. To the page live mode looks like a run without slices to go back
to.
"""

from __future__ import annotations

import base64
import time
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.config import Config
from deepfocus_live.daemon._intake import Client, Intake
from deepfocus_live.daemon._masks import LiveSlice, MaskMaker
from deepfocus_live.errors import InputError
from deepfocus_live.frames import (
    ChannelSpec,
    FrameHeader,
    ImageSpec,
    Placement,
    RunSpec,
    luminance,
)
from deepfocus_live.inference import Inference
from deepfocus_live.ring import Message, RingError
from deepfocus_live.web import LiveHub

__all__ = ["LiveView", "mask_fields"]

_PLACE = Placement(0, 0, 0, 0)


class LiveView:
    """What the cameras of all clients show between their runs.

    Parameters
    ----------
    config : Config
        Whether there are masks at all.
    intake, masks, hub
        Who opens rings, makes masks, and shows them.
    profile : callable
        Which profile's model makes the masks.
    threshold : callable
        Returns the threshold of a model's version, None where that is not known.
    """

    def __init__(
        self,
        config: Config,
        intake: Intake,
        masks: MaskMaker,
        hub: LiveHub,
        *,
        profile: Callable[[], str] = lambda: "default",
        threshold: Callable[[str], float | None] = lambda _version: None,
    ) -> None:
        self._config = config
        self._profile = profile
        self._threshold = threshold
        self._intake = intake
        self._masks = masks
        self._hub = hub
        self._views: dict[Client, RunSpec] = {}

    def show(self, client: Client, message: Message) -> Message | None:
        """Queue a client's newest frame; the answer is its mask, or this one with the reason."""
        try:
            if not self._config.inference.enabled:
                raise InputError("`inference.enabled` is off in the daemon's configuration.")
            header, pixels = self._take(message)
            profile = self._profile()
            self._masks.prepare(profile, pixels.shape[-2:])
        except (InputError, RingError, OSError, KeyError, TypeError, ValueError) as error:
            return {"ok": False, "reason": str(error)}
        view = self._view(client, header, profile)
        header = header.model_copy(update={"run_id": view.run_id})
        self._hub.slice_taken(_PLACE, header, pixels)

        def masked(result: Inference, model: str, provider: str) -> None:
            self._masked(client, header, result, model, provider)

        self._masks.put_live(LiveSlice(client, profile, luminance(pixels), masked))
        return None

    def end(self, client: Client) -> None:
        """Note that a client's live mode is over, or the client gone."""
        view = self._views.pop(client, None)
        if view is not None:
            self._hub.run_ended(view.run_id)

    def _take(self, message: Message) -> tuple[FrameHeader, NDArray[Any]]:
        ring = self._intake.open_ring(str(message["ring"]))
        slot, number = int(message["slot"]), int(message["number"])
        if not 0 <= slot < ring.slots:
            raise InputError(f"slot {slot} of a ring of {ring.slots}.")
        if ring.run:
            raise InputError(f"{ring.path} carries frames of a run.")
        header, pixels = ring.get(slot)
        ring.acknowledge(slot, number)
        return header, pixels

    def _view(self, client: Client, header: FrameHeader, profile: str) -> RunSpec:
        """Return what the page knows it by: new for each size of image, and for each profile."""
        names = ("height_px", "width_px", "dtype", "samples_per_pixel")
        image = {"profile": profile, **{name: getattr(header, name) for name in names}}
        view = self._views.get(client)
        if view is None or any(getattr(view, name) != value for name, value in image.items()):
            view = RunSpec(
                run_id=f"live-{uuid.uuid4().hex}",
                name="live view (not stored)",
                images=(ImageSpec(name="live"),),
                channels=(ChannelSpec(name="camera"),),
                **image,
            )
            self._views[client] = view
            self._hub.run_started(view)
        return view

    def _masked(
        self, client: Client, header: FrameHeader, result: Inference, model: str, provider: str
    ) -> None:
        fraction = float(np.count_nonzero(result.mask)) / result.mask.size
        self._hub.mask_made(
            header.run_id,
            _PLACE,
            header.sequence_number,
            result.mask,
            in_focus_fraction=fraction,
            focus_score=result.focus_score,
            model=model,
            provider=provider,
            milliseconds=result.milliseconds,
            latency_ms=1000 * (time.time() - header.taken_at),
            probability=result.probability,
            threshold=self._threshold(model),
        )
        client.send(
            {
                "type": "mask",
                "live": True,
                "sequence_number": header.sequence_number,
                "z_um": header.z_um,
                **mask_fields(result, fraction, model),
            }
        )


def mask_fields(result: Inference, fraction: float, model: str) -> dict[str, Any]:
    """Return a mask, and what is known of it, as it goes over the wire."""
    packed = zlib.compress(np.packbits(result.mask).tobytes(), 1)
    return {
        "in_focus_fraction": fraction,
        "focus_score": result.focus_score,
        "model": model,
        "milliseconds": result.milliseconds,
        "shape": list(result.mask.shape),
        "mask": base64.b64encode(packed).decode(),
    }
