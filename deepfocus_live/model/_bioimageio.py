"""A model as a BioImage.IO package, for the programs that read those.

Design Notes
------------
Our graph takes uint16 (N, Y, X) and gives a mask and a smaller probability. The Java programs feed
ONNX files float32 (and int8, int32, float64), never uint16; ilastik takes one output. So the
package's graph is ours with a few nodes around it: one float32 input and one float32 output, axes
batch, channel, y, x. It is stamped with the oldest operator set that holds all it uses, since those
programs carry old runtimes. The model itself, its card and its weights lie beside it as
attachments: that is what `import_model` takes back.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.model._archive import new_file, write_zip
from deepfocus_live.model._contract import INPUT, MIN_SIDE, OUTPUTS
from deepfocus_live.model._handover import version_files
from deepfocus_live.model._version import ModelVersion, verify

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["export_bioimageio"]

_GRAPH = "in_focus.onnx"
_RAW, _IN_FOCUS = "raw", "in_focus"
_CHANNELS = ["mask", "probability"]
_OLDER_OPSET, _OLDER_IR = 17, 8
_PAPER = {
    "text": "Li R, Kudryashev M, Yakimovich A. A weak-labelling and deep learning approach for "
    "in-focus object segmentation in 3D widefield microscopy. Scientific Reports 13, 2023.",
    "doi": "10.1038/s41598-023-38490-2",
}


def export_bioimageio(
    version: ModelVersion,
    path: Path,
    z_slice: NDArray[np.uint16],
    *,
    authors: Sequence[str] = (),
    spdx_license: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a version as a BioImage.IO package, format 0.5 [BioImageIO]_.

    Parameters
    ----------
    version : ModelVersion
    path : path
        The zip to write, in a folder that exists.
    z_slice : (Y, X) uint16
        The package's test image, raw counts; best one that is in focus in parts.
    authors : sequence of str
        Names; by default the developers of this program.
    spdx_license : str, optional
        By default the card's, or BSD-3-Clause.
    overwrite : bool
        Whether a file that is there is replaced.

    Raises
    ------
    InputError
        If the version is damaged, or if `path` exists or cannot be written.

    References
    ----------
    .. [BioImageIO] https://bioimage-io.github.io/spec-bioimage-io, model description 0.5.
    """
    verify(version)
    with new_file(path, overwrite=overwrite) as temporary:
        graph = wrapped(version)
        raw = z_slice[None, None].astype(np.float32)
        answer = _run(graph, raw)
        files: dict[str, Path | bytes] = {
            _GRAPH: graph.SerializeToString(deterministic=True),
            "test_input.npy": _as_npy(raw),
            "test_output.npy": _as_npy(answer),
            "cover.png": _cover(z_slice, answer[0, 0] > 0.5),
            "README.md": _readme(version).encode(),
            **version_files(version),
        }
        about = _description(version, files, graph.opset_import[0].version)
        about["authors"] = [{"name": name} for name in authors or ["the deepfocus-live developers"]]
        about["license"] = spdx_license or version.card.get("license", "BSD-3-Clause")
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        write_zip(temporary, {"rdf.yaml": text.encode(), **files})


