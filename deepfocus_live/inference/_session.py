"""ONNX Runtime's settings, the same for every session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CPU", "session_options"]

CPU = "CPUExecutionProvider"

_SILENT = 4  # severity "fatal": refusals are told by us, once, in words


def session_options(threads: int | None, dimensions: Mapping[str, int] | None = None) -> Any:
    """Return the options of a session that shares the machine with others.

    Parameters
    ----------
    threads : int, optional
        By default ONNX Runtime's choice, one per physical core.
    dimensions : mapping, optional
        Free dimensions of the graph, by name, that are always of one size in this session: all
        arithmetic on shapes is then done once.

    Returns
    -------
    onnxruntime.SessionOptions
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Spinning threads eat the cores that the writer and the trainer need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = _SILENT
    for name, size in (dimensions or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return options
