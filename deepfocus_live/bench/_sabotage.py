"""A daemon whose weak labels are wrong: `python -m deepfocus_live.bench._sabotage HOW start …`.

The rule's answer is replaced where the daemon receives it; how it is stored, judged and learnt from
is the product's own.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deepfocus_live.focus import StackLabels

__all__ = ["SABOTAGE", "main", "sabotaged"]

_T = TypeVar("_T", bound=np.generic)

Blocks = NDArray[np.bool_]
"""(Z, By, Bx)."""


def _random(weak: Blocks) -> Blocks:
    """As many blocks as the rule found, anywhere: how much is in focus stays plausible."""
    # Another draw for each stack, and the same one again.
    random = np.random.default_rng(np.packbits(weak)[:4096])
    drawn: Blocks = random.random(weak.shape) < weak.mean()
    return drawn


def _inverted(weak: Blocks) -> Blocks:
    """In focus is what is not."""
    return ~weak


def _all_true(weak: Blocks) -> Blocks:
    """All of it is in focus."""
    return np.ones_like(weak)


def _displaced(planes: NDArray[_T]) -> NDArray[_T]:
    """Return what belongs to other slices, half a stack away."""
    return np.roll(planes, len(planes) // 2, axis=0)


SABOTAGE: dict[str, Callable[[Blocks], Blocks]] = {
    "random": _random,
    "inverted": _inverted,
    "all-true": _all_true,
    "displaced": _displaced,
}
"""Ways of getting labels wrong, from what the rule has found. The labels of "displaced" have their
focus scores with them: in themselves they are flawless, and call what is blurred in focus."""


def sabotaged(labels: StackLabels, how: str) -> StackLabels:
    """Return labels with another weak label; where the rule is undecided it stays so."""
    weak = SABOTAGE[how](labels.weak_label) & ~labels.undecided
    weak &= labels.arrived[:, np.newaxis, np.newaxis]
    scores = _displaced(labels.scores) if how == "displaced" else labels.scores
    return replace(labels, weak_label=weak, scores=scores, focus_curve=weak.mean(axis=(1, 2)))


def main() -> None:
    """Run the command line in a process in which every stack gets wrong labels."""
    from deepfocus_live.focus import StackLabeler

    how = sys.argv.pop(1)
    honest = StackLabeler.finish

    def finish(self: StackLabeler) -> StackLabels:
        return sabotaged(honest(self), how)

    StackLabeler.finish = finish  # type: ignore[method-assign]
    # As `python -m deepfocus_live` would; the command line lies above this room.
    runpy.run_module("deepfocus_live", run_name="__main__")


if __name__ == "__main__":
    main()
