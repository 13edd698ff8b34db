"""Everything a candidate and its parent are judged by, in one place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from deepfocus_live.errors import InputError
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import ModelVersion, Registry
from deepfocus_live.model.network import FocusNetwork
from deepfocus_live.training._anchor import anchor_set
from deepfocus_live.training._evaluate import (
    Example,
    JudgedSlice,
    by_hand,
    empty_share,
    held_out_slices,
    model_iou,
    network_empty_share,
    network_iou,
    score_slices,
)
from deepfocus_live.training._examples import LabelledStack, Source
from deepfocus_live.training._gate import Scores
from deepfocus_live.training._inputs import Given, reopen

__all__ = ["Evidence", "held_out_before", "held_out_sources", "old_stacks", "rehearsal_parts"]

_MOST_OLD_STACKS = 3
_OLD_SLICES = 24
_EXAMPLES_SHOWN = 6
_MOST_ANCESTORS = 100
_FORGETTING_ALLOWED = 0.003  # IoU on rehearsed simulation and old stacks; the gate allows more
_FORGETTING_COUNTS = 5.0  # no gain makes up for what the gate refuses
_GHOSTS_ALLOWED = 0.003  # share of an empty field; the gate allows 0.01
_GHOSTS_COUNT = 5.0


@dataclass(frozen=True)
class Evidence:
    """What is held out, from this training and from earlier ones.

    Attributes
    ----------
    held : sequence of LabelledStack
        From this training.
    old : sequence of LabelledStack
        When the parent was taught; and of what is replayed.
    rehearsed : sequence of LabelledStack
        Simulated stacks that are not learnt from, to choose a checkpoint that does not forget. The
        gate does not look at them, and training does not look at the anchor.
    reduction : int
    """

    held: Sequence[LabelledStack]
    old: Sequence[LabelledStack]
    rehearsed: Sequence[LabelledStack]
    reduction: int

    def scores(self, model: InFocusModel) -> Scores:
        """Judge an exported model: what runs beside the microscope is the graph, not torch."""
        drawn = self._by_hand
        return Scores(
            anchor=model_iou(model, anchor_set(self.reduction)),
            by_rule=model_iou(model, held_out_slices(self.held)),
            empty_share=empty_share(model),
            by_hand=model_iou(model, held_out_slices(drawn)) if drawn else None,
            old=model_iou(model, held_out_slices(self.old, _OLD_SLICES)) if self.old else None,
        )

    def examples(self) -> list[Example]:
        """Return the slices that decide on what was held out."""
        return held_out_slices(self._by_hand or self.held)

    def worst(self, model: InFocusModel) -> list[JudgedSlice]:
        """Return some of the slices that decide, those that the model agrees with least first."""
        deciding = self._by_hand or self.held
        return _some_worst(score_slices(model, deciding))

    def judge(self, network: FocusNetwork) -> Callable[[FocusNetwork], float]:
        """Return what to choose a checkpoint by: the held-out IoU, less what the gate refuses.

        That is, less what is forgotten of the rehearsed simulation and of old stacks, and less
        what is seen in focus in empty fields.

        Parameters
        ----------
        network : FocusNetwork
            As it is before it learns.
        """
        examples = self.examples()
        known = [held_out_slices(self.rehearsed), held_out_slices(self.old, _OLD_SLICES)]
        before = [(slices, network_iou(network, slices)) for slices in known if slices]

        def score(candidate: FocusNetwork) -> float:
            forgotten = [iou - network_iou(candidate, slices) for slices, iou in before]
            ghosts = network_empty_share(candidate)
            return (
                network_iou(candidate, examples)
                - _FORGETTING_COUNTS * sum(max(f - _FORGETTING_ALLOWED, 0.0) for f in forgotten)
                - _GHOSTS_COUNT * max(ghosts - _GHOSTS_ALLOWED, 0.0)
            )

        return score

    @property
    def _by_hand(self) -> list[LabelledStack]:
        return by_hand(self.held)


def old_stacks(
    card: Mapping[str, Any],
    new: Sequence[Given],
    label: Callable[[Given], LabelledStack],
    say: Callable[[str], None],
) -> list[LabelledStack]:
    """Return the stacks that were held out when a model was taught, and are still there.

    At most three, of those that are not among the new ones. Of one that cannot be read any more a
    line is said, and it is left out.
    """
    known = {(one.source.path, one.source.stack) for one in new if one.source is not None}
    found: list[LabelledStack] = []
    for source in _sources(card.get("held_out")):
        if len(found) == _MOST_OLD_STACKS:
            break
        if (source.path, source.stack) in known:
            continue
        with contextlib.ExitStack() as files:
            try:
                given = reopen(source, files)
                if given is not None:
                    found.append(_part(label(given), source))
            except InputError as error:
                say(f"old held-out stack left out: {error}")
    return [stack for stack in found if stack.any_in_focus]


def held_out_before(registry: Registry, version: ModelVersion) -> set[tuple[str, str]]:
    """Return path and name of the stacks that a version and its ancestors were judged by."""
    found: set[tuple[str, str]] = set()
    for _ in range(_MOST_ANCESTORS):
        found |= {(one.path, one.stack) for one in _sources(version.card.get("held_out"))}
        if version.parent is None:
            break
        try:
            version = registry.get(version.parent)
        except InputError:  # removed since
            break
    return found


def held_out_sources(stacks: Sequence[LabelledStack]) -> list[dict[str, Any]]:
    """Return where the held-out stacks are, for a card."""
    return [asdict(stack.source) for stack in stacks if stack.source is not None]


def rehearsal_parts(
    stacks: Sequence[LabelledStack],
) -> tuple[list[LabelledStack], list[LabelledStack]]:
    """Return the stacks to learn from, and every fourth one to see forgetting by."""
    learn = [stack for number, stack in enumerate(stacks) if number % 4 != 3]
    # The first and last slices show next to nothing in focus.
    judged = [
        replace(stack, slices=stack.slices[1:-1], target=stack.target[1:-1])
        for stack in stacks[3::4]
    ]
    return learn, judged


def _sources(listed: Any) -> list[Source]:
    """Read what `held_out_sources` wrote; cards of other programs may say anything."""
    found = []
    for one in listed if isinstance(listed, list) else []:
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):
            columns = one.get("columns")
            found.append(
                Source(
                    str(one["path"]),
                    str(one["stack"]),
                    None if one.get("masks") is None else str(one["masks"]),
                    None if columns is None else (int(columns[0]), int(columns[1])),
                )
            )
    return found


def _part(stack: LabelledStack, source: Source) -> LabelledStack:
    """Return the columns that were held out; all of a stack that is no longer as wide."""
    if source.columns is None:
        return stack
    start, stop = (edge // stack.reduction * stack.reduction for edge in source.columns)
    if not 0 <= start < stop <= stack.slices.shape[2]:
        return stack
    return stack.columns(start, stop)


def _some_worst(scores: list[JudgedSlice]) -> list[JudgedSlice]:
    """Return a few, from the worst to the median: the worst alone may all be one kind."""
    if len(scores) <= _EXAMPLES_SHOWN:
        return scores
    picks = np.linspace(0, len(scores) // 2, _EXAMPLES_SHOWN).round().astype(int)
    return [scores[pick] for pick in np.unique(picks)]
