"""What learning while acquiring does to the masks, what it costs, and what wrong labels do to it.

Sessions with real daemons: the specimen changes half-way to a kind that the shipped model does
badly on. Each seed's stacks are the same in every arm: without fine-tuning, with it, and with it
while the labels that it learns from are wrong. Beside them stand the costs, see `_learning_cost`.
"""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfocus_live.bench._learning_cost import CostEffort, cost_rows, measure_cost
from deepfocus_live.bench._sabotage import SABOTAGE
from deepfocus_live.bench._session import FineTune, TakenStack, open_session
from deepfocus_live.bench._table import Row
from deepfocus_live.simulation import FocalStack, Optics, simulate_focal_stack

__all__ = ["ARMS", "Effort", "Finding", "learning_rows", "measure", "run_arm", "session_stacks"]

ARMS = ("off", "on", *SABOTAGE)
_MOST_STACKS = 3
_GAIN, _LOSS = 0.001, -0.02
_log = logging.getLogger(__name__)

_SESSION_SEED = 7000
_NEW_KIND = {"contrast": "phase", "optics": Optics(pixel_size_um=0.3)}
_BEFORE, _AFTER = "before the change", "after the change"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    seeds : tuple of int
        Sessions of each arm.
    arms : tuple of str
        Of `ARMS`.
    stacks : int
        Of a session; the specimen changes half-way.
    shape : (int, int, int)
        Of a stack.
    after_stacks : int
        New stacks to a fine-tune.
    minutes : float
        Of a fine-tune.
    cost : CostEffort or None
        None: no costs.
    """

    seeds: tuple[int, ...] = (1, 2, 3)
    arms: tuple[str, ...] = ARMS
    stacks: int = 20
    shape: tuple[int, int, int] = (11, 256, 256)
    after_stacks: int = 5
    minutes: float = 0.4
    cost: CostEffort | None = field(default_factory=CostEffort)

    @property
    def learning(self) -> dict[str, Any]:
        """The daemon's settings where it learns."""
        return {
            "after_stacks": self.after_stacks,
            "minutes": self.minutes,
            "every_minutes": 0.0,
            "swap": "between-runs",
        }


@dataclass(frozen=True)
class Finding:
    """One session of one arm.

    Attributes
    ----------
    arm : str
    seed : int
    stacks : tuple of TakenStack
    fine_tunes : tuple of FineTune
    current : str
        Version in use at the end.
    """

    arm: str
    seed: int
    stacks: tuple[TakenStack, ...]
    fine_tunes: tuple[FineTune, ...]
    current: str

    def masked_by(self, version: str | None) -> int:
        """Return how many stacks have masks of a version."""
        return sum(version in stack.models for stack in self.stacks)

    def half(self, which: str) -> tuple[TakenStack, ...]:
        """Return the stacks before or after the change of specimen."""
        middle = len(self.stacks) // 2
        return self.stacks[:middle] if which == _BEFORE else self.stacks[middle:]


def measure(effort: Effort | None = None) -> list[Row]:
    """Return the rows of the group `learning`; half an hour on two idle cores."""
    effort = effort or Effort()
    found = []
    for seed in effort.seeds:
        stacks = session_stacks(effort, seed)
        for arm in effort.arms:
            with tempfile.TemporaryDirectory(prefix="deepfocus-bench-") as folder:
                found.append(run_arm(arm, seed, stacks, effort, Path(folder)))
            # The rows come at the end; what takes half an hour says meanwhile how far it is.
            for row in learning_rows(found[-1:]):
                _log.info("%s: %g %s", row.name, row.value, row.unit)
    rows = learning_rows(found)
    return rows if effort.cost is None else [*rows, *cost_rows(measure_cost(effort.cost))]


