"""What speaks against CUDA here.

ONNX Runtime lists CUDA as available wherever its CUDA build is installed, and complains on stderr
when a session asks for it in vain. So the driver is asked first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io

from deepfocus_live import _platform

__all__ = ["CUDA", "CUDA_OPTIONS", "load_libraries", "why_no_cuda"]

CUDA = "CUDAExecutionProvider"

CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # trying all takes seconds for each new shape
    "prefer_nhwc": "1",
    "use_tf32": "0",  # its ten bits do not hold sums of counts
    "arena_extend_strategy": "kSameAsRequested",  # by default it takes twice as much each time
}
"""Of every session on CUDA."""


@functools.cache
def why_no_cuda() -> str | None:
    """Return why no session can run on CUDA here, or None where nothing speaks against it.

    Only the session itself can tell for sure: its libraries are looked for when it is made.
    """
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA (install onnxruntime-gpu)"
    try:
        driver = ctypes.CDLL(_platform.CUDA_DRIVER)
    except OSError:
        return f"no NVIDIA driver is installed ({_platform.CUDA_DRIVER} not found)"
    if (code := driver.cuInit(0)) != 0:
        return f"the NVIDIA driver does not start (cuInit returned {code})"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return None


@functools.cache
def load_libraries() -> str | None:
    """Load the CUDA and cuDNN libraries that pip installed; return what was missed first, or None.

    What is missed here may still be found by the session, by the system's own rules.
    """
    import onnxruntime

    said = io.StringIO()
    # It reports by printing, also what can be done without.
    with contextlib.redirect_stdout(said):
        try:
            onnxruntime.preload_dlls()
        except Exception as error:
            return str(error)
    missed = (line for line in said.getvalue().splitlines() if line.startswith("Failed"))
    return next(missed, None)
