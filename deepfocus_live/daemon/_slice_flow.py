"""The way of a slice through the daemon, from the disk to its mask, its label and who is told.

Design Notes
------------
A slice comes here from a store thread once it is durable, from the mask thread once it is masked,
and its stack from the label thread. Who is told of a stack is told once, by whichever came last.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.daemon._clients import Clients
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._latency import LatencyWindow, RateWindow
from deepfocus_live.daemon._learning._learner import Learner
from deepfocus_live.daemon._live import mask_fields
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._model_list import Thresholds
from deepfocus_live.daemon._run import ActiveRun, PixelBudget, SliceJob, StackProgress
from deepfocus_live.daemon._runs import OpenRuns
from deepfocus_live.daemon._space import SpaceWatch
from deepfocus_live.frames import FrameHeader
from deepfocus_live.inference import Inference
from deepfocus_live.volume import StoredFrame
from deepfocus_live.web import LiveHub

__all__ = ["SliceFlow"]


class SliceFlow:
    """Passes slices on, and tells clients, page and learner what became of them. Thread-safe.

    Parameters
    ----------
    runs, masks, background, learner, space
        Who works on slices, and who follows what becomes of them.
    hub : LiveHub
        The page.
    clients : Clients
        The microscopes.
    thresholds : Thresholds
        Of the models' versions.
    budget : PixelBudget
        Memory for slices that wait.

    Attributes
    ----------
    durable_ms, mask_ms : LatencyWindow
        From the camera to the disk, and to the mask.
    stored, masked : RateWindow
        Slices.
    """

    def __init__(
        self,
        *,
        runs: OpenRuns,
        masks: MaskMaker,
        background: Background,
        learner: Learner,
        space: SpaceWatch,
        hub: LiveHub,
        clients: Clients,
        thresholds: Thresholds,
        budget: PixelBudget,
    ) -> None:
        self._runs = runs
        self._masks = masks
        self._background = background
        self._learner = learner
        self._space = space
        self._hub = hub
        self._clients = clients
        self._thresholds = thresholds
        self._budget = budget
        self._telling = threading.Lock()
        self.durable_ms, self.mask_ms = LatencyWindow(), LatencyWindow()
        self.stored, self.masked = RateWindow(), RateWindow()

    def frame_stored(
        self, run: ActiveRun, header: FrameHeader, stored: StoredFrame, pixels: NDArray[Any]
    ) -> None:
        """Pass a durable slice on to its mask and its label."""
        self.durable_ms.add(1000 * (time.time() - header.taken_at))
        self.stored.count()
        self._space.stored(run, stored.placement)
        segmented = self._runs.segmented(run, stored.placement)
        users = 1 + int(segmented)
        run.owe(users)
        job = SliceJob(
            run,
            stored.placement,
            header.sequence_number,
            budget=self._budget,
            pixels=pixels,
            header=header,
            users=users,
        )
        progress = run.stack(job.key)
        progress.announced = progress.announced or not segmented
        with self._telling:
            progress.z_um[stored.placement.z] = header.z_um
            progress.last_number = max(progress.last_number, header.sequence_number)
        for earlier in run.complete_before(job.key):
            self._tell_stack(run, earlier)
        self._hub.slice_taken(stored.placement, header, pixels)
        if segmented:
            self._masks.put(job)
        self._background.put(job)

    def mask_made(
        self, job: SliceJob, result: Inference, fraction: float, model: str, provider: str
    ) -> None:
        """Tell of a mask."""
        run, placement = job.run, job.placement
        latency = 0.0
        if job.header is not None:
            latency = 1000 * (time.time() - job.header.taken_at)
            self.mask_ms.add(latency)
        progress = run.stack(job.key)
        run.masked += 1
        self.masked.count()
        self._learner.masked(run, placement, model)
        self._hub.mask_made(
            run.spec.run_id,
            placement,
            job.sequence_number,
            result.mask,
            in_focus_fraction=fraction,
            focus_score=result.focus_score,
            model=model,
            provider=provider,
            milliseconds=result.milliseconds,
            latency_ms=latency,
            probability=result.probability,
            threshold=self._thresholds.of(model),
        )
        self._send_mask(job, result, fraction, model)
        with self._telling:
            progress.in_focus_fraction[placement.z] = fraction
            progress.focus_score[placement.z] = result.focus_score
        self._tell_stack(run, progress)
        self._tell_all_masked(run)

    def run_ended(self, run: ActiveRun) -> None:
        """Tell what is known of stacks that were cut off, or that nobody had planned."""
        for progress in run.stacks():
            progress.complete = True
            self._tell_stack(run, progress)
        self._tell_all_masked(run)

    def stack_labelled(
        self, run: ActiveRun, progress: StackProgress, fractions: list[float | None]
    ) -> None:
        """Tell of a stack's weak labels."""
        self._hub.stack_labelled(progress.key, fractions)
        if run.look(progress.key.c).segmented:
            self._learner.labelled(run, progress)

    def _send_mask(self, job: SliceJob, result: Inference, fraction: float, model: str) -> None:
        clients, run = self._clients.subscribers(), job.run
        if not clients:
            return
        message = {
            "type": "mask",
            "run_id": run.spec.run_id,
            "sequence_number": job.sequence_number,
            "placement": list(job.placement),
            "z_um": run.stack(job.key).z_um.get(job.placement.z),
            **mask_fields(result, fraction, model),
        }
        for client in clients:
            client.send(message)

    def _tell_stack(self, run: ActiveRun, progress: StackProgress) -> None:
        """Tell what is known of a stack, once, when its last mask is there."""
        with self._telling:
            if progress.announced or not progress.masked:
                return
            progress.announced = True
        images, number = run.spec.images, progress.key.image
        self._clients.tell(
            {
                "type": "stack",
                "key": list(progress.key),
                "image_name": images[number].name if number < len(images) else f"image {number}",
                "last_number": progress.last_number,
                "z_um": progress.heights,
                "in_focus_fraction": progress.fractions,
                "focus_score": progress.scores,
                "best_z": progress.best_z,
            }
        )
        run.forget(progress)

    def _tell_all_masked(self, run: ActiveRun) -> None:
        if run.all_announced:
            run_id = run.spec.run_id
            self._clients.tell({"type": "masked", "run_id": run_id, "masked": run.masked})
