"""All-in-focus image and depth of each stack of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.export._source import Place, SourceImage
from deepfocus_live.focus import (
    StackLabeler,
    StackLabels,
    StackProjector,
    depth_map,
    enlarge_blocks,
    preset_named,
    projection_sharpness,
)

__all__ = ["FromAbove"]


class FromAbove:
    """Labels each stack of an image by rule and looks at it from above.

    Slices are read one at a time. Where image and depth are both wanted a stack is labelled
    once: its depth waits, at the resolution of its blocks.

    Parameters
    ----------
    image : SourceImage
        Whose slices, conditions and preset.
    keep_depth : bool
        Whether `depth` of a stack will follow `image` of it.
    step : callable
        Called for each slice, once when it is scored and once when it is blended in.

    Attributes
    ----------
    depth_unit : str
        What depths are in, and counted from, in words: µm, or slices where no z is known.
    """

    def __init__(self, image: SourceImage, *, keep_depth: bool, step: Callable[[], None]) -> None:
        self._image = image
        self._keep_depth = keep_depth
        self._step = step
        self._rule = preset_named(image.preset)
        self._z, self.depth_unit = _depths_of_slices(image)
        self._depths: dict[tuple[int, int], tuple[NDArray[np.float32], int]] = {}

    @property
    def depth_range(self) -> tuple[float, float]:
        """Lowest and highest z of any slice, in `depth_unit`."""
        every = [z for stack in self._z.values() for z in stack]
        return (float(min(every)), float(max(every))) if every else (0.0, 1.0)

    def image(self, t: int, c: int) -> NDArray[Any]:
        """Return the all-in-focus image of one stack, (Y, X) of its dtype; 0 if it has no slice.

        Raises
        ------
        InputError
            If a slice cannot be scored, or read from its file.
        """
        labels = self._label(t, c)
        if self._keep_depth:
            self._depths[t, c] = self._depth(labels, t, c)
        brightness = labels.findings.brightness if labels.findings else None
        projector = StackProjector(
            shape_yx=labels.shape_yx,
            dtype=self._image.dtype,
            block_px=labels.block_px,
            sharpness=projection_sharpness(self._rule),
            dark_offset=brightness.dark_offset if brightness else 0.0,
        )
        for z in np.flatnonzero(labels.arrived):
            gain = float(brightness.gain[z]) if brightness else 1.0
            pixels = self._image.read(Place(t, c, int(z)))
            projector.add(int(z), pixels, labels.scores[z], gain=gain)
            self._step()
        if not len(projector):
            return np.zeros(labels.shape_yx, self._image.dtype)
        return projector.image()

    def depth(self, t: int, c: int) -> NDArray[np.float32]:
        """Return z of the best focus, (Y, X) float32 in `depth_unit`; NaN where none is.

        Raises
        ------
        InputError
            If a slice cannot be scored, or read from its file.
        """
        kept = self._depths.pop((t, c), None)
        blocks, block_px = kept or self._depth(self._label(t, c), t, c)
        return enlarge_blocks(blocks, block_px, self._shape_yx)

    @property
    def _shape_yx(self) -> tuple[int, int]:
        return self._image.shape[3], self._image.shape[4]

    def _label(self, t: int, c: int) -> StackLabels:
        labeler = StackLabeler(
            self._rule, shape_yx=self._shape_yx, conditions=self._image.conditions
        )
        for z in range(self._image.shape[2]):
            place = Place(t, c, z)
            if place not in self._image.there:
                continue
            try:
                labeler.add(z, (self._image.judged or self._image.read)(place))
            except InputError:
                raise
            except ValueError as error:  # NaN, or counts that cannot be squared
                raise InputError(
                    f"{self._image.name}: slice {z} cannot be scored: {error}"
                ) from error
            self._step()
        return labeler.finish()

    def _depth(self, labels: StackLabels, t: int, c: int) -> tuple[NDArray[np.float32], int]:
        count = len(labels.arrived)
        if not labels.arrived.any():
            return np.full(labels.scores.shape[1:], np.nan, np.float32), labels.block_px
        found = depth_map(labels.scores, self._z[t, c][:count], labels.weak_label, labels.undecided)
        return found.depth_um, labels.block_px


def _depths_of_slices(
    image: SourceImage,
) -> tuple[dict[tuple[int, int], NDArray[np.float64]], str]:
    """Return z of every slice of every stack, and in what: one file has one unit and one zero."""
    by_stage = {
        (t, c): _stage_z(image, t, c) for t in range(image.shape[0]) for c in range(image.shape[1])
    }
    if all(z is not None for z in by_stage.values()):
        return {
            tc: z for tc, z in by_stage.items() if z is not None
        }, "µm, on the scale of the slices' z positions"
    count = np.arange(image.shape[2], dtype=np.float64)
    if image.z_step_um is not None:
        step, origin = image.z_step_um.um, "µm, from the first slice"
    else:
        step, origin = 1.0, "slices, from the first: the z-step is not known"
    return dict.fromkeys(by_stage, step * count), origin


def _stage_z(image: SourceImage, t: int, c: int) -> NDArray[np.float64] | None:
    """Return the positions of a stack's slices, of missing ones as they would be; None if unknown.

    Positions of slices that are not there carry no score, and only have to differ.
    """
    places = [Place(t, c, z) for z in range(image.shape[2])]
    known = {p.z: image.planes[p].z_um for p in places if p in image.there and p in image.planes}
    found = {z: z_um for z, z_um in known.items() if z_um is not None}
    arrived = sum(p in image.there for p in places)
    if not arrived:
        return np.empty(0)
    if len(found) < arrived:
        return None
    if len(found) > 1:
        slope, origin = np.polyfit(list(found), list(found.values()), 1)
    else:
        slope, origin = 1.0, next(iter(found.values()))
    z_um = np.array([found.get(p.z, origin + slope * p.z) for p in places])
    return z_um if len(np.unique(z_um)) == len(z_um) else None
