"""What a training learns from: as many of the given stacks as there is memory and time for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions
from deepfocus_live.training._examples import LabelledStack, SliceStack
from deepfocus_live.training._inputs import Given, choose_slices
from deepfocus_live.training._label import with_labels

__all__ = ["OLD_STACK_BYTES", "Labelling"]

LABELLING_SHARE = 0.4  # of the time; stacks that are still to be labelled then are left out
OLD_STACK_BYTES = 4e7  # of each stack of an earlier training: of the largest slices a few
_BESIDE_BYTES = 6e8  # that judging, rehearsal and old stacks take, with slices of 2048 x 2048
_LEAST_BYTES = 6.4e7
_MOST_SAID = 3


@dataclass
class Labelling:
    """Reads and labels the stacks of one training.

    Attributes
    ----------
    preset : str
    reduction : int
    conditions : Conditions or None
        As of `with_labels`, all three.
    memory_mb : float
        In MB, for slices and all that is made of them.
    seed : int
        Of the choice where not all of them fit.
    done : callable
        Returns the share of the training's time that is gone.
    tell, note : callable
        Called with a line for people; what is noted stands in the report, too.
    nobody_asks : bool
        A stack that cannot be read is left out with a line; else that is an error.
    left_out : list of str
        A line for each stack that is left out, and why.
    """

    preset: str
    reduction: int
    conditions: Conditions | None
    memory_mb: float
    seed: int
    done: Callable[[], float]
    tell: Callable[[str], None]
    note: Callable[[str], None]
    nobody_asks: bool = False
    left_out: list[str] = field(default_factory=list)

    def label(self, given: Sequence[Given]) -> list[LabelledStack]:
        """Return what can be learnt from, in the order given.

        Raises
        ------
        InputError
            If that is nothing, or a stack cannot be read.
        """
        if not given:
            raise InputError("; ".join(["no stack was given to learn from", *self.left_out]))
        random = np.random.default_rng(self.seed)
        most_bytes = max(1e6 * self.memory_mb - _BESIDE_BYTES, _LEAST_BYTES)
        keep = choose_slices(given, most_bytes, random)
        if any(slices is not None for slices in keep):
            self.note(
                f"the stacks together are larger than {most_bytes / 1e9:.2g} GB: a random choice "
                f"of their slices is learnt from (seed {self.seed})"
            )
        # In random order, as time may not last; new ones and hand-made masks first.
        order = sorted(random.permutation(len(given)), key=lambda index: _turn(given[index]))
        found: dict[int, LabelledStack] = {}
        skipped = {"memory": 0, "time": 0}
        for index in order:
            if keep[index] == []:
                skipped["memory"] += 1
            elif len(found) >= 2 and given[index].stored is None and self._late():
                skipped["time"] += 1
            elif (one := self._label_one(given[index], keep[index])) is not None:
                found[index] = one
        for what, count in skipped.items():
            if count:
                self.leave_out(f"{count} stacks are left out: there is not enough {what} for more")
        if not found:
            raise InputError(f"no stack is left to learn from: {_some(self.left_out)}")
        return [found[index] for index in sorted(found)]

    def label_old(self, given: Given) -> LabelledStack:
        """Return a stack of an earlier training, to judge by."""
        self.tell(f"labelling {given.stack.name}, held out before")
        [keep] = choose_slices([given], OLD_STACK_BYTES, np.random.default_rng(0))
        return self._with_labels(given, keep)

    def _late(self) -> bool:
        return self.done() > LABELLING_SHARE

    def leave_out(self, line: str) -> None:
        """Say that a stack is left out."""
        self.left_out.append(line)
        self.tell(line)

    def _label_one(self, given: Given, keep: list[int] | None) -> LabelledStack | None:
        """Return a stack with its labels; None, with a line, if nothing can be learnt from it."""
        stack = given.stack
        self.tell(f"labelling {stack.name}")
        try:
            labelled = self._with_labels(given, keep)
        except (InputError, OSError) as error:
            if not self.nobody_asks:
                raise
            self.leave_out(f"{stack.name} is left out: {error}")
            return None
        if not labelled.trainable:
            self.leave_out(f"{stack.name} is left out: the specimen moves sideways during the scan")
        elif not labelled.decided and stack.shape[0] < 3:
            self.leave_out(
                f"{stack.name} is left out: {stack.shape[0]} slices are too few to compare; give "
                "masks (--pair)"
            )
        elif not labelled.decided:
            self.leave_out(f"{stack.name} is left out: every pixel of it is undecided")
        else:
            return replace(labelled, replay=given.replay)
        return None

    def _with_labels(self, given: Given, keep: list[int] | None) -> LabelledStack:
        return with_labels(
            given.stack,
            preset=self.preset,
            reduction=self.reduction,
            conditions=self._conditions_of(given.stack),
            masks=given.masks,
            keep=keep,
            source=given.source,
            stored=given.stored,
        )

    def _conditions_of(self, stack: SliceStack) -> Conditions | None:
        """Return the conditions, without a flat field that is not of this stack's size."""
        conditions = self.conditions
        flat = None if conditions is None else conditions.flat_field
        if conditions is None or flat is None or flat.shape == stack.shape[1:]:
            return conditions
        self.note(f"{stack.name} has another size than the flat field: done without it")
        return replace(conditions, flat_field=None)


def _some(lines: list[str]) -> str:
    """Return a few of the lines as one; the rest is in the log."""
    more = len(lines) - _MOST_SAID
    return "; ".join([*lines[:_MOST_SAID], *([f"and {more} more"] if more > 0 else [])])


def _turn(given: Given) -> tuple[bool, bool]:
    """Return what is labelled sooner, where it is less."""
    return given.replay, given.masks is None
