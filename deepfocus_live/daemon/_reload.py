"""The configuration, read again: what of it can change while the daemon runs, and when it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deepfocus_live.config import Config

__all__ = ["APPLIES", "Applies", "Change", "applies", "changes", "with_changes"]


class Applies(StrEnum):
    """When a changed setting counts."""

    AT_ONCE = "at once"
    NEXT_RUN = "with the next run"
    NEXT_ATTACH = "when a program attaches"
    RESTART = "after a restart"


APPLIES: Mapping[str, Applies] = {
    "output": Applies.RESTART,
    "models": Applies.RESTART,
    "python": Applies.NEXT_ATTACH,
    "web": Applies.RESTART,
    "storage.mode": Applies.NEXT_RUN,
    "storage.codec": Applies.NEXT_RUN,
    "storage.workers": Applies.RESTART,
    "storage.durability": Applies.NEXT_RUN,
    "storage.reserve_mb": Applies.AT_ONCE,
    "ring.slots": Applies.NEXT_ATTACH,
    "ring.memory_mb": Applies.NEXT_ATTACH,
    "ring.spill": Applies.RESTART,
    "inference": Applies.RESTART,
    "labels": Applies.RESTART,
    "learning": Applies.AT_ONCE,
    "profiles": Applies.NEXT_RUN,
}
"""By key; a section stands for all its keys. A profile that is new or gone: after a restart."""


_Path = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One setting that the file has otherwise than the daemon."""

    path: _Path
    before: Any
    after: Any
    applies: Applies

    @property
    def key(self) -> str:
        """As it stands in messages: `storage.codec`."""
        return ".".join(self.path)

    @property
    def in_words(self) -> str:
        """One line: key, both values, and when it counts."""
        return f"{self.key}: {_said(self.before)} → {_said(self.after)}, {self.applies}"


def changes(now: Config, wanted: Config) -> list[Change]:
    """Return what `wanted` has otherwise than `now`, in the order of the schema."""
    before, after = dict(_leaves((), now.model_dump())), dict(_leaves((), wanted.model_dump()))
    found = [
        Change(path, before[path], after[path], applies(path))
        for path in before
        if path in after and before[path] != after[path]
    ]
    for name in dict.fromkeys([*now.profiles, *wanted.profiles]):
        was, will_be = (name in config.profiles for config in (now, wanted))
        if was != will_be:
            said = _is_there(was), _is_there(will_be)
            found.append(Change(("profiles", name), *said, applies=Applies.RESTART))
    return found


def with_changes(now: Config, found: list[Change]) -> Config:
    """Return the configuration with what can change while the daemon runs."""
    tree = now.model_dump()
    for change in found:
        if change.applies is not Applies.RESTART:
            inside = tree
            for key in change.path[:-1]:
                inside = inside[key]
            inside[change.path[-1]] = change.after
    return Config.model_validate(tree)


def applies(path: _Path) -> Applies:
    """Return when a setting counts; KeyError where nobody has said it."""
    whole = ".".join(path)
    return APPLIES[whole] if whole in APPLIES else APPLIES[path[0]]


def _leaves(path: _Path, value: Any) -> Iterator[tuple[_Path, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inside in value.items():
        yield from _leaves((*path, name), inside)


def _is_there(there: bool) -> str:
    return "there" if there else "not there"


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "null" if value is None else str(value)
