"""What a run's journal says, taken together; damaged lines are counted, never stumbled over."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfocus_live.errors import InputError
from deepfocus_live.frames import ImageSpec, Placement, RunSpec, StackKey
from deepfocus_live.volume._folder import JOURNAL, keeps_pixels, read_run_json, spec_of
from deepfocus_live.volume._plate import image_folder
from deepfocus_live.volume._run_layout import STORES

__all__ = ["Ledger", "read_ledger"]


@dataclass
class Ledger:
    """A run as its record and its journal tell it. Make one with `read_ledger`."""

    path: Path
    record: dict[str, Any]
    """What `run.json` holds."""
    spec: RunSpec
    images: list[ImageSpec]
    """As planned, and those that came later."""
    frames: dict[int, tuple[Placement, str]] = field(default_factory=dict)
    """Place and CRC-32 of each slice, by sequence number."""
    masked: dict[int, str] = field(default_factory=dict)
    """Which model made the mask of which slice, by sequence number."""
    labelled: set[StackKey] = field(default_factory=set)
    ended: str | None = None
    """How the acquisition ended; None where nobody said."""
    missing: bool = False
    """Whether there is no journal at all."""
    torn: bool = False
    """Whether its last line is incomplete: a crash leaves that, and nothing is lost with it."""
    damaged_lines: list[int] = field(default_factory=list)
    """Numbers of the other lines that cannot be read, the first is 1."""

    @property
    def pixels_stored(self) -> bool:
        """Whether the run keeps the pixels of its slices."""
        return keeps_pixels(self.record)

    def folder(self, image: int, *, store: str = STORES[0]) -> Path:
        """Return where an image lies in one of the run's stores."""
        return image_folder(self.path / store, self.images, image)

    @property
    def stacks(self) -> dict[StackKey, set[int]]:
        """The z of the slices that there are of each stack."""
        found: defaultdict[StackKey, set[int]] = defaultdict(set)
        for placement, _ in self.frames.values():
            found[placement.stack(self.spec.run_id)].add(placement.z)
        return dict(found)


def read_ledger(path: Path) -> Ledger:
    """Return what the record and the journal of a run say.

    Raises
    ------
    InputError
        If `path` is no run directory, or its record is damaged.
    """
    record = read_run_json(path)
    spec = spec_of(path, record)
    ledger = Ledger(path, record, spec, list(spec.images))
    try:
        with (path / JOURNAL).open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    ledger.torn = True
                    break
                try:
                    _enter(ledger, json.loads(raw))
                except (ArithmeticError, KeyError, TypeError, ValueError):
                    ledger.damaged_lines.append(number)
    except FileNotFoundError:
        ledger.missing = True
    except OSError as error:
        raise InputError(f"{path / JOURNAL}: cannot be read: {error.strerror}.") from None
    return ledger


def _enter(ledger: Ledger, line: dict[str, Any]) -> None:
    kind = line["kind"]
    if kind == "frame":
        placement = Placement(*(int(line[axis]) for axis in Placement._fields))
        if not _is_place(placement, ledger):
            raise ValueError(f"no such place: {placement}")
        ledger.frames[int(line["sequence_number"])] = placement, str(line["crc32"])
    elif kind == "image":
        ledger.images.append(ImageSpec.model_validate(line["spec"]))
    elif kind == "mask":
        ledger.masked[int(line["sequence_number"])] = str(line.get("model"))
    elif kind == "label":
        stack = (int(line[axis]) for axis in ("image", "t", "c"))
        ledger.labelled.add(StackKey(ledger.spec.run_id, *stack))
    elif kind == "end":
        ledger.ended = str(line["reason"])


def _is_place(placement: Placement, ledger: Ledger) -> bool:
    image, _, c, _ = placement
    return min(placement) >= 0 and image < len(ledger.images) and c < len(ledger.spec.channels)
