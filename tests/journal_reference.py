"""What `docs/formats.md` says of the lines of a journal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_FORMATS = Path(__file__).parents[1] / "docs/formats.md"
_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def documented_keys() -> dict[str, set[str]]:
    """Return the keys of each kind of line, as they are documented."""
    section = _FORMATS.read_text(encoding="utf-8").partition("\n### The journal\n")[2]
    rows = _ROW.findall(section.partition("\n### ")[0])
    return {kind: {"kind", *re.findall(r"`(\w+)`", keys)} for kind, keys in rows}


def undocumented(lines: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what stands in lines of a journal and in no documentation, as `kind.key`."""
    known = documented_keys()
    found = {(line["kind"], key) for line in lines for key in line}
    return {f"{kind}.{key}" for kind, key in found if key not in known.get(kind, ())}
