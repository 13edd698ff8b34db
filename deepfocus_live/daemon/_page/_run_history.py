"""What a run's journal says, read as it grows: each line once, however often it is asked for."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepfocus_live.frames import ImageSpec, Placement, RunSpec
from deepfocus_live.volume import JOURNAL

__all__ = ["FrameFacts", "MaskFacts", "RunHistory", "model_of"]

_LINES_AT_ONCE = 200

Stack = tuple[int, int, int]
"""Image, t and c."""


def model_of(line: Mapping[str, Any]) -> str | None:
    """Return which model a line on agreement is about; None where there were several."""
    models = line.get("models", [line.get("model")])
    return str(models[0]) if len(models) == 1 and models[0] is not None else None


class FrameFacts(NamedTuple):
    """What is known of a stored frame."""

    sequence_number: int
    z_um: float | None


class MaskFacts(NamedTuple):
    """What is known of a mask."""

    in_focus_fraction: float
    focus_score: float | None
    model: str | None


class RunHistory:
    """The journal of one run. Thread-safe.

    Attributes
    ----------
    frames, masks : by placement
    labels : by image, t and c
        The rule's in-focus fraction of each z, None where a slice was missing.
    images : list of ImageSpec
        Planned ones, and those that nobody planned.
    agreement : list of dict
        How network and rule agree, stack by stack, as the journal has it.
    """

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self._path = folder / JOURNAL
        self._lock = threading.Lock()
        self._offset = 0
        self._placed: dict[int, Placement] = {}
        self.spec = spec
        self.images: list[ImageSpec] = list(spec.images)
        self.frames: dict[Placement, FrameFacts] = {}
        self.masks: dict[Placement, MaskFacts] = {}
        self.labels: dict[Stack, list[float | None]] = {}
        self.agreement: list[dict[str, Any]] = []
        self.ended: str | None = None

    def look(self) -> RunHistory:
        """Read what has come since the last look; return itself."""
        with self._lock:
            for number, raw in enumerate(self._new_lines(), start=1):
                # A damaged line says nothing, and what it was about counts as missing.
                with contextlib.suppress(LookupError, TypeError, ValueError):
                    self._take(json.loads(raw))
                if number % _LINES_AT_ONCE == 0:
                    # Slices are being stored by this process: a long journal must not be in
                    # their way.
                    time.sleep(0.0005)
        return self

    def stack(self, stack: Stack) -> list[int]:
        """Return the z of a stack's slices, ascending."""
        return sorted(place.z for place in self.frames if place[:3] == stack)

    def stacks(self) -> dict[Stack, list[int]]:
        """Return the z of every stack's slices, ascending; stacks by their first slice."""
        found: dict[Stack, list[int]] = {}
        for place in list(self.frames):
            found.setdefault(place[:3], []).append(place.z)
        return {stack: sorted(zs) for stack, zs in found.items()}

    def _new_lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except OSError:
            return []
        # A torn last line is whole at the next look, or never.
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()

    def _take(self, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind == "frame":
            place = Placement(*(int(line[axis]) for axis in Placement._fields))
            number = int(line["sequence_number"])
            self._placed[number] = place
            self.frames[place] = FrameFacts(number, line.get("z_um"))
        elif kind == "mask":
            place = self._placed[line["sequence_number"]]
            said = line["in_focus_fraction"], line.get("focus_score"), line.get("model")
            self.masks[place] = MaskFacts(*said)
        elif kind == "label":
            self.labels[line["image"], line["t"], line["c"]] = list(line["in_focus_fraction"])
        elif kind == "agreement":
            keys = ("image", "t", "c", "iou", "decided")
            noted = {key: line.get(key) for key in keys}
            self.agreement.append({**noted, "model": model_of(line)})
        elif kind == "image":
            self.images.append(ImageSpec.model_validate(line["spec"]))
        elif kind == "end":
            self.ended = str(line["reason"])