def wrapped(version: ModelVersion) -> ModelProto:
    """Return the graph for other programs.

    It takes `raw`, (b, 1, y, x) float32 raw counts, and gives `in_focus`, (b, 2, y, x) float32:
    the mask, 0 or 1, and the probability, 0..1, each block's repeated over its pixels.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(version.onnx))
    graph = model.graph
    reduction = _reduction(model, version)
    numbers = {
        "lowest": np.float32(0),
        "highest": np.float32(65535),
        "scale": np.float32(1 / 255),
        "axis": np.array([1], np.int64),
        "first": np.array([0, 0], np.int64),
        "sides": np.array([2, 3], np.int64),
        "blocks": np.array([1, 1, reduction, reduction], np.float32),
    }
    for key, value in numbers.items():
        array = np.asarray(value)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"package.{key}"))
    before = [
        # To the nearest count, inside what a camera gives: whoever feeds floats may have scaled.
        _node("Round", _RAW, "rounded"),
        _node("Clip", "rounded package.lowest package.highest", "clipped"),
        _node("Cast", "clipped", "counts", to=TensorProto.UINT16),
        _node("Squeeze", "counts package.axis", INPUT.name),
    ]
    after = [
        _node("Cast", "mask", "mask_float", to=TensorProto.FLOAT),
        _node("Unsqueeze", "mask_float package.axis", "mask_channel"),
        _node("Cast", "probability", "probability_float", to=TensorProto.FLOAT),
        _node("Mul", "probability_float package.scale", "probability_low"),
        _node("Unsqueeze", "probability_low package.axis", "probability_channel"),
        _node(
            "Resize",
            "probability_channel  package.blocks",
            "probability_padded",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        _node("Shape", _RAW, "shape"),
        _node("Gather", "shape package.sides", "size"),
        _node("Slice", "probability_padded package.first size package.sides", "probability_full"),
        _node("Concat", "mask_channel probability_full", _IN_FOCUS, axis=1),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    for ends, name, channels in ((graph.input, _RAW, 1), (graph.output, _IN_FOCUS, len(_CHANNELS))):
        shape: list[str | int | None] = ["b", channels, "y", "x"]
        ends.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    _stamp_older(model)
    onnx.checker.check_model(model)
    return model


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    from onnx import helper

    ours = {"", _RAW, INPUT.name, *(output.name for output in OUTPUTS), _IN_FOCUS}

    def named(name: str) -> str:
        return name if name in ours or name.startswith("package.") else f"package.{name}"

    ends = [named(name) for name in inputs.split(" ")]
    return helper.make_node(kind, ends, [named(output)], **attributes)


def _reduction(model: ModelProto, version: ModelVersion) -> int:
    written = {entry.key: entry.value for entry in model.metadata_props}.get("reduction")
    return int(written or version.card["architecture"]["reduction"])


def _stamp_older(model: ModelProto) -> None:
    """Say the graph in an older operator set's words, if all it uses has some there."""
    from onnx import defs, numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    opset = model.opset_import[0]
    older = {}
    for place, node in enumerate(model.graph.node):
        if defs.get_schema(node.op_type, opset.version).since_version > _OLDER_OPSET:
            said = _older_words(node, constants)
            if said is None:
                return
            older[place] = said
    for place, node in older.items():
        model.graph.node[place].CopyFrom(node)
    opset.version = min(_OLDER_OPSET, opset.version)
    model.ir_version = _OLDER_IR


def _older_words(node: NodeProto, constants: dict[str, NDArray[Any]]) -> NodeProto | None:
    """Return a node of operator set 18 as 17 has it; None where it has no such words."""
    from onnx import NodeProto, helper

    has = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = list(node.input)
    if node.op_type == "Resize" and "axes" not in has and not has.get("antialias"):
        has.pop("antialias", None)
        has.pop("keep_aspect_ratio_policy", None)
    elif node.op_type.startswith("Reduce") and len(inputs) == 2 and inputs[1] in constants:
        has["axes"] = constants[inputs.pop()].tolist()
        has.pop("noop_with_empty_axes", None)
    elif node.op_type != "Pad" or len(inputs) > 3 or has.get("mode") == b"wrap":
        return None
    said = NodeProto()
    said.CopyFrom(node)
    del said.input[:], said.attribute[:]
    said.input.extend(inputs)
    said.attribute.extend(helper.make_attribute(name, value) for name, value in has.items())
    return said


