"""Runs that a network can be taught from: simulated stacks, labelled as the daemon labels them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.daemon._labels import store_labels
from deepfocus_live.focus import StackLabeler
from deepfocus_live.frames import Placement, StackKey
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.volume import RunWriter
from tests.stored_frames import QUICK, enter_frame, header_of, run_spec

__all__ = ["SIZE", "store_stack", "teachable_run"]

SIZE = (5, 192, 192)
Slices = NDArray[np.uint16]


def teachable_run(
    output: Path,
    times: int,
    *,
    seed: int = 1,
    preset: str = "consensus",
    missing: tuple[int, ...] = (),
    shape: tuple[int, int, int] = SIZE,
    end: bool = True,
) -> Path:
    """Return a run of `times` stacks, one image and channel; `missing` slices were never taken."""
    size_z, height, width = shape
    spec = run_spec(
        run_id=f"run-{seed}",
        name=f"run-{seed}",
        height_px=height,
        width_px=width,
        images=[{"name": "here", "size_t": times, "size_z": size_z}],
    )
    writer = RunWriter.create(output, spec, QUICK, about={})
    for t in range(times):
        stack = simulate_focal_stack("organoid_layer", shape=shape, seed=100 * seed + t)
        store_stack(writer, t, stack.slices, preset=preset, missing=missing)
    if end:
        writer.end("completed")
    writer.close()
    return writer.path


def store_stack(
    writer: RunWriter, t: int, slices: Slices, *, preset: str, missing: tuple[int, ...] = ()
) -> None:
    """Store the slices of a time point, and what the rule says of them."""
    labeler = StackLabeler(preset, shape_yx=slices.shape[1:])
    for z, pixels in enumerate(slices):
        if z in missing:
            continue
        header = header_of(
            t * len(slices) + z,
            {"t": t, "z": z},
            run_id=writer.spec.run_id,
            height_px=slices.shape[1],
            width_px=slices.shape[2],
        )
        stored = writer.write_frame(header, pixels)
        assert stored.placement == Placement(0, t, 0, z)
        enter_frame(writer, header, stored)
        writer.write_pyramid(stored.placement, pixels)
        labeler.add(z, pixels)
    store_labels(writer, StackKey(writer.spec.run_id, 0, t, 0), labeler.finish(), preset)
