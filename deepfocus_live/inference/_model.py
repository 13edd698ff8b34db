"""One model on one provider: a raw slice in, its mask and probability out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._providers import CPU, CUDA, choose_providers
from deepfocus_live.model import INPUT, MIN_SIDE, OUTPUTS, ModelVersion, open_session

__all__ = ["InFocusModel", "Inference"]

_SILENT = 4  # ONNX Runtime's severity "fatal": refusals are told by us, once, in words


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


class InFocusModel:
    """A loaded model. Made by `load`; safe for one caller at a time.

    Attributes
    ----------
    version : str
        The model's name.
    provider : str
        What really runs, as ONNX Runtime names it after the session was made.
    reduction : int
        Pixels of the slice per pixel of the probability, each way.
    threshold : float
        Probability from which `mask` is 1, 0..1.
    """

    def __init__(self, session: Any, version: str) -> None:
        self._session = session
        self.version = version
        self.provider = str(session.get_providers()[0])
        described = session.get_modelmeta().custom_metadata_map
        self.reduction = int(described.get("reduction", 4))
        self.threshold = float(described.get("threshold", 0.5))

    @classmethod
    def load(
        cls,
        model: ModelVersion | Path | str,
        *,
        provider: str = "auto",
        threads: int | None = None,
    ) -> InFocusModel:
        """Open a model.

        Parameters
        ----------
        model : ModelVersion or path
            A version of the registry, its folder, or an ONNX file of ours.
        provider : {"auto", "cpu", "cuda"}
            "auto" takes CUDA where a session truly gets it, else the CPU.
        threads : int, optional
            CPU threads of one inference; by default ONNX Runtime's choice, one per core.

        Raises
        ------
        InputError
            If the file is missing, damaged or no model of ours, if `threads` is below 1, or if
            the provider asked for cannot be had.
        """
        path, name = _locate(model)
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; it must be at least 1")
        session = _open(path, choose_providers(provider), threads)
        if provider == "cuda" and session.get_providers()[0] != CUDA:
            raise InputError(
                "provider 'cuda' cannot be had: ONNX Runtime finds the GPU but not the libraries "
                "it was built with; install deepfocus-live[cuda]"
            )
        name = name or session.get_modelmeta().custom_metadata_map.get("name") or path.stem
        return cls(session, name)

    def warm_up(self, shape: Sequence[int]) -> None:
        """Run once on an empty slice of `shape` (Y, X), so that the first real one is not late."""
        self.infer(np.zeros(tuple(shape), np.uint16))

    def infer(self, z_slice: NDArray[Any]) -> Inference:
        """Return mask and probability of one slice.

        Parameters
        ----------
        z_slice : (Y, X) uint8 or uint16
            Raw camera counts; Y and X at least 64.

        Raises
        ------
        InputError
            If the slice is of another type, not 2-D, or too small.
        """
        began = time.perf_counter()
        counts = _as_counts(z_slice)
        run = self._run_bound if self.provider == CPU else self._run_plain
        mask, probability = run(counts[np.newaxis])
        return Inference(mask, probability, (time.perf_counter() - began) * 1e3)

    def _run_bound(self, batch: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Run with input and output in the caller's memory: nothing is copied."""
        _, height, width = batch.shape
        low = (1, -(-height // self.reduction), -(-width // self.reduction))
        outputs = np.empty((1, height, width), np.uint8), np.empty(low, np.uint8)
        binding = self._session.io_binding()
        binding.bind_input(INPUT.name, "cpu", 0, np.uint16, batch.shape, batch.ctypes.data)
        for spec, array in zip(OUTPUTS, outputs, strict=True):
            binding.bind_output(spec.name, "cpu", 0, np.uint8, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        return outputs[0][0], outputs[1][0]

    def _run_plain(self, batch: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask, probability = self._session.run(None, {INPUT.name: batch})
        return mask[0], probability[0]


def _locate(model: ModelVersion | Path | str) -> tuple[Path, str | None]:
    if isinstance(model, ModelVersion):
        return model.onnx, model.name
    path = Path(model)
    return (path / "model.onnx" if path.is_dir() else path), None


def _open(path: Path, providers: list[str], threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Spinning threads eat the cores that the writer and the trainer need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = _SILENT
    if CUDA in providers:
        with contextlib.suppress(Exception):
            # Finds the CUDA libraries that pip installed; without them the session falls back.
            onnxruntime.preload_dlls()
    return open_session(path, options, providers)


def _as_counts(z_slice: NDArray[Any]) -> NDArray[np.uint16]:
    # By kind and size, not by dtype: big-endian counts are counts, too.
    if z_slice.ndim != 2 or z_slice.dtype.kind != "u" or z_slice.dtype.itemsize > 2:
        raise InputError(
            f"a slice must be (Y, X) of uint8 or uint16, not {z_slice.shape} of {z_slice.dtype}"
        )
    if min(z_slice.shape) < MIN_SIDE:
        raise InputError(
            f"a slice of {z_slice.shape[0]} x {z_slice.shape[1]} pixels is too small: the network "
            f"needs {MIN_SIDE} x {MIN_SIDE} at least"
        )
    return cast("NDArray[np.uint16]", np.ascontiguousarray(z_slice, dtype=np.uint16))
