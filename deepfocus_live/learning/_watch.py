"""After a swap: whether the new model does as well as the one it replaced.

Design Notes
------------
Both models are asked about the same slices of each new stack, and each answer is held against the
same weak labels. What counts is the difference: a specimen that is harder for both counts against
neither. Beside it stands the anchor, simulated slices with true masks, of both models: a network
taught wrong labels agrees with labels that are wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Any

__all__ = ["ANCHOR_FALL", "CLEAR_FALL", "FALL", "WATCHED_STACKS", "Outcome", "Watch"]

WATCHED_STACKS = 3
FALL = 0.02
"""Agreement that may be lost, the mean over the watched stacks."""
CLEAR_FALL = 0.10
"""Agreement that, lost on one stack, ends the watch."""
ANCHOR_FALL = 0.02
"""IoU with true masks that may be lost. The gate lets 0.01 pass, and another device rounds
differently."""


class Outcome(StrEnum):
    """What a watch has found."""

    UNDECIDED = "undecided"
    KEEP = "keep"
    ROLL_BACK = "roll back"


@dataclass(frozen=True)
class Watch:
    """What is known of a model that took over, and of the one before it.

    Attributes
    ----------
    new, old : str
        Versions.
    began_at : float
        Seconds since the epoch.
    acts : bool
        Whether a fall takes the model back. Not where a person chose it: it is only said then.
    pairs : tuple of (float, float)
        Agreement of the old and of the new model with the rule, a pair for each stack, 0..1.
    anchor : (float, float) or None
        IoU of the old and of the new model with true masks.
    """

    new: str
    old: str
    began_at: float
    acts: bool = True
    pairs: tuple[tuple[float, float], ...] = ()
    anchor: tuple[float, float] | None = None

    def with_stack(self, old: float | None, new: float | None) -> Watch:
        """Return it with one more stack, of which both models were asked about the same slices.

        None stands for "neither this model nor the rule says that anything is in focus", which is
        full agreement; where it is so of both models, the stack tells nothing.
        """
        if old is None and new is None:
            return self
        pair = (1.0 if old is None else old, 1.0 if new is None else new)
        return replace(self, pairs=(*self.pairs, pair))

    def with_anchor(self, old: float, new: float) -> Watch:
        """Return it with what the anchor says."""
        return replace(self, anchor=(old, new))

    @property
    def outcome(self) -> Outcome:
        """What is to be done."""
        return self._judged[0]

    @property
    def reason(self) -> str:
        """Why, with the numbers."""
        return self._judged[1]

    @property
    def _judged(self) -> tuple[Outcome, str]:
        if self.anchor is not None and self._anchor_lost > ANCHOR_FALL:
            words = "IoU with the anchor's true masks"
            return (
                Outcome.ROLL_BACK,
                f"{words} {_change(*self.anchor)}, {ANCHOR_FALL:g} may be lost",
            )
        for old, new in self.pairs:
            if _lost(old, new) > CLEAR_FALL:
                return (
                    Outcome.ROLL_BACK,
                    f"agreement of one stack {_change(old, new)}, {CLEAR_FALL:g} may be lost",
                )
        if len(self.pairs) < WATCHED_STACKS:
            return Outcome.UNDECIDED, f"{len(self.pairs)} of {WATCHED_STACKS} stacks watched"
        old, new = (fmean(pair[side] for pair in self.pairs) for side in (0, 1))
        words = f"agreement of {len(self.pairs)} stacks {_change(old, new)}"
        if _lost(old, new) > FALL:
            return Outcome.ROLL_BACK, f"{words}, {FALL:g} may be lost"
        return Outcome.KEEP, words

    @property
    def _anchor_lost(self) -> float:
        return 0.0 if self.anchor is None else _lost(*self.anchor)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Watch:
        """Return what `as_json` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it did not.
        """
        anchor = found["anchor"]
        return cls(
            new=str(found["new"]),
            old=str(found["old"]),
            began_at=float(found["began_at"]),
            acts=bool(found["acts"]),
            pairs=tuple(_pair(pair) for pair in found["pairs"]),
            anchor=None if anchor is None else _pair(anchor),
        )


def _pair(found: Any) -> tuple[float, float]:
    old, new = found
    return float(old), float(new)


def _lost(old: float, new: float) -> float:
    # A hair of slack: 0.70 - 0.69 is more than 0.01 to a computer.
    return old - new - 1e-9


def _change(old: float, new: float) -> str:
    return f"{old:.3f} → {new:.3f} ({new - old:+.3f})"
