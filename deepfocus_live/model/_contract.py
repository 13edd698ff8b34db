"""What an ONNX file must take and give to be a model of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deepfocus_live.errors import InputError

__all__ = [
    "FORMAT_VERSION",
    "FREE_DIMENSIONS",
    "INPUT",
    "MIN_SIDE",
    "OUTPUTS",
    "TensorSpec",
    "check_signature",
    "open_session",
]

FORMAT_VERSION = 1
"""Raised when a model of before can no longer be read; stands in every file."""

MIN_SIDE = 64
"""Pixels; smaller slices than this in either direction are refused."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, ONNX element type and number of axes of one input or output."""

    name: str
    kind: str
    axes: int

    def __str__(self) -> str:
        return f"{self.name} {self.kind}, {self.axes} axes"


INPUT = TensorSpec("z_slice", "tensor(uint16)", 3)
"""What a graph takes: slices of raw counts, (N, Y, X)."""

FREE_DIMENSIONS = ("N", "H", "W")
"""What the graph calls the sizes of its input that are not fixed: slices, rows, columns."""

OUTPUTS = (TensorSpec("mask", "tensor(uint8)", 3), TensorSpec("probability", "tensor(uint8)", 3))
"""What it gives: masks (N, Y, X), 0 or 1, and probabilities 0..255 at the network's resolution."""


class _Node(Protocol):
    name: str
    type: str
    shape: Sequence[Any]


def check_signature(inputs: Sequence[_Node], outputs: Sequence[_Node], path: Path | str) -> None:
    """Refuse a model that does not take and give what ours do.

    Parameters
    ----------
    inputs, outputs : sequences of onnxruntime.NodeArg
    path : path
        Named in the message.

    Raises
    ------
    InputError
        Naming what was found and what is expected.
    """
    found_in, found_out = _specs(inputs), _specs(outputs)
    if found_in == [INPUT] and found_out == list(OUTPUTS):
        return
    raise InputError(
        f"{path}: takes ({_listed(found_in)}) and gives ({_listed(found_out)}); expected a model "
        f"that takes ({INPUT}) and gives ({_listed(OUTPUTS)}). Give one made by `retrain`."
    )


def open_session(path: Path | str, options: Any = None, providers: Sequence[Any] = ()) -> Any:
    """Return an ONNX Runtime session of a model of ours, its signature checked.

    Parameters
    ----------
    path : path
        An ONNX file.
    options : onnxruntime.SessionOptions, optional
    providers : sequence, optional
        By default the CPU's.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    InputError
        If there is no such file, if it cannot be read as ONNX, or if it is not a model of ours.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such model file")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=list(providers) or ["CPUExecutionProvider"]
        )
    except Exception as error:
        # ONNX Runtime's exception classes share no base of their own.
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be opened as an ONNX model ({first_line})") from error
    check_signature(session.get_inputs(), session.get_outputs(), path)
    return session


def _specs(nodes: Sequence[_Node]) -> list[TensorSpec]:
    return [TensorSpec(node.name, node.type, len(node.shape)) for node in nodes]


def _listed(specs: Sequence[TensorSpec]) -> str:
    return "; ".join(str(spec) for spec in specs)
