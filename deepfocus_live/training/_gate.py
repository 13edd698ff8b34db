"""The gate that decides whether a retrained model may become the current one.

Design Notes
------------
Four questions, each asked of the exported graph and of its parent's:

- the anchor set, simulated slices with true masks that nobody trains on: not more than
  `MAX_LOSS` lost;
- stacks that were held out when the parent was taught: not more than `MAX_LOSS` lost;
- what was held out from this training: something gained. Hand-made truth decides where there is
  some, and may not be bought with weak labels;
- noise and empty fields: at most `MAX_EMPTY_SHARE` of any is called in focus.

Agreement with weak labels alone passes nobody: a network taught wrong labels agrees with held-out
labels that are wrong in the same way, and is caught by the anchor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["MAX_EMPTY_SHARE", "MAX_LOSS", "Check", "Scores", "Verdict", "judge_candidate"]

MAX_EMPTY_SHARE = 0.01
"""Largest share of an empty field that may be called in focus."""

MAX_LOSS = 0.01
"""IoU that may be lost on the anchor set, and on old stacks."""


@dataclass(frozen=True)
class Scores:
    """What the gate looks at, measured on an exported model.

    Attributes
    ----------
    anchor : float
        Intersection over union on the anchor set, 0..1, as all that follow.
    by_rule : float
        On held-out stacks, by every label there is: weak ones, and hand-made ones in their place.
    by_hand : float or None
        On the held-out slices with hand-made masks alone; None where there are none.
    old : float or None
        On the stacks held out when the parent was taught; None where there are none.
    empty_share : float
        Largest share called in focus in any of the noise and empty fields, 0..1.
    """

    anchor: float
    by_rule: float
    empty_share: float
    by_hand: float | None = None
    old: float | None = None

    @property
    def held_out(self) -> float:
        """What decides on the held-out stacks."""
        return self.by_rule if self.by_hand is None else self.by_hand


@dataclass(frozen=True)
class Check:
    """One question of the gate, and its answer.

    Attributes
    ----------
    what : str
        What was judged.
    before, after : float
        The parent's figure and the candidate's: IoU, or share in focus for empty fields.
    rule : str
        What is asked.
    passed : bool
    decides : bool
        False: told for information, whatever comes out.
    """

    what: str
    before: float
    after: float
    rule: str
    passed: bool
    decides: bool = True

    @property
    def change(self) -> float:
        """By how much it has risen."""
        return self.after - self.before

    def __str__(self) -> str:
        if not self.decides:
            verdict = "for information"
        else:
            verdict = f"{self.rule}: {'passed' if self.passed else 'refused'}"
        return f"{self.what}: {self.before:.4f} → {self.after:.4f} ({self.change:+.4f}), {verdict}"


@dataclass(frozen=True)
class Verdict:
    """All that the gate asked."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may become current."""
        return all(check.passed for check in self.checks if check.decides)

    @property
    def refusal(self) -> str | None:
        """Why it may not; None if it may."""
        return "; ".join(str(c) for c in self.checks if c.decides and not c.passed) or None

    def as_list(self) -> list[dict[str, Any]]:
        """Return the checks as plain values, for a card."""
        return [
            {
                **asdict(check),
                "before": round(check.before, 5),
                "after": round(check.after, 5),
                "change": round(check.change, 5),
            }
            for check in self.checks
        ]


def judge_candidate(candidate: Scores, parent: Scores) -> Verdict:
    """Ask the gate's questions of a candidate and its parent."""
    checks = [_keeps("anchor set, IoU with true masks", parent.anchor, candidate.anchor)]
    if parent.old is not None and candidate.old is not None:
        checks.append(_keeps("old held-out stacks, IoU", parent.old, candidate.old))
    if parent.by_hand is None or candidate.by_hand is None:
        checks.append(_gains("held-out, IoU with weak labels", parent.by_rule, candidate.by_rule))
    else:
        checks.append(
            _gains("held-out, IoU with hand-made masks", parent.by_hand, candidate.by_hand)
        )
        checks.append(
            Check(
                "held-out, IoU with all labels",
                parent.by_rule,
                candidate.by_rule,
                "not asked",
                True,
                decides=False,
            )
        )
    checks.append(
        Check(
            "noise and empty fields, largest share in focus",
            parent.empty_share,
            candidate.empty_share,
            f"at most {MAX_EMPTY_SHARE:g}",
            candidate.empty_share <= MAX_EMPTY_SHARE,
        )
    )
    return Verdict(tuple(checks))


def _keeps(what: str, before: float, after: float) -> Check:
    rule = f"may lose {MAX_LOSS:g}"
    # A hair of slack: 0.70 - 0.69 is more than 0.01 to a computer.
    return Check(what, before, after, rule, before - after <= MAX_LOSS + 1e-9)


def _gains(what: str, before: float, after: float) -> Check:
    return Check(what, before, after, "must gain", after > before)
