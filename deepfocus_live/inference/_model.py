"""One model on one provider: a raw slice in, its mask and probability out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._counts import as_counts
from deepfocus_live.inference._cuda import CUDA
from deepfocus_live.inference._engine import Engine
from deepfocus_live.inference._providers import open_engine
from deepfocus_live.inference._session import CPU
from deepfocus_live.inference._steady import SteadyEngine, Way
from deepfocus_live.inference._tiles import TiledEngine
from deepfocus_live.model import ModelVersion

__all__ = ["InFocusModel", "Inference"]

log = logging.getLogger(__name__)

_BYTES_PER_PX = 25.0  # of memory for a slice's maps, measured with the network that ships


@dataclass(frozen=True)
class Inference:
    """What the network says of one slice.

    Attributes
    ----------
    mask : (Y, X) uint8
        1 in focus, 0 not.
    probability : (ceil(Y / r), ceil(X / r)) uint8
        0..255, at the network's own resolution; r is the model's `reduction`.
    milliseconds : float
        From the raw slice in host memory to the mask in host memory.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.uint8]
    milliseconds: float

    @cached_property
    def focus_score(self) -> float:
        """How much of the slice is in focus by the network's own word, 0 … 1.

        Its mean probability: as a mask's in-focus fraction, without a threshold. So it also
        orders slices of which nothing, or all, passes the threshold, and unlike a contrast it
        does not follow exposure.
        """
        return float(self.probability.mean()) / 255


class InFocusModel:
    """A loaded model. Made by `load`. Callers on several threads take turns.

    Attributes
    ----------
    version : str
        The model's name.
    reduction : int
        Pixels of the slice per pixel of the probability, each way.
    threshold : float
        Probability from which `mask` is 1, 0..1.
    """

    def __init__(self, engine: Engine, version: str, described: Mapping[str, str]) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self.version = version
        self.reduction = int(described.get("reduction", 4))
        self.threshold = float(described.get("threshold", 0.5))

    @property
    def provider(self) -> str:
        """What ran the last slice, or will run the first, in the runtime's own words."""
        return self._engine.provider

    @property
    def at_best(self) -> bool:
        """Whether the device that was found best made the last mask, and none in its place."""
        return not isinstance(self._engine, SteadyEngine) or self._engine.at_best

    @classmethod
    def load(
        cls,
        model: ModelVersion | Path | str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        shape: Sequence[int] | None = None,
        on_change: Callable[[str], None] = log.warning,
        on_back: Callable[[str], None] = log.info,
    ) -> InFocusModel:
        """Open a model.

        Parameters
        ----------
        model : ModelVersion or path
            A version of the registry, its folder, or an ONNX file of ours.
        provider : {"auto", "cpu", "cuda", "openvino"}
            "auto" takes CUDA where a session truly gets it, else what is fastest on the CPU.
        threads : int, optional
            CPU threads of one inference; by default the runtime's choice, one per core.
        shape : (Y, X), optional
            Of the slices to come, where that is known; others may come all the same.
        on_change : callable
            Told in one line when the device fails or its memory runs out, and what makes the
            masks instead.
        on_back : callable
            Told in one line when it is back.

        Returns
        -------
        InFocusModel
            Not warmed up; see `warm_up`.

        Raises
        ------
        InputError
            If the file is missing, damaged or no model of ours, if `threads` is below 1, or if
            the provider asked for is unknown or cannot be had.
        """
        path, name = _locate(model)
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; it must be at least 1")
        best = open_engine(path, provider=provider, threads=threads, shape=shape)
        engine = SteadyEngine(_ways(best, path, provider, threads), on_change, on_back)
        return cls(engine, name or best.metadata.get("name") or path.stem, best.metadata)

    def warm_up(self, shape: Sequence[int]) -> None:
        """Run once on an empty slice of `shape` (Y, X), so that the first real one is not late.

        Raises
        ------
        InputError, EngineError
            As `infer` does.
        """
        self.infer(np.zeros(tuple(shape), np.uint16))

    def infer(self, z_slice: NDArray[Any]) -> Inference:
        """Return mask and probability of one slice.

        Parameters
        ----------
        z_slice : (Y, X) or (Y, X, 3 or 4)
            As the camera gave it: whole counts or floats, grey or RGB; see `as_counts`. Y and X at
            least 64.

        Returns
        -------
        Inference

        Raises
        ------
        InputError
            If the slice is of another type or shape, or too small.
        EngineError
            If no device gives an answer, not even the CPU in small parts.
        """
        began = time.perf_counter()
        counts = as_counts(z_slice)
        with self._turn:
            mask, probability = self._engine.run(counts)
        return Inference(mask, probability, (time.perf_counter() - began) * 1e3)


def _locate(model: ModelVersion | Path | str) -> tuple[Path, str | None]:
    if isinstance(model, ModelVersion):
        return model.onnx, model.name
    path = Path(model)
    return (path / "model.onnx" if path.is_dir() else path), None


def _ways(best: Engine, path: Path, provider: str, threads: int | None) -> list[Way]:
    """Return the ways from a raw slice to its mask, the best first."""

    def open_best() -> Engine:
        return open_engine(path, provider=provider, threads=threads)

    on_gpu = best.provider == CUDA
    ways = [Way(open_best, 0.0 if on_gpu else _BYTES_PER_PX, best)]
    if on_gpu:
        ways.append(Way(lambda: TiledEngine(path, threads=threads, device="cuda")))
    if best.provider != CPU:
        ways.append(Way(lambda: open_engine(path, provider="cpu", threads=threads), _BYTES_PER_PX))
    return [*ways, Way(lambda: TiledEngine(path, threads=threads))]
