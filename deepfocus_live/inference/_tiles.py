"""Slices whose maps do not fit the memory: the network in tiles, the answer without seams.

Design Notes
------------
*One slice, one measure.* The network measures a slice against the level and noise of the whole of
it. Tile by tile these would differ, and so would the answers. So they are measured beforehand, and
the graph is cut where it takes them up: what made them falls away, they become inputs.

*How far a pixel sees.* Feature maps of `L` levels, in pixels of the first. On the way back from the
answer to the features, two 3 x 3 convolutions per level reach two pixels further at that level.
Going down a level halves a distance, rounded up to whole pixels: 2, 3, 4 and 4 from there on. The
bottleneck thus sees at most 4 of its own pixels far, 4 * 2**L of the first level's; the encoder
doubles, and adds 2, at each level: 2 * (2**L - 1) more. Together less than 6 * 2**L, and with an
overlap of that no border of a tile is seen from the part of it that is kept. Upsampling by nearest
neighbours or by 2 x 2 transposed convolution, and pooling, see no further than their own pixel,
if the tiles lie on the pooling's grid: they begin at multiples of 2**L blocks.

*The slice's own borders* are tiles' borders as well, and are padded as they are in the whole slice.

*What cannot be had in tiles* is instance normalisation: it measures all maps of the whole slice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._cuda import CUDA, CUDA_OPTIONS, load_libraries, why_no_cuda
from deepfocus_live.inference._engine import Answer, EngineError
from deepfocus_live.inference._failures import said_by, told_as_engine_errors
from deepfocus_live.inference._session import CPU, session_options
from deepfocus_live.model import INPUT, MIN_SIDE, OUTPUTS, STATISTICS, measure_statistics

__all__ = ["TiledEngine"]

_OVERLAP = 6  # in coarsest pixels, see above


class TiledEngine:
    """A model on one device, in tiles. For one caller at a time.

    Memory is taken for one tile's maps, and for the answer. What is computed twice, where tiles
    overlap, costs time: two fifths more at most, with three levels, blocks of 4 pixels and tiles of
    the default size.

    Parameters
    ----------
    path : path
        An ONNX file of ours.
    threads : int, optional
        CPU threads; by default ONNX Runtime's choice.
    device : {"cpu", "cuda"}
    tile_px : int
        Largest side of the part of a tile that is kept, rounded down to the network's grid (32
        pixels for most), but to no less than one step of it. What is computed is larger by the
        overlap, on each side that is not the slice's own (192 pixels for most).

    Attributes
    ----------
    provider : str
        What really runs, in ONNX Runtime's words, and "in tiles".

    Raises
    ------
    InputError
        If the file cannot be read, if its graph cannot be cut (exported by an older version) or
        its network not be tiled (instance normalisation), or if the device cannot be had.
    EngineError
        If the device cannot be used after all.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        tile_px: int = 2048,
    ) -> None:
        model = _read(path)
        described = _architecture(model, path)
        self._reduction = int(described["reduction"])
        self._noise = str(described["noise"])
        self._grid = _Grid(self._reduction * 2 ** int(described["levels"]), tile_px)
        _cut(model)
        self._session = _open(model, device, threads)
        self.provider = f"{self._session.get_providers()[0]} in tiles"

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        """Return mask and probability of one slice; see `Engine.run`.

        Parameters
        ----------
        counts : (Y, X) uint16
            Y and X at least `MIN_SIDE`.

        Raises
        ------
        OutOfMemoryError
            If not even a tile fits.
        EngineError
        """
        with told_as_engine_errors("ONNX Runtime"):
            measured = measure_statistics(counts, reduction=self._reduction, noise=self._noise)
            given = {name: np.array([v]) for name, v in zip(STATISTICS, measured, strict=True)}
            height, width = counts.shape
            mask = np.empty((height, width), np.uint8)
            low = (-(-height // self._reduction), -(-width // self._reduction))
            probability = np.empty(low, np.uint8)
            for rows, columns in itertools.product(
                self._grid.spans(height), self._grid.spans(width)
            ):
                tile = np.ascontiguousarray(counts[rows.seen(), columns.seen()])
                answer = self._session.run(None, {INPUT.name: tile[np.newaxis], **given})
                for whole, part, r in zip(
                    (mask, probability), answer, (1, self._reduction), strict=True
                ):
                    whole[rows.kept(r), columns.kept(r)] = part[0][rows.inner(r), columns.inner(r)]
        return mask, probability


@dataclass(frozen=True)
class _Span:
    """One tile along one axis, in pixels: what the network is given of it, and what is kept."""

    first: int
    start: int
    stop: int
    last: int

    def seen(self) -> slice:
        """Return what the network is given of the slice."""
        return slice(self.first, self.last)

    def kept(self, r: int) -> slice:
        """Return where the kept part lies in the slice, at 1 / `r` of its resolution."""
        return slice(self.start // r, -(-self.stop // r))

    def inner(self, r: int) -> slice:
        """Return where the kept part lies in the tile's answer, at 1 / `r` of its resolution."""
        return slice((self.start - self.first) // r, -(-(self.stop - self.first) // r))


class _Grid:
    """Where tiles lie.

    Parameters
    ----------
    step : int
        Pixels per coarsest pixel of the network; tiles start at multiples of it.
    tile_px : int
        Largest side of what is kept of a tile.
    """

    def __init__(self, step: int, tile_px: int) -> None:
        self.step = step
        self.tile = max(tile_px // step, 1) * step
        # The last tile may keep a single pixel; with the overlap it is no smaller than a slice.
        self.overlap = max(_OVERLAP, -(-MIN_SIDE // step)) * step

    def spans(self, length: int) -> list[_Span]:
        """Return the tiles along an axis of `length` pixels, as equal in size as may be."""
        count = -(-length // self.tile)
        side = -(-length // (count * self.step)) * self.step
        return [
            _Span(
                max(start - self.overlap, 0),
                start,
                min(start + side, length),
                min(start + side + self.overlap, length),
            )
            for start in range(0, length, side)
        ]


def _read(path: Path | str) -> Any:
    import onnx

    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such model file")
    try:
        return onnx.load(str(path))
    except Exception as error:
        # protobuf's exception classes are not part of its interface.
        raise InputError(f"{path}: cannot be opened as an ONNX model ({said_by(error)})") from error


def _architecture(model: Any, path: Path | str) -> dict[str, Any]:
    """Return what the file says of its network, refused if it cannot be cut or tiled."""
    described = {entry.key: entry.value for entry in model.metadata_props}
    architecture: dict[str, Any] = json.loads(described.get("architecture", "{}"))
    made = {name for node in model.graph.node for name in node.output}
    if not made.issuperset(STATISTICS) or "norm" not in architecture:
        raise InputError(
            f"{path}: was exported by an older version; retrain or export it again to use it on "
            "so large a slice"
        )
    if architecture["norm"] != "batch":
        raise InputError(
            f"{path}: normalises over the whole slice ({architecture['norm']} normalisation) and "
            "cannot be run in tiles; use a network with batch normalisation on so large a slice"
        )
    return architecture


def _cut(model: Any) -> None:
    """Make the slice's statistics inputs of the graph, and drop what made them."""
    from onnx import TensorProto, helper

    graph = model.graph
    needed = {output.name for output in OUTPUTS}
    kept = []
    for node in reversed(graph.node):  # in the order of a graph makers come before users
        if needed.intersection(node.output) - set(STATISTICS):
            kept.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    _refill(graph.node, kept[::-1])
    _refill(graph.initializer, weights)
    del graph.value_info[:]
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in STATISTICS
    )


def _refill(field: Any, items: Sequence[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def _open(model: Any, device: str, threads: int | None) -> Any:
    import onnxruntime

    options = session_options(threads)
    # Tiles at the slice's borders are of other sizes: what is kept for each would add up.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    providers: list[Any] = [CPU]
    if device == "cuda":
        if reason := why_no_cuda():
            raise InputError(f"provider 'cuda' cannot be had: {reason}")
        load_libraries()
        providers = [(CUDA, CUDA_OPTIONS), CPU]
    with told_as_engine_errors("ONNX Runtime"):
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers, enable_fallback=0
        )
        if device == "cuda" and session.get_providers()[0] != CUDA:
            raise EngineError("the session fell back to the CPU")
    return session