def _run(graph: ModelProto, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    answer: NDArray[np.float32] = session.run(None, {_RAW: raw})[0]
    if answer.shape != (1, len(_CHANNELS), *raw.shape[2:]):
        raise InputError(f"the wrapped model gave {answer.shape} for an image of {raw.shape}")
    return answer


def _description(
    version: ModelVersion, files: dict[str, Path | bytes], opset: int
) -> dict[str, Any]:
    """Return what `rdf.yaml` says, authors and licence left out."""
    card = version.card
    attached = list(version_files(version))
    return {
        "format_version": "0.5.3",
        "type": "model",
        "name": _spec_name(version.name),
        "description": card.get("description") or "In-focus mask of one raw widefield slice.",
        "timestamp": card.get("created"),
        "cite": [_PAPER],
        "tags": ["in-focus", "widefield", "focus", "segmentation", "2d", "unet", "microscopy"],
        "covers": ["cover.png"],
        "documentation": "README.md",
        "attachments": [_file(name, files) for name in attached],
        "inputs": [_input(files)],
        "outputs": [_output(files)],
        "weights": {"onnx": {**_file(_GRAPH, files), "opset_version": opset}},
        "config": {
            "bioimageio": {
                "architecture_type": "2D U-Net",
                "modality": "widefield microscopy, transmitted light or fluorescence",
                "task": "segmentation of what is in focus",
                # A probability may round the other way by 1/255, and a block at the threshold flip.
                "reproducibility_tolerance": [
                    {
                        "relative_tolerance": 0.001,
                        "absolute_tolerance": 0.005,
                        "mismatched_elements_per_million": 1000,
                    }
                ],
            },
            "deepfocus_live": {
                "name": version.name,
                "parent": version.parent,
                "threshold": version.threshold,
                "software": card.get("software", {}),
            },
        },
    }


def _input(files: dict[str, Path | bytes]) -> dict[str, Any]:
    size = {"min": MIN_SIDE, "step": 1}
    return {
        "id": _RAW,
        "description": "One raw slice in camera counts (8 to 16 bit), not scaled or normalised.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["raw"]},
            {"type": "space", "id": "y", "size": size},
            {"type": "space", "id": "x", "size": dict(size)},
        ],
        "data": {"type": "float32", "range": [0.0, 65535.0], "unit": "arbitrary unit"},
        "test_tensor": _file("test_input.npy", files),
    }


def _output(files: dict[str, Path | bytes]) -> dict[str, Any]:
    return {
        "id": _IN_FOCUS,
        "description": "Mask: 1 in focus, 0 not; and the probability it was cut from, 0 to 1.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(_CHANNELS)},
            *(
                {"type": "space", "id": side, "size": {"tensor_id": _RAW, "axis_id": side}}
                for side in "yx"
            ),
        ],
        "data": {"type": "float32", "range": [0.0, 1.0], "unit": "arbitrary unit"},
        "test_tensor": _file("test_output.npy", files),
    }


def _file(name: str, files: dict[str, Path | bytes]) -> dict[str, str]:
    content = files[name]
    data = content if isinstance(content, bytes) else content.read_bytes()
    return {"source": name, "sha256": hashlib.sha256(data).hexdigest()}


def _spec_name(name: str) -> str:
    # Dots are not allowed there, and 128 characters are the most.
    return f"deepfocus-live {name}".replace(".", "-")


def _as_npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _cover(z_slice: NDArray[np.uint16], mask: NDArray[np.bool_]) -> bytes:
    """Return a PNG of the slice, and beside it the slice with what is in focus in colour."""
    from PIL import Image

    low, high = np.percentile(z_slice, (0.5, 99.5))
    grey = ((z_slice - low) / max(high - low, 1.0)).clip(0, 1) * 255
    plain = np.repeat(grey[..., None], 3, axis=2)
    painted = np.where(mask[..., None], 0.5 * plain + [0.0, 100.0, 60.0], plain)
    image = np.concatenate((plain, painted), axis=1).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _readme(version: ModelVersion) -> str:
    card = version.card
    figures = yaml.safe_dump(card.get("metrics", {}), sort_keys=False, allow_unicode=True).strip()
    trained = yaml.safe_dump(card.get("trained_on", {}), sort_keys=False, allow_unicode=True)
    return f"""# {version.name}: what is in focus in a widefield slice

{card.get("description") or "A model of deepfocus-live."}

## Use

Give one raw slice in camera counts, as float32, axes batch, channel, y, x; sides of at least
{MIN_SIDE} pixels. Do not scale or normalise it: the model measures each slice against its own
noise. It gives two channels of the slice's size: `mask`, 1 where the slice is in focus, and
`probability`, 0 to 1. The mask is the probability cut at {version.threshold:g}.

Give whole slices. A tile is judged by the tile's own noise, and nothing beyond its edges is seen,
so a slice cut into tiles gives other masks than the whole one, with seams.

## Validation

Run the model on stacks in which you know the focus, and compare masks slice by slice: precision,
recall, intersection over union. What its card says of it:

```yaml
{figures}
```

Trained on:

```yaml
{trained.strip()}
```

## Attached

`card.json`, `model.onnx` and `weights.npz` are the model as deepfocus-live uses it:
`deepfocus-live models import` takes this package back.
"""
