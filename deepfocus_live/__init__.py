"""Live in-focus masks, safe storage and a self-teaching U-Net beside Micro-Manager.

Importing this loads none of the heavy libraries: it happens in the
microscope's process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfocus_live.microscope import Attachment, attach
    from deepfocus_live.volume import Run, open_run

__version__ = "0.1.0"

# ONNX Runtime reports to its maker and leaves an identifier in the user's home, unless told not to
# before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Attachment", "Run", "__version__", "attach", "open_run"]

_ROOMS = {
    "Attachment": "deepfocus_live.microscope",
    "attach": "deepfocus_live.microscope",
    "Run": "deepfocus_live.volume",
    "open_run": "deepfocus_live.volume",
}


def __getattr__(name: str) -> Any:
    """Load a room when one of its names is first asked for."""
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
