"""What a trainer is asked to do, in plain values: neither torch nor zarr is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfocus_live.errors import InputError

__all__ = ["StackAddress", "TrainingJob"]


@dataclass(frozen=True)
class StackAddress:
    """Where one focal stack lies.

    Attributes
    ----------
    run : Path
        Run directory.
    image, t, c : int
        Number of the image (position × tile), time point and channel, from 0.
    """

    run: Path
    image: int
    t: int
    c: int


@dataclass(frozen=True)
class TrainingJob:
    """One fine-tune.

    Attributes
    ----------
    profile : str
        Whose model is taught.
    new : tuple of StackAddress
        Stacks that are to be learnt from, at least one.
    replay : tuple of StackAddress
        Earlier ones, lest they be forgotten. Of either kind some are held out to judge by.
    minutes : float
        Of the whole call, > 0; while it is paused its time stands still. Two fifths of them are
        for learning itself, however long it took to get ready.
    parent : str or None
        Version to start from; None: the profile's current one.
    """

    profile: str
    new: tuple[StackAddress, ...]
    replay: tuple[StackAddress, ...] = ()
    minutes: float = 2.0
    parent: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON; runs under their full paths."""
        return {
            "profile": self.profile,
            "new": [_as_list(address) for address in self.new],
            "replay": [_as_list(address) for address in self.replay],
            "minutes": self.minutes,
            "parent": self.parent,
        }

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> TrainingJob:
        """Return the job that `as_dict` described.

        Raises
        ------
        InputError
            If something is missing, of another kind, or there is nothing new to learn from.
        """
        try:
            job = cls(
                str(said["profile"]),
                tuple(_address(one) for one in said["new"]),
                tuple(_address(one) for one in said["replay"]),
                float(said["minutes"]),
                None if said["parent"] is None else str(said["parent"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"not a training job ({what}): write it with as_dict") from None
        if not job.new:
            raise InputError("the training job names no new stack: there is nothing to learn")
        if not (job.minutes > 0 and math.isfinite(job.minutes)):
            raise InputError(f"the training job's minutes are {job.minutes:g}; give more than 0")
        return job

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(self.as_dict())

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        """Return the job that `to_json` wrote; InputError as `from_dict`."""
        try:
            said = json.loads(text)
        except ValueError as error:
            raise InputError(f"not a training job ({error}): write it with to_json") from None
        if not isinstance(said, dict):
            raise InputError("not a training job (no record): write it with to_json")
        return cls.from_dict(said)


def _as_list(address: StackAddress) -> list[Any]:
    return [str(address.run.absolute()), address.image, address.t, address.c]


def _address(said: Any) -> StackAddress:
    run, *place = said
    image, t, c = (int(number) for number in place)
    if min(image, t, c) < 0:
        raise ValueError(f"{said}: numbers count from 0")
    return StackAddress(Path(run), image, t, c)
