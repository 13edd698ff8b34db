"""ONNX Runtime, on the CPU or on an NVIDIA GPU.

Design Notes
------------
*One session per shape.* With N, H and W fixed, ONNX Runtime computes all arithmetic on shapes when
the session is made, and a CUDA graph can be captured. The sessions of the last few shapes are kept.

*What is copied.* On the CPU nothing: input and outputs are bound to the caller's memory. On CUDA
the buffers on the device are made once per shape, as a captured graph reads and writes the same
addresses for ever; a slice is copied there, mask and probability back.

*Precision on CUDA.* TF32 is off. It keeps ten bits of a number, and the network begins with sums
and differences of 16-bit counts, which must be exact.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._by_shape import ByShape
from deepfocus_live.inference._cuda import CUDA, CUDA_OPTIONS, load_libraries, why_no_cuda
from deepfocus_live.inference._engine import Answer, EngineError, OutOfMemoryError
from deepfocus_live.inference._failures import said_by, told_as_engine_errors
from deepfocus_live.inference._session import CPU, session_options
from deepfocus_live.model import FREE_DIMENSIONS, INPUT, OUTPUTS, open_session

__all__ = ["OnnxRuntimeEngine", "read_metadata"]

_NAME = "ONNX Runtime"


class _Bound(Protocol):
    """A session with its memory, for one shape."""

    def run(self, counts: NDArray[np.uint16]) -> Answer: ...


class OnnxRuntimeEngine:
    """A model in ONNX Runtime. For one caller at a time.

    Parameters
    ----------
    path : path
        An ONNX file of ours. Read once: it may change or vanish afterwards.
    device : {"cpu", "cuda"}
    threads : int, optional
        CPU threads of one inference; by default one per physical core.
    shape : (Y, X), optional
        Of the slices to come. On the CPU a single session is made then, where otherwise a first
        one, of any shape, only reads the file.

    Attributes
    ----------
    provider : str
        What really runs, as ONNX Runtime names it after the session was made.
    metadata : dict
        What the file says of itself: name, architecture, reduction, threshold.

    Raises
    ------
    InputError
        If the file is missing, damaged or no model of ours, or if CUDA cannot be had.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: Literal["cpu", "cuda"],
        threads: int | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        self._threads = threads
        if device == "cuda":
            session = self._first_on_cuda(path)
        else:
            session = open_session(path, session_options(threads, _fixed(shape)), [CPU])
        self.provider = str(session.get_providers()[0])
        self.metadata = _metadata(session)
        self._reduction = int(self.metadata.get("reduction", 4))
        self._model = Path(path).read_bytes()
        self._bound: ByShape[_Bound] = ByShape()
        if shape is not None and device == "cpu":
            self._bound.at(tuple(shape), lambda known: _OnCpu(session, self._low(known)))

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        """Return mask and probability of one (Y, X) slice; see `Engine.run`."""
        try:
            with told_as_engine_errors(_NAME):
                return self._bound.at(counts.shape, self._bind).run(counts)
        except EngineError:
            # The memory of all shapes may be what is short, and sessions may be broken.
            self._bound.clear()
            raise

    def _first_on_cuda(self, path: Path) -> Any:
        reason = why_no_cuda()
        if reason is None:
            missed = load_libraries()
            try:
                with _quiet():
                    session = open_session(path, session_options(self._threads), [CUDA, CPU])
            except InputError as error:
                read_metadata(path)  # where the file is at fault, this says so
                why = said_by(error.__cause__ or error)
                raise InputError(f"provider 'cuda' cannot be had: {why}") from error
            if session.get_providers()[0] == CUDA:
                return session
            reason = "ONNX Runtime finds the GPU but cannot load the libraries it was built with"
            reason += f" ({missed})" if missed else ""
            reason += "; install deepfocus-live[cuda]"
        raise InputError(f"provider 'cuda' cannot be had: {reason}")

    def _bind(self, shape: tuple[int, ...]) -> _Bound:
        low = self._low(shape)
        if self.provider != CUDA:
            return _OnCpu(self._session(shape, [CPU]), low)
        try:
            return self._bind_on_cuda(shape, low, captured=True)
        except OutOfMemoryError:
            raise
        except EngineError:
            # Not every graph, driver and GPU can be captured; all can run.
            return self._bind_on_cuda(shape, low, captured=False)

    def _low(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the probability's shape."""
        return tuple(-(-side // self._reduction) for side in shape)

    def _bind_on_cuda(
        self, shape: tuple[int, ...], low: tuple[int, ...], *, captured: bool
    ) -> _Bound:
        options = {**CUDA_OPTIONS, "enable_cuda_graph": "1" if captured else "0"}
        with told_as_engine_errors(_NAME):
            with _quiet():
                session = self._session(shape, [(CUDA, options), CPU])
            if session.get_providers()[0] != CUDA:
                raise EngineError("the session fell back to the CPU")
            bound = _OnDevice(session, "cuda", shape, low)
            # The first run captures; what it refuses is known now.
            bound.run(np.zeros(shape, np.uint16))
        return bound

    def _session(self, shape: tuple[int, ...], providers: list[Any]) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(
            self._model,
            session_options(self._threads, _fixed(shape)),
            providers=providers,
            enable_fallback=0,  # it would run elsewhere than it says, and print
        )


class _OnCpu:
    """A session of one shape on the CPU, bound to the caller's memory at every run."""

    def __init__(self, session: Any, low: tuple[int, ...]) -> None:
        self._session = session
        self._low = low

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        answer = np.empty(counts.shape, np.uint8), np.empty(self._low, np.uint8)
        binding = self._session.io_binding()
        batch = (1, *counts.shape)
        binding.bind_input(INPUT.name, "cpu", 0, np.uint16, batch, counts.ctypes.data)
        for spec, array in zip(OUTPUTS, answer, strict=True):
            shape = (1, *array.shape)
            binding.bind_output(spec.name, "cpu", 0, np.uint8, shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        return answer


class _OnDevice:
    """A session of one shape, with buffers of its own on its device."""

    def __init__(
        self, session: Any, device: str, shape: tuple[int, ...], low: tuple[int, ...]
    ) -> None:
        from onnxruntime import OrtValue

        self._session = session
        empty = OrtValue.ortvalue_from_shape_and_type
        self._input = empty((1, *shape), np.uint16, device, 0)
        self._outputs = [empty((1, *sides), np.uint8, device, 0) for sides in (shape, low)]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT.name, self._input)
        for spec, value in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(spec.name, value)

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        self._input.update_inplace(counts[np.newaxis])
        self._session.run_with_iobinding(self._binding)  # returns when the device is done
        mask, probability = (value.numpy()[0] for value in self._outputs)
        return mask, probability


def _fixed(shape: Sequence[int] | None) -> dict[str, int]:
    return {} if shape is None else dict(zip(FREE_DIMENSIONS, (1, *shape), strict=True))


def read_metadata(path: Path) -> dict[str, str]:
    """Return what an ONNX file of ours says of itself; by the way, its signature is checked.

    Raises
    ------
    InputError
        If the file is missing, damaged or no model of ours.
    """
    import onnxruntime

    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _metadata(open_session(path, options))


def _metadata(session: Any) -> dict[str, str]:
    return dict(session.get_modelmeta().custom_metadata_map)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime from saying on the terminal what we say ourselves."""
    import onnxruntime

    fatal, usual = 4, 2  # the usual severity can be set, not asked for
    onnxruntime.set_default_logger_severity(fatal)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(usual)
