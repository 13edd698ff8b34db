"""When to fine-tune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepfocus_live.config import LearningConfig

__all__ = ["Decision", "Policy", "Standing"]


@dataclass(frozen=True)
class Standing:
    """What is decided on, of one profile.

    Attributes
    ----------
    stacks : int
        Stacks that can be learnt from since the last fine-tune began.
    agreements : sequence of float
        Their agreement with the rule, 0..1, oldest first; those without any left out, and those
        that another model than the current one masked.
    last_started : float or None
        When the last fine-tune began, seconds since the epoch.
    asked : bool
        Whether somebody asked for it by hand.
    known : int
        Stacks there are to learn from at all, earlier ones too.
    held_up_by : str or None
        What has to end before, in words: "a fine-tune runs".
    """

    stacks: int
    agreements: Sequence[float] = ()
    last_started: float | None = None
    asked: bool = False
    known: int = 0
    held_up_by: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether a fine-tune begins now, and why, with the numbers."""

    start: bool
    reason: str
    at: float
    """Seconds since the epoch."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"start": self.start, "text": self.reason, "at": round(self.at, 1)}


@dataclass(frozen=True)
class Policy:
    """When the user's settings ask for a fine-tune.

    Attributes
    ----------
    after_stacks : int
        0: never by count.
    below_agreement : float or None
        None: never by agreement.
    for_stacks : int
        How many stacks in a row must agree less.
    every_s : float
        Least time from start to start; what is asked for by hand does not wait.
    """

    after_stacks: int
    below_agreement: float | None
    for_stacks: int
    every_s: float

    @classmethod
    def of(cls, config: LearningConfig) -> Policy:
        """Return the policy that the settings ask for."""
        return cls(
            config.after_stacks,
            config.below_agreement,
            config.for_stacks,
            60.0 * config.every_minutes,
        )

    @property
    def in_words(self) -> str:
        """What it does, in a line."""
        when = []
        if self.after_stacks:
            when.append(f"after {_new(self.after_stacks)}")
        if self.below_agreement is not None:
            when.append(
                f"when agreement is below {self.below_agreement:g} for {self.for_stacks} stacks"
            )
        if not when:
            return "fine-tunes only when asked"
        return f"fine-tunes {' or '.join(when)}, at most every {self.every_s / 60:g} min"

    def decide(self, standing: Standing, now: float) -> Decision:
        """Decide, at a time in seconds since the epoch."""
        start, reason = self._weigh(standing, now)
        return Decision(start, reason, now)

    def _weigh(self, standing: Standing, now: float) -> tuple[bool, str]:
        why = self._why(standing)
        if why is None:
            return False, self._not_yet(standing)
        if standing.held_up_by is not None:
            return False, f"{why}; waits: {standing.held_up_by}"
        if not max(standing.known, standing.stacks):
            return False, f"{why}; there is no stack yet that can be learnt from"
        if not standing.asked and (wait := self._wait_s(standing, now)) > 0:
            return False, f"{why}; the last fine-tune is too recent, waits {_minutes(wait)}"
        return True, why

    def _why(self, standing: Standing) -> str | None:
        """Return what asks for a fine-tune."""
        if standing.asked:
            return f"asked for by hand, {_new(standing.stacks)}"
        if self.after_stacks and standing.stacks >= self.after_stacks:
            return f"{_new(standing.stacks)}, {self.after_stacks} asked for"
        last = list(standing.agreements)[-self.for_stacks :]
        level = self.below_agreement
        if level is not None and len(last) == self.for_stacks and max(last) < level:
            values = ", ".join(f"{value:.2f}" for value in last[-5:])
            return f"agreement {values} is below {level:g} for {len(last)} stacks"
        return None

    def _not_yet(self, standing: Standing) -> str:
        if self.after_stacks:
            return f"{standing.stacks} of {self.after_stacks} new stacks"
        if self.below_agreement is None:
            return f"{_new(standing.stacks)}; fine-tunes only when asked"
        return f"{_new(standing.stacks)}; agreement is not below {self.below_agreement:g}"

    def _wait_s(self, standing: Standing, now: float) -> float:
        last = standing.last_started
        # A clock that was set back must not keep us waiting for a year.
        if last is None or last > now:
            return 0.0
        return last + self.every_s - now


def _new(count: int) -> str:
    return "1 new stack" if count == 1 else f"{count} new stacks"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
