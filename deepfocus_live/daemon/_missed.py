"""Frames that a sequence asked for and the camera did not deliver."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from pydantic import ValidationError

from deepfocus_live.frames import FrameIndex, Placement, RunSpec

__all__ = ["MissedFrames", "find_missed"]

_MOST_EVENTS = 1_000_000
_MOST_NAMED = 1000
_MOST_SAID = 5


@dataclass(frozen=True)
class MissedFrames:
    """What is missing of one run."""

    count: int
    frames: tuple[dict[str, int], ...]
    """Their indices, the first thousand."""
    exact: bool
    """False: the camera ran by its own clock, and frames after a lost one took its place."""

    def in_words(self, name: str) -> str:
        """Return one line for the user."""
        named = "; ".join(_in_words(index) for index in self.frames[:_MOST_SAID])
        more = f" and {self.count - _MOST_SAID} more" if self.count > _MOST_SAID else ""
        noun = "1 frame" if self.count == 1 else f"{self.count} frames"
        words = f"run {name}: the camera did not deliver {noun}: {named}{more}"
        if self.exact:
            return f"{words}."
        return (
            f"{words}. It was hardware-sequenced: which were lost is not known, and slices of the "
            "same scan may lie higher or lower than they say."
        )


def find_missed(
    spec: RunSpec, stored: Iterable[Placement], *, completed: bool, hardware_triggered: bool
) -> MissedFrames | None:
    """Return which frames of the plan are not there; None where none is, or no plan is known.

    Parameters
    ----------
    stored : iterable of Placement
        Where the frames lie that came.
    completed : bool
        Whether the sequence came to its end; else only gaps count, and not what was not begun.
    """
    left = set(stored)
    if completed and spec.frames_expected == len(left):
        return None
    missed: list[dict[str, int]] = []
    gap: list[dict[str, int]] = []
    # What goes on with an earlier run has not missed what that one took.
    seen_one = spec.continues is None
    for index in islice(_planned(spec), _MOST_EVENTS):
        if not left and not completed:
            break
        place = _place_of(spec, index)
        if place in left:
            left.discard(place)
            missed += gap if seen_one else []
            gap, seen_one = [], True
        else:
            gap.append(index)
    if completed and seen_one:
        missed += gap
    if not missed:
        return None
    return MissedFrames(len(missed), tuple(missed[:_MOST_NAMED]), not hardware_triggered)


def _planned(spec: RunSpec) -> Iterable[dict[str, int]]:
    """Return the index of every frame of the sequence, in the order of the acquisition."""
    import useq  # slow to import, and needed at the end of a run only

    try:
        sequence = useq.MDASequence.model_validate(spec.sequence or {})
    except ValidationError:
        return
    cameras = len(spec.cameras)
    for event in sequence:
        # Focusing and custom actions bring no frame.
        if isinstance(event.action, useq.AcquireImage):
            index = {str(getattr(axis, "value", axis)): n for axis, n in event.index.items()}
            yield from [{**index, "cam": cam} for cam in range(cameras)] if cameras > 1 else [index]


def _place_of(spec: RunSpec, index: dict[str, int]) -> Placement | None:
    whole = FrameIndex(index)
    image = spec.image_number(whole)
    if image is None:
        return None
    channel = min(spec.channel_number(whole), len(spec.channels) - 1)
    return Placement(image, index.get("t", 0), channel, index.get("z", 0))


def _in_words(index: dict[str, int]) -> str:
    return " ".join(f"{axis}={n}" for axis, n in index.items()) or "the only one"
