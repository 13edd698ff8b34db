"""How this room compiles: one decorator, so that all kernels behave alike.

numba is loaded at the first call of any kernel, so that importing this room costs
nothing. Kernels release the GIL and are cached on disk beside the module (numba's
``__pycache__``). Where the package folder cannot be written, numba caches in
the user's own cache folder, or in ``NUMBA_CACHE_DIR`` if that is set; where
neither can be written, kernels are compiled anew in every process and nothing
else changes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])

# Compiling one kernel may make another, on the same thread.
_making = threading.RLock()


def kernel(function: _F) -> _F:
    """Compile `function` with numba at its first call, GIL released, cached on disk."""
    return cast("_F", _Kernel(function))


class _Kernel:
    """A function until it is called; from then on numba's dispatcher, also within other kernels."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._dispatcher: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        return (self._dispatcher or self.dispatcher())(*arguments)

    def dispatcher(self) -> Callable[..., Any]:
        """Return the function as numba takes it."""
        with _making:
            if self._dispatcher is None:
                _teach_numba()
                self._dispatcher = _dispatcher_of(self._function)
            return self._dispatcher


def _dispatcher_of(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("Callable[..., Any]", numba.njit(cache=True, **options)(function))
    except RuntimeError:
        # Raised here when numba finds no folder that it can write.
        return cast("Callable[..., Any]", numba.njit(**options)(function))


@functools.cache
def _teach_numba() -> None:
    """Let kernels call kernels: what numba finds under such a name is that one's dispatcher."""
    from numba.extending import typeof_impl

    @typeof_impl.register(_Kernel)
    def _type_of(value: _Kernel, context: Any) -> Any:
        return typeof_impl(value.dispatcher(), context)
