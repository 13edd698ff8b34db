"""Which stacks are whole: labelled, and every labelled slice masked, in whichever order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.frames import StackKey
from deepfocus_live.volume import open_run

__all__ = ["WholeStack", "WholeStacks", "half_masked", "restored"]

_MOST = 512
"""Stacks that something is known of: of one whose slices never all come, memory must not grow."""


@dataclass(frozen=True)
class WholeStack:
    """A stack that has its labels and all its masks.

    Attributes
    ----------
    key : StackKey
    models : mapping of int to str
        Which version made the mask of each labelled slice, by z.
    trainable : bool
        Whether the rule says that a network may learn from it.
    contrast : float or None
        How far its focus scores rise over z; None: not known.
    """

    key: StackKey
    models: Mapping[int, str]
    trainable: bool
    contrast: float | None


class WholeStacks:
    """Told of masks and labels, each on a thread of its own; says once when a stack is whole.

    A stack whose labels are made again, for slices that came late, is whole once more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[StackKey, dict[int, str]] = OrderedDict()
        self._labelled: OrderedDict[StackKey, _Labelled] = OrderedDict()

    def masked(self, key: StackKey, z: int, model: str) -> WholeStack | None:
        """Note a mask; return the stack if that was its last."""
        with self._lock:
            self._of(key)[z] = model
            return self._whole(key)

    def labelled(
        self, key: StackKey, zs: Collection[int], *, trainable: bool, contrast: float | None
    ) -> WholeStack | None:
        """Note the labels of the slices `zs`; return the stack if all of them have their masks."""
        with self._lock:
            self._labelled[key] = _Labelled(frozenset(zs), trainable, contrast)
            while len(self._labelled) > _MOST:
                self._labelled.popitem(last=False)
            return self._whole(key)

    def restore(self, key: StackKey, models: Mapping[int, str]) -> WholeStack | None:
        """Note the masks that an earlier daemon made; return the stack if it is whole by them."""
        with self._lock:
            now = self._of(key)
            now.update({z: model for z, model in models.items() if z not in now})
            return self._whole(key)

    def forget_run(self, run_id: str) -> None:
        """Forget a run that is closed."""
        with self._lock:
            for key in [key for key in self._models if key.run_id == run_id]:
                del self._models[key]
            for key in [key for key in self._labelled if key.run_id == run_id]:
                del self._labelled[key]

    def _of(self, key: StackKey) -> dict[int, str]:
        models = self._models.setdefault(key, {})
        self._models.move_to_end(key)
        while len(self._models) > _MOST:
            self._models.popitem(last=False)
        return models

    def _whole(self, key: StackKey) -> WholeStack | None:
        labels, models = self._labelled.get(key), self._models.get(key, {})
        if labels is None or not labels.zs or not labels.zs <= models.keys():
            return None
        del self._labelled[key]
        made = {z: models[z] for z in sorted(labels.zs)}
        return WholeStack(key, made, labels.trainable, labels.contrast)


@dataclass(frozen=True)
class _Labelled:
    zs: frozenset[int]
    trainable: bool
    contrast: float | None


def restored(run: ActiveRun, stacks: WholeStacks) -> Iterator[WholeStack]:
    """Yield the stacks that an earlier daemon masked or labelled, and did not judge."""
    told = _Told.of(run)
    for key, models in told.models.items():
        if key not in told.judged:
            whole = stacks.restore(key, models)
            if whole is None and key in told.labels and key in run.writer.labelled_before:
                zs, trainable = told.labels[key]
                whole = stacks.labelled(key, zs, trainable=trainable, contrast=None)
            if whole is not None:
                yield whole


@dataclass
class _Told:
    """What a run's journal tells of its stacks."""

    models: dict[StackKey, dict[int, str]] = field(default_factory=dict)
    labels: dict[StackKey, tuple[list[int], bool]] = field(default_factory=dict)
    judged: set[StackKey] = field(default_factory=set)

    @classmethod
    def of(cls, run: ActiveRun) -> _Told:
        told, places = cls(), run.writer.durable_placements()
        for line in open_run(run.writer.path).journal:
            if line["kind"] == "mask":
                place = places.get(line["sequence_number"])
                if place is not None:
                    models = told.models.setdefault(place.stack(run.spec.run_id), {})
                    models[place.z] = line["model"]
            elif line["kind"] in ("label", "agreement"):
                key = StackKey(run.spec.run_id, line["image"], line["t"], line["c"])
                if line["kind"] == "agreement":
                    told.judged.add(key)
                    continue
                fractions = line["in_focus_fraction"]
                zs = [z for z, fraction in enumerate(fractions) if fraction is not None]
                told.labels[key] = zs, bool(line["trainable"])
                # Labels that came after it speak of more slices.
                told.judged.discard(key)
        return told


def half_masked(runs: Iterable[ActiveRun], profile: str) -> bool:
    """Return whether any stack of a profile has some of its masks, and gets more.

    A stack that a slice is missing of is over once so many frames came after its last that each
    image and channel had its turn.
    """
    for run in runs:
        stacks = run.stacks()
        newest = max((one.last_number for one in stacks), default=0)
        turn = len(run.spec.images) * len(run.spec.channels)
        for one in stacks:
            masks = len(one.in_focus_fraction)
            if not masks or one.masked or run.profile_of(one.key.c) != profile:
                continue
            if masks < len(one.z_um) or newest - one.last_number <= turn:
                return True
    return False
