"""From a trained network to an ONNX file, checked against torch.

Design Notes
------------
Tracing a network takes torch seconds, and gives the same graph every time: only weights differ.
So the graph is made once per architecture, with batch normalisation folded into the convolutions,
and later exports put new weights into its initialisers by name. The parent of a retrained model is
such a graph already, so retraining never traces. Every export is run in ONNX Runtime and compared
with torch before it is called done.

*The slice's statistics have names.* All that hangs on the whole slice goes through two values of
the graph, `level` and `noise_variance`. They are no outputs, but a graph can be cut there and be
given them: then it answers for a part of a slice what it answers for the whole.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfocus_live.model._contract import (
    FORMAT_VERSION,
    FREE_DIMENSIONS,
    INPUT,
    MIN_SIDE,
    OUTPUTS,
    open_session,
)
from deepfocus_live.model._statistics import STATISTICS
from deepfocus_live.model.network import Architecture, FocusNetwork

__all__ = ["ExportMismatchError", "export_onnx", "fold", "trace"]

_GRAPH_VERSION = "3"
"""Raised when `FocusNetwork.forward` comes to trace another graph: older templates are not used."""


class ExportMismatchError(RuntimeError):
    """The exported graph does not compute what the network computes."""


def export_onnx(
    network: FocusNetwork,
    path: Path,
    *,
    name: str,
    template: Path | None = None,
    slices: NDArray[np.uint16] | None = None,
) -> None:
    """Write `network` as an ONNX file that takes raw slices, and check it against torch.

    Parameters
    ----------
    network : FocusNetwork
        Not changed.
    path : path
        The file to write.
    name : str
        The version's name, written into the file.
    template : path, optional
        An ONNX file of ours. Where its architecture is the same the graph is taken from it, in
        milliseconds instead of seconds.
    slices : (N, Y, X) uint16, optional
        Real slices to compare on, beside made ones.

    Raises
    ------
    ExportMismatchError
        If ONNX Runtime and torch disagree; the file is removed.
    """
    import onnx

    folded = fold(network)
    model = _matching_template(template, network.architecture)
    if model is None:
        model = trace(network.architecture)
    _graft(model, folded)
    _describe(model, network, name)
    onnx.save(model, str(path))
    try:
        _compare(folded, path, slices)
    except ExportMismatchError:
        path.unlink(missing_ok=True)
        raise


def fold(network: FocusNetwork) -> FocusNetwork:
    """Return a copy for inference, batch normalisation folded into the convolutions."""
    folded = copy.deepcopy(network).to("cpu", torch.float32).eval()
    for sequence in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            convolution, norm = sequence[index], sequence[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[index] = nn.utils.fuse_conv_bn_eval(convolution, norm)
                sequence[index + 1] = nn.Identity()
    return folded.requires_grad_(False)


def trace(architecture: Architecture) -> Any:
    """Return the graph of an architecture, its weights random, as an onnx.ModelProto.

    Takes some seconds. No path of this machine stays in it. The slice's level and noise variance
    are values of it by the names `STATISTICS`.
    """
    import onnx

    network = fold(_TelltaleNetwork(architecture))
    # A bias of zeros would be optimised away, and its place for real values with it.
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.01, 0.02)
    example = torch.zeros(2, 200, 301, dtype=torch.uint16)
    slices, rows, columns = FREE_DIMENSIONS
    dimensions = {
        0: torch.export.Dim(slices),
        1: torch.export.Dim(rows, min=MIN_SIDE),
        2: torch.export.Dim(columns, min=MIN_SIDE),
    }
    with _quiet_exporter(), tempfile.TemporaryDirectory() as folder:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=18,
            input_names=[INPUT.name],
            output_names=[*(output.name for output in OUTPUTS), *STATISTICS],
            dynamic_shapes={INPUT.name: dimensions},
            verbose=False,
        )
        if program is None:
            raise ExportMismatchError("torch.onnx.export returned no program")
        file = Path(folder) / "traced.onnx"
        program.save(str(file), external_data=False)
        model = onnx.load(str(file))
    _forget_where_it_was_made(model)
    _keep_inside(model)
    return model


class _TelltaleNetwork(FocusNetwork):
    """Gives the slice's level and noise variance beside the answer, so that they get names."""

    def forward(self, z_slice: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        counts = z_slice.to(torch.float32)
        # Computed twice here, once in the graph: the exporter joins what is equal.
        statistics = self.stem.noise(counts, self.stem(counts))
        return *super().forward(z_slice), *statistics


def _keep_inside(model: Any) -> None:
    """Make the graph's statistics values like others, no longer outputs."""
    graph = model.graph
    graph.value_info.extend(value for value in graph.output if value.name in STATISTICS)
    del graph.output[len(OUTPUTS) :]


def _graft(model: Any, folded: FocusNetwork) -> None:
    """Put the weights of `folded` into the initialisers of the same names."""
    from onnx import numpy_helper

    places = {tensor.name: tensor for tensor in model.graph.initializer}
    for key, value in _grafted(folded).items():
        tensor = places.get(key)
        if tensor is None or list(tensor.dims) != list(value.shape):
            raise ExportMismatchError(f"the traced graph has no place for {key} {value.shape}")
        tensor.CopyFrom(numpy_helper.from_array(value, key))


def _grafted(folded: FocusNetwork) -> dict[str, NDArray[np.float32]]:
    state = {k: v for k, v in folded.state_dict().items() if not k.startswith("stem.")}
    return {k: np.array(v.numpy(), dtype=np.float32) for k, v in state.items()}


def _matching_template(template: Path | None, architecture: Architecture) -> Any:
    """Return the graph in `template`, or None where it is of another architecture or format."""
    import onnx

    if template is None or not template.is_file():
        return None
    model = onnx.load(str(template))
    described = {entry.key: entry.value for entry in model.metadata_props}
    wanted = _fingerprint(architecture)
    return model if all(described.get(key) == wanted[key] for key in wanted) else None


def _fingerprint(architecture: Architecture) -> dict[str, str]:
    """Return what two files must share for one to lend the other its graph."""
    return {
        "format_version": str(FORMAT_VERSION),
        "graph_version": _GRAPH_VERSION,
        "architecture": json.dumps(architecture.as_dict()),
    }


def _describe(model: Any, network: FocusNetwork, name: str) -> None:
    del model.metadata_props[:]
    described = {
        "name": name,
        **_fingerprint(network.architecture),
        "reduction": str(network.architecture.reduction),
        "threshold": f"{float(network.threshold) / 255.0:.4f}",
    }
    for key, value in described.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def _forget_where_it_was_made(model: Any) -> None:
    """Drop stack traces and source paths, which name this machine's folders."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    things = [*model.graph.node, *model.graph.input, *model.graph.output]
    for thing in [*things, *model.graph.value_info, *model.graph.initializer]:
        thing.doc_string = ""
        del thing.metadata_props[:]
    del model.graph.value_info[:]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep torch's exporter from warning about torchvision and about itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(before)


def _compare(folded: FocusNetwork, path: Path, slices: NDArray[np.uint16] | None) -> None:
    """Raise `ExportMismatchError` unless ONNX Runtime gives what torch gives."""
    session = open_session(path)
    samples = [_made_slices(shape) for shape in ((2, 64, 64), (1, 129, 203))]
    if slices is not None:
        samples.append(np.ascontiguousarray(slices))
    for sample in samples:
        mask, probability = session.run(None, {INPUT.name: sample})
        with torch.inference_mode():
            want_mask, want_probability = (t.numpy() for t in folded(torch.from_numpy(sample)))
        off = np.abs(probability.astype(np.int16) - want_probability.astype(np.int16)).max()
        differing = float(np.mean(mask != want_mask))
        # Sums in another order may round a probability the other way, never by more.
        if off > 1 or differing > 1e-3:
            raise ExportMismatchError(
                f"{path.name}: on slices of {sample.shape} ONNX Runtime differs from torch by up "
                f"to {off} of 255 in probability and in {differing:.2%} of the mask"
            )


def _made_slices(shape: tuple[int, int, int]) -> NDArray[np.uint16]:
    """Return noise with a sharp checkered patch in it: both answers occur."""
    random = np.random.default_rng(0)
    counts = random.normal(1000.0, 20.0, shape)
    counts[:, 16:48, 16:48] += 400.0 * (np.indices((32, 32)).sum(0) // 2 % 2)
    return cast("NDArray[np.uint16]", counts.astype(np.uint16))
