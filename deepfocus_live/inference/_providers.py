"""Which ONNX Runtime provider can be had here, and why not.

ONNX Runtime lists CUDA as available wherever its CUDA build is installed, and complains on stderr
when a session asks for it in vain. So the driver is asked first.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Literal

from deepfocus_live.errors import InputError

__all__ = ["CPU", "CUDA", "Provider", "choose_providers", "why_no_cuda"]

Provider = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


def choose_providers(asked: str) -> list[str]:
    """Return ONNX Runtime's provider list for what was asked.

    Parameters
    ----------
    asked : {"auto", "cpu", "cuda"}

    Raises
    ------
    InputError
        If `asked` is unknown, or CUDA was asked for and cannot be had, with the reason.
    """
    if asked == "cpu":
        return [CPU]
    if asked not in ("auto", "cuda"):
        raise InputError(f"provider {asked!r} is unknown; use 'auto', 'cpu' or 'cuda'")
    reason = why_no_cuda()
    if reason is None:
        return [CUDA, CPU]
    if asked == "cuda":
        raise InputError(f"provider 'cuda' cannot be had: {reason}")
    return [CPU]


@functools.cache
def why_no_cuda() -> str | None:
    """Return why no session can run on CUDA here, or None where nothing speaks against it.

    Only the session itself can tell for sure: its libraries are looked for when it is made.
    """
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA (install onnxruntime-gpu)"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is installed ({library} not found)"
    if (code := driver.cuInit(0)) != 0:
        return f"the NVIDIA driver does not start (cuInit returned {code})"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return None
