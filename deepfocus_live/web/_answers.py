"""Answers of the interface: errors and plain values as JSON."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse, Response

__all__ = ["plain", "refuse"]


def refuse(code: int, text: str) -> Response:
    """Return an error in the form that all of them have."""
    return JSONResponse({"error": text}, status_code=code)


def plain(value: Any) -> Any:
    """Return `value` without the numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
