"""How this room compiles: one decorator, so that all kernels behave alike.

Kernels release the GIL and are cached on disk beside the module (numba's
``__pycache__``). Where the package folder cannot be written, numba caches in
the user's own cache folder, or in ``NUMBA_CACHE_DIR`` if that is set; where
neither can be written, kernels are compiled anew in every process and nothing
else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Compile `function` with numba at its first call, GIL released, cached on disk."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: _F = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Raised here, at import, when numba finds no folder that it can write.
        compiled = numba.njit(**options)(function)
    return compiled
