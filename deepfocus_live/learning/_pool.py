"""Earlier stacks to learn from once more, so that what they taught is not forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["StackPool", "StackRecord"]

Address = tuple[str, int, int, int]

_HOUR_S = 3600.0
_BRIGHTNESS_UNIT = 1.0  # a doubling of the counts
_FOCUS_UNIT = 1.0  # a doubling of the share in focus
_AGREEMENT_UNIT = 0.2
_DECIDED_UNIT = 0.2
_AGE_UNIT = 2.0  # a quarter of the age


@dataclass(frozen=True)
class StackRecord:
    """One stack that can be learnt from: where it lies, and what it looks like.

    Attributes
    ----------
    run : str
        Path of its run's folder.
    image, t, c : int
        Its place there.
    at : float
        When it was judged, seconds since the epoch.
    agreement : float or None
        Of its masks with the rule, 0..1.
    in_focus, decided : float
        Share in focus by the rule, and share where the rule decides, 0..1.
    brightness : float
        Mean of a slice, counts.
    """

    run: str
    image: int
    t: int
    c: int
    at: float
    agreement: float | None = None
    in_focus: float = 0.0
    decided: float = 1.0
    brightness: float = 0.0

    @property
    def address(self) -> Address:
        """Where it lies: two records with one address are of one stack."""
        return self.run, self.image, self.t, self.c

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> StackRecord:
        """Return what `as_json` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it did not.
        """
        agreement = found["agreement"]
        record = cls(
            run=str(found["run"]),
            image=int(found["image"]),
            t=int(found["t"]),
            c=int(found["c"]),
            at=float(found["at"]),
            in_focus=float(found["in_focus"]),
            decided=float(found["decided"]),
            brightness=float(found["brightness"]),
            agreement=None if agreement is None else float(agreement),
        )
        if not all(math.isfinite(value) for value in (record.at, *record.descriptor)):
            raise ValueError(f"not a stack: {found}")
        return record

    @property
    def descriptor(self) -> tuple[float, ...]:
        """What tells kinds of stacks apart; a distance of 1 is a clear difference."""
        return (
            math.log2(1.0 + max(self.brightness, 0.0)) / _BRIGHTNESS_UNIT,
            math.log2(1e-4 + max(self.in_focus, 0.0)) / _FOCUS_UNIT,
            self.decided / _DECIDED_UNIT,
            (0.0 if self.agreement is None else self.agreement) / _AGREEMENT_UNIT,
        )


class StackPool:
    """At most `size` stacks, as different from each other as they come.

    Where one too many is added, of the two that are most alike the older goes.
    """

    def __init__(self, size: int, records: Iterable[StackRecord] = ()) -> None:
        self._size = size
        self._records: dict[Address, StackRecord] = {}
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[StackRecord]:
        return iter(list(self._records.values()))

    def __contains__(self, address: object) -> bool:
        return address in self._records

    def add(self, record: StackRecord) -> None:
        """Add a stack; one that is there already is replaced."""
        self._records.pop(record.address, None)
        self._records[record.address] = record
        if len(self._records) > self._size:
            self._drop_the_commonest()

    def drop(self, addresses: Collection[Address]) -> None:
        """Take stacks out."""
        for address in addresses:
            self._records.pop(address, None)

    def keep(self, there: Callable[[StackRecord], bool]) -> list[StackRecord]:
        """Take out the stacks that are not `there` any more, and return those."""
        gone = [record for record in self if not there(record)]
        self.drop([record.address for record in gone])
        return gone

    def clear(self) -> list[StackRecord]:
        """Take all out, and return them in the order in which they were added."""
        records = list(self)
        self._records.clear()
        return records

    def choose(self, count: int) -> list[StackRecord]:
        """Return up to `count` stacks, the newest and then always the one farthest from the others.

        The same pool gives the same choice.
        """
        records = list(self)
        if count <= 0 or not records:
            return []
        distances = _distances(records)
        chosen = [max(range(len(records)), key=lambda number: records[number].at)]
        while len(chosen) < min(count, len(records)):
            nearest = distances[:, chosen].min(axis=1)
            nearest[chosen] = -1.0
            chosen.append(int(nearest.argmax()))
        return [records[number] for number in chosen]

    def _drop_the_commonest(self) -> None:
        records = list(self)
        if len(records) < 2:  # a pool of no size
            self._records.clear()
            return
        distances = _distances(records)
        np.fill_diagonal(distances, np.inf)
        pair = divmod(int(distances.argmin()), len(records))
        older = min(pair, key=lambda number: records[number].at)
        del self._records[records[older].address]


def _distances(records: list[StackRecord]) -> NDArray[np.float64]:
    """Return how different each two stacks are, (N, N)."""
    newest = max(record.at for record in records)
    # An hour tells more beside another hour than beside another week.
    ages = [math.log2(1.0 + (newest - record.at) / _HOUR_S) for record in records]
    described = zip(records, ages, strict=True)
    points = np.array([(*record.descriptor, age / _AGE_UNIT) for record, age in described])
    distances: NDArray[np.float64] = np.linalg.norm(points[:, None] - points[None], axis=2)
    return distances
