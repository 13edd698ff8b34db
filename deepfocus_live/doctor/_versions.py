"""Which versions there are."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from deepfocus_live import __version__
from deepfocus_live.config import Config
from deepfocus_live.doctor._finding import Finding

__all__ = ["look_at_versions"]

_PACKAGES = (
    "pymmcore-plus",
    "pymmcore",
    "numpy",
    "numba",
    "torch",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "zarr",
    "scikit-image",
)


def look_at_versions(_config: Config) -> Iterator[Finding]:
    """Say what is installed: the first that is asked of whoever needs help."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    said = ", ".join(f"{name} {number}" for name, number in found.items())
    system = platform.platform()
    yield Finding(
        "versions",
        "ok",
        f"deepfocus-live {__version__}, Python {platform.python_version()}, {system}; {said}",
        figures={"deepfocus-live": __version__, "python": platform.python_version(), **found},
    )