def session_stacks(effort: Effort, seed: int) -> list[FocalStack]:
    """Return a session's stacks: a layer of organoids in transmitted light, then phase contrast.

    With the contrast the magnification changes, to more pixels than the objective resolves.
    """
    return [
        simulate_focal_stack(
            "organoid_layer",
            shape=effort.shape,
            z_step_um=5.0,
            seed=_SESSION_SEED + 1000 * seed + number,
            **(_NEW_KIND if number >= effort.stacks // 2 else {}),  # type: ignore[arg-type]
        )
        for number in range(effort.stacks)
    ]


def run_arm(
    arm: str, seed: int, stacks: Sequence[FocalStack], effort: Effort, folder: Path
) -> Finding:
    """Take all stacks under the conditions of an arm."""
    honest = arm not in SABOTAGE
    program = ["deepfocus_live"] if honest else ["deepfocus_live.bench._sabotage", arm]
    learning = {"after_stacks": 0} if arm == "off" else effort.learning
    with open_session(folder, stacks, learning=learning, program=program) as session:
        for number in range(len(stacks)):
            session.take()
            if number < len(stacks) - 1:  # nobody would use what the last one teaches
                session.settle()
        return Finding(arm, seed, tuple(session.stacks), tuple(session.fine_tunes), session.current)


def learning_rows(found: Sequence[Finding]) -> list[Row]:
    """Return the rows of the sessions."""
    arms = list(dict.fromkeys(one.arm for one in found))
    rows = [
        *(row for arm in arms for row in _score_rows(arm, _of(found, arm))),
        *(row for one in found for row in _fine_tune_rows(one)),
    ]
    if {"on", "off"} <= set(arms):
        on, off = _of(found, "on"), _of(found, "off")
        rows += [
            _difference("IoU with truth after the change, on minus off", on, off, _AFTER, _GAIN),
            _difference("IoU with truth before the change, on minus off", on, off, _BEFORE, _LOSS),
        ]
    sabotaged = [one for one in found if one.arm in SABOTAGE]
    if sabotaged:
        rows.append(
            Row(
                "learning",
                f"models of wrong labels in use at the end, or for more than {_MOST_STACKS} stacks",
                float(sum(len(_harmful(one)) for one in sabotaged)),
                "",
                goal=0.0,
            )
        )
    return rows


def _of(found: Iterable[Finding], arm: str) -> list[Finding]:
    return [one for one in found if one.arm == arm]


def _score_rows(arm: str, found: Sequence[Finding]) -> list[Row]:
    rows = []
    for which in (_BEFORE, _AFTER):
        stacks = [stack for one in found for stack in one.half(which)]
        truth = _mean(stack.truth for stack in stacks)
        rows.append(Row("learning", f"{arm}: IoU with truth {which}", truth, ""))
        if arm not in SABOTAGE:  # agreement with wrong labels says nothing
            agreement = _mean(stack.agreement for stack in stacks)
            rows.append(Row("learning", f"{arm}: agreement with the rule {which}", agreement, ""))
    return rows


def _fine_tune_rows(one: Finding) -> list[Row]:
    """Return a row for each candidate: how many stacks it masked, and what became of it."""
    learnable = sum(stack.why_not is None for stack in one.stacks)
    rows = [
        Row("learning", f"{one.arm}, seed {one.seed}: stacks learnt from", learnable, "stacks")
    ] * (one.arm != "off")
    for candidate in one.fine_tunes:
        masked = one.masked_by(candidate.version)
        if candidate.version is None:
            end = "failed"
        elif not candidate.passed:
            end = "refused by the gate"
        elif candidate.taken_back:
            end = "taken up, and taken back"
        elif masked or candidate.version == one.current:
            end = "taken up"
        else:
            end = "passed the gate, not taken up"
        name = f"{one.arm}, seed {one.seed}: fine-tune after {candidate.after} stacks, {end}"
        rows.append(Row("learning", f"{name}; in use for", float(masked), "stacks"))
    return rows


def _difference(
    name: str, on: Sequence[Finding], off: Sequence[Finding], which: str, goal: float
) -> Row:
    """Return the mean over the seeds of what learning gained."""
    without = {one.seed: _mean(stack.truth for stack in one.half(which)) for one in off}
    gains = [
        _mean(stack.truth for stack in one.half(which)) - without[one.seed]
        for one in on
        if one.seed in without
    ]
    spread = "" if len(gains) < 2 else f" (seeds: {', '.join(f'{gain:+.3f}' for gain in gains)})"
    return Row("learning", name + spread, _mean(gains), "", goal=goal, at_least=True)


def _harmful(one: Finding) -> list[str]:
    """Return the versions that were in use too long."""
    return [
        candidate.version
        for candidate in one.fine_tunes
        if candidate.version is not None
        and (one.masked_by(candidate.version) > _MOST_STACKS or candidate.version == one.current)
    ]


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
