"""OpenVINO's own runtime on the CPU.

Design Notes
------------
*Half precision.* Where the processor computes in bf16 or f16, the U-Net does. What comes before it
must not: sums and differences of 16-bit counts need 20 bits. So the graph is cut before the U-Net's
first convolution and compiled as two; the maps between them are shared, not copied. After the last
convolution OpenVINO computes in float32 anyway. Whether all this gives the mask that float32 gives
is tried on a made slice whenever a model is opened; if it does not, float32 it is.

*Silence.* Importing OpenVINO reports to its maker, and leaves an identifier in the user's home,
unless the package that does so is missing. It is hidden for as long as the import takes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._by_shape import ByShape
from deepfocus_live.inference._engine import Answer, EngineError
from deepfocus_live.inference._failures import said_by, told_as_engine_errors
from deepfocus_live.inference._onnxruntime import read_metadata
from deepfocus_live.inference._sample import MOST_DIFFERING, SAMPLE_PX, differing, made_slice
from deepfocus_live.model import OUTPUTS

__all__ = ["OpenVinoEngine", "why_no_openvino"]

_NAME = "OpenVINO"
_DEVICE = "CPU"


@functools.cache
def why_no_openvino() -> str | None:
    """Return why OpenVINO cannot run here, or None where it can. Imports it."""
    try:
        runtime = _openvino()
    except ModuleNotFoundError:
        return "it is not installed (install deepfocus-live[openvino])"
    except (ImportError, OSError) as error:
        return f"it cannot be loaded ({said_by(error)})"
    if _DEVICE not in runtime.Core().available_devices:
        return "it does not support this processor"
    return None


class OpenVinoEngine:
    """A model in OpenVINO. For one caller at a time.

    Parameters
    ----------
    path : path
        An ONNX file of ours. Read once: it may change or vanish afterwards.
    threads : int, optional
        CPU threads of one inference; by default OpenVINO's choice, one per physical core.

    Attributes
    ----------
    provider : str
        What really runs: the device and the precision of the U-Net, "OpenVINO CPU, f32".
    metadata : dict
        What the file says of itself: name, architecture, reduction, threshold.

    Raises
    ------
    InputError
        If the file is missing, damaged or no model of ours, or if OpenVINO cannot be had or
        cannot run it.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if (reason := why_no_openvino()) is not None:
            raise InputError(f"provider 'openvino' cannot be had: {reason}")
        self.metadata = read_metadata(path)
        self._reduction = int(self.metadata.get("reduction", 4))
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads wait for their core even while another one is idle.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._compiled: ByShape[_Compiled] = ByShape()
        self._low_precision: str | None = None
        try:
            with told_as_engine_errors(_NAME):
                self._core = _openvino().Core()
                self._model = self._core.read_model(Path(path).read_bytes())
                self.provider = self._try_precisions()
        except EngineError as error:
            raise InputError(f"{path}: cannot be run by OpenVINO ({error})") from error

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        """Return mask and probability of one (Y, X) slice; see `Engine.run`."""
        try:
            with told_as_engine_errors(_NAME):
                return self._compiled.at(counts.shape, self._compile).run(counts)
        except EngineError:
            self._compiled.clear()
            raise

    def _try_precisions(self) -> str:
        """Settle the U-Net's precision; return what the provider is called."""
        sample = made_slice(SAMPLE_PX)
        chosen = plain = self._compile(sample.shape)
        for precision in self._low_precisions():
            self._low_precision = precision
            lower = self._compile(sample.shape)
            if differing(lower.run(sample)[0], plain.run(sample)[0]) <= MOST_DIFFERING:
                chosen = lower
                break
            self._low_precision = None
        self._compiled.at(sample.shape, lambda _: chosen)
        return chosen.name

    def _low_precisions(self) -> list[str]:
        """Return the half precisions that the processor computes in, the safer one first."""
        can = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        return [name for word, name in (("BF16", "bf16"), ("FP16", "f16")) if word in can]

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        model = self._model.clone()
        model.reshape([1, *shape])
        parts = [model] if self._low_precision is None else split_before_unet(model)
        # A graph that could not be cut stays in float32 as a whole.
        precisions = ["f32", self._low_precision][: len(parts)]
        compiled = [
            self._core.compile_model(
                part, _DEVICE, {**self._settings, "INFERENCE_PRECISION_HINT": precision}
            )
            for part, precision in zip(parts, precisions, strict=True)
        ]
        return _Compiled(compiled, tuple(-(-side // self._reduction) for side in shape))


class _Compiled:
    """The graph of one shape, in one part or two."""

    def __init__(self, parts: list[Any], low: tuple[int, ...]) -> None:
        self._requests = [part.create_infer_request() for part in parts]
        for before, after in itertools.pairwise(self._requests):
            after.set_input_tensor(before.get_output_tensor())
        self._low = low
        devices = " and ".join(parts[-1].get_property("EXECUTION_DEVICES"))
        precision = parts[-1].get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.name = f"{_NAME} {devices}, {precision}"

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        answer = np.empty(counts.shape, np.uint8), np.empty(self._low, np.uint8)
        # Memory that cannot be written is not taken, though nothing writes to it.
        batch = (counts if counts.flags.writeable else counts.copy())[np.newaxis]
        self._requests[0].set_input_tensor(_shared(batch))
        for spec, array in zip(OUTPUTS, answer, strict=True):
            self._requests[-1].set_tensor(spec.name, _shared(array[np.newaxis]))
        for request in self._requests:
            request.infer(share_outputs=True)
        return answer


def split_before_unet(model: Any) -> list[Any]:
    """Cut a graph of fixed shape into what the U-Net sees and the U-Net with what follows it.

    Parameters
    ----------
    model : openvino.Model
        Taken apart: not to be used any more.

    Returns
    -------
    list of openvino.Model
        Two, or the model itself where no convolution of a U-Net is found.
    """
    runtime = _openvino()
    from openvino import opset13
    from openvino.passes import ConstantFolding, Manager

    # Else the second part would ask the first one's input for its shape.
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    first = next((node for node in model.get_ordered_ops() if _begins_unet(node)), None)
    if first is None:
        return [model]
    maps = first.input_value(0)
    entry = opset13.parameter(list(maps.get_shape()), maps.get_element_type())
    for target in maps.get_target_inputs():
        target.replace_source_output(entry.output(0))
    before = runtime.Model([opset13.result(maps)], model.get_parameters(), "before the U-Net")
    return [before, runtime.Model(model.get_results(), [entry], "U-Net")]


def _begins_unet(node: Any) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    return str(node.input_value(1).get_node().get_friendly_name()).startswith("unet.")


def _shared(array: NDArray[Any]) -> Any:
    return _openvino().Tensor(array, shared_memory=True)


@functools.cache
def _openvino() -> Any:
    with _hidden("openvino_telemetry"):
        import openvino
    return openvino


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let imports of a package fail, as if it were not installed."""
    before = sys.modules.get(name)
    sys.modules[name] = cast("ModuleType", None)
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
