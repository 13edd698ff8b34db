"""Which colour a channel is shown in, where nobody has said."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["RGB", "channel_colors"]

RGB = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
"""The samples of a colour camera, in the order of their channels."""
_WHITE = "FFFFFF"
_KNOWN = {
    r"dapi|hoechst|bfp|405": "0080FF",
    r"cfp|cerulean|445": "00FFFF",
    r"fitc|gfp|alexa ?488|488|calcein|fluo-?4": "00FF00",
    r"yfp|venus|514": "FFFF00",
    r"tritc|rhodamine|cy3|rfp|tomato|561|555|546": "FF8000",
    r"m?cherry|texas ?red|594": "FF0000",
    r"cy5|far ?red|640|647|633": "FF00FF",
    r"bright ?field|\bbf\b|phase|dic|trans": _WHITE,
}
"""What a name has in it, and the colour that people expect then."""
_OTHERS = ("00FF00", "FF00FF", "00FFFF", "FF8000", "FFFF00", "0080FF")


def channel_colors(names: Sequence[str]) -> list[str]:
    """Return a colour for each channel, as "RRGGBB"; a channel that is alone is white.

    Names of common stains and lasers give the usual colour, once; other channels get one that no
    other has, as long as there are any.
    """
    if len(names) == 1:
        return [_WHITE]
    found: list[str | None] = []
    for name in names:
        color = _known(name)
        found.append(None if color in found else color)
    left = [color for color in _OTHERS if color not in found]
    return [color or (left.pop(0) if left else _WHITE) for color in found]


def _known(name: str) -> str | None:
    colors = (color for words, color in _KNOWN.items() if re.search(words, name.lower()))
    return next(colors, None)
