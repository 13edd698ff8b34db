"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Finding", "State"]

State = Literal["ok", "note", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it.

    Attributes
    ----------
    subject : str
        What was looked at; the same name every time.
    state : {"ok", "note", "warning", "fault"}
        "note": works without; "warning": works, not as well as it should; "fault": does not work.
    found : str
        In words.
    advice : str
        What to do; empty where nothing is to be done.
    figures : dict
        What was measured, for programs.
    """

    subject: str
    state: State
    found: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)
