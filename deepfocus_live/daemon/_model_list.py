"""The models of each profile, and how far they may be trusted, in words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deepfocus_live.errors import InputError
from deepfocus_live.model import ModelVersion, Registry

__all__ = ["Thresholds", "list_models", "trust_in"]

_LAST = 5
LOW_AGREEMENT = 0.5
"""Median IoU of the last stacks below which masks and rule do not agree."""


class Thresholds:
    """Which threshold a version has: looked up once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, float | None] = {}

    def of(self, version: str) -> float | None:
        """Return a version's threshold; None if it is not there any more."""
        if version not in self._known:
            try:
                self._known[version] = self._registry.get(version).threshold
            except InputError:
                self._known[version] = None
        return self._known[version]


def list_models(
    registry: Registry,
    profiles: Iterable[str],
    agreements: Callable[[], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Return what the page lists of the models, as `docs/api.md` has it.

    Parameters
    ----------
    profiles : iterable of str
        Those of the configuration; those that have chosen a model are listed as well.
    agreements : callable
        Returns what was noted of how masks agree with the rule, oldest first.
    """
    versions = registry.versions()
    shipped = {v.name for v in versions if v.path.parent == registry.shipped}
    noted = agreements()
    names = dict.fromkeys([*profiles, *registry.profiles()])
    listed = [_profile(registry, name, versions, shipped, noted) for name in names]
    return {"profiles": listed}


def trust_in(version: str, noted: Iterable[Mapping[str, Any]], *, shipped: bool) -> dict[str, Any]:
    """Return how far a version may be trusted by what it did here, in words too."""
    found = [float(n["iou"]) for n in noted if n.get("model") == version and _is_part(n.get("iou"))]
    if not found:
        text = "shipped, untested here" if shipped else "untested here"
        return {"state": "untested", "text": text, "stacks": 0, "iou": None}
    last = found[-_LAST:]
    median = round(statistics.median(last), 4)
    told = {"stacks": len(found), "iou": median}
    if median < LOW_AGREEMENT:
        which = "last stack" if len(last) == 1 else f"last {len(last)} stacks"
        return {"state": "low", "text": f"low agreement on the {which}", **told}
    which = "1 stack" if len(found) == 1 else f"{len(found)} stacks"
    return {"state": "checked", "text": f"checked on {which}", **told}


def _is_part(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _profile(
    registry: Registry,
    profile: str,
    versions: list[ModelVersion],
    shipped: set[str],
    noted: list[dict[str, Any]],
) -> dict[str, Any]:
    try:
        current = registry.current(profile)
    except InputError as error:
        return {"name": profile, "current": None, "warning": str(error), "versions": []}
    return {
        "name": profile,
        "current": current.name,
        "warning": current.fallback_reason,
        "trust": trust_in(current.name, noted, shipped=current.name in shipped),
        "can_roll_back": registry.can_roll_back(profile),
        "versions": [
            _version(version, current.name, shipped)
            for version in reversed(versions)
            if _is_for(version, profile, current.name)
        ],
    }


def _is_for(version: ModelVersion, profile: str, current: str) -> bool:
    """Return whether a version belongs in a profile's list: its own, and what is nobody's."""
    own = version.card.get("profile")
    return own is None or own == profile or version.name == current


def _version(version: ModelVersion, current: str, shipped: set[str]) -> dict[str, Any]:
    card = version.card
    metrics = card.get("metrics")
    gate = metrics.get("gate") if isinstance(metrics, dict) else None
    judged = None
    if gate is not None:
        passed = gate == "passed"
        judged = {"passed": passed, "text": "gate passed" if passed else f"gate refused: {gate}"}
    return {
        "name": version.name,
        "parent": version.parent,
        "created": card.get("created"),
        "shipped": version.name in shipped,
        "current": version.name == current,
        "gate": judged,
        "metrics": metrics if isinstance(metrics, dict) else {},
    }
