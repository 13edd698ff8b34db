"""The focus curves of the last stacks: what is known of each slice, and since when."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deepfocus_live.frames import StackKey

__all__ = ["Point", "StackCurve", "StackCurves", "finite"]

_MOST_STACKS = 24
_MOST_SLICES = 4096


def finite(value: float | None, digits: int = 5) -> float | None:
    """Return the value rounded, or None where JSON has no word for it."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


@dataclass
class Point:
    """One slice on a curve."""

    version: int = 0
    """When it last changed, on the hub's count."""
    sequence_number: int | None = None
    z_um: float | None = None
    in_focus_fraction: float | None = None
    focus_score: float | None = None
    labelled_fraction: float | None = None

    def row(self, z: int) -> list[float | int | None]:
        """Return the point as the page reads it."""
        return [
            z,
            finite(self.z_um, 4),
            self.sequence_number,
            finite(self.in_focus_fraction),
            finite(self.focus_score, 6),
            finite(self.labelled_fraction),
        ]


@dataclass
class StackCurve:
    """The points of one stack by their z."""

    key: StackKey
    version: int = 0
    labelled: int | None = None
    """When the rule spoke, on the hub's count."""
    points: dict[int, Point] = field(default_factory=dict)

    def changed_since(self, version: int) -> list[list[float | int | None]]:
        """Return the rows of the points that changed after `version`, by z."""
        return [point.row(z) for z, point in sorted(self.points.items()) if point.version > version]


class StackCurves:
    """The curves of the last 24 stacks that anything happened to. Not thread-safe."""

    def __init__(self) -> None:
        self._curves: OrderedDict[StackKey, StackCurve] = OrderedDict()

    def __len__(self) -> int:
        return len(self._curves)

    def point(self, key: StackKey, z: int, version: int) -> Point:
        """Return the point to write to, marked as changed at `version`."""
        curve = self._curves.get(key)
        if curve is None:
            curve = self._curves[key] = StackCurve(key)
        self._curves.move_to_end(key)
        while len(self._curves) > _MOST_STACKS:
            self._curves.popitem(last=False)
        curve.version = version
        if len(curve.points) >= _MOST_SLICES and z not in curve.points:
            # A run from an iterator may never end its stack: the oldest slice goes.
            del curve.points[next(iter(curve.points))]
        point = curve.points.setdefault(z, Point())
        point.version = version
        return point

    def peek(self, key: StackKey, z: int) -> Point | None:
        """Return what is known of a slice, None if nothing is."""
        curve = self._curves.get(key)
        return None if curve is None else curve.points.get(z)

    def label(self, key: StackKey, in_focus_fraction: Sequence[float | None], version: int) -> None:
        """Write the rule's in-focus fraction of every slice of a stack."""
        for z, fraction in enumerate(in_focus_fraction[:_MOST_SLICES]):
            self.point(key, z, version).labelled_fraction = fraction
        if (curve := self._curves.get(key)) is not None:
            curve.labelled = version

    def is_labelled(self, key: StackKey) -> bool:
        """Return whether the rule has spoken of a stack, as far as is remembered."""
        curve = self._curves.get(key)
        return curve is not None and curve.labelled is not None

    def changed_since(self, version: int) -> Iterator[StackCurve]:
        """Yield the curves that changed after `version`, the longest untouched first."""
        return (curve for curve in self._curves.values() if curve.version > version)
