"""From the name of a provider to an engine that truly runs there, or to the reason why not."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from deepfocus_live.errors import InputError
from deepfocus_live.inference._choice import open_faster_on_cpu
from deepfocus_live.inference._cuda import why_no_cuda
from deepfocus_live.inference._engine import ModelEngine
from deepfocus_live.inference._onnxruntime import OnnxRuntimeEngine
from deepfocus_live.inference._openvino import OpenVinoEngine

__all__ = ["Provider", "open_engine", "why_no_cuda"]

Provider = Literal["auto", "cpu", "cuda", "openvino"]


def open_engine(
    path: Path,
    *,
    provider: str = "auto",
    threads: int | None = None,
    shape: Sequence[int] | None = None,
) -> ModelEngine:
    """Open a model on the provider asked for.

    Parameters
    ----------
    path : path
        An ONNX file of ours.
    provider : {"auto", "cpu", "cuda", "openvino"}
        "auto" takes CUDA where a session truly gets it, else the faster of ONNX Runtime ("cpu")
        and OpenVINO on this machine. Any other is had, or refused.
    threads : int, optional
        CPU threads of one inference; by default one per physical core.
    shape : (Y, X), optional
        Of the slices to come, which makes opening the model cheaper.

    Returns
    -------
    Engine
        With `metadata`, what the file says of itself, as text by name.

    Raises
    ------
    InputError
        If the provider is unknown or cannot be had, with the reason, or if the file is missing,
        damaged or no model of ours.
    """
    if provider not in get_args(Provider):
        raise _unknown(provider)
    if provider == "cuda":
        return OnnxRuntimeEngine(path, device="cuda", threads=threads)
    if provider == "openvino":
        return OpenVinoEngine(path, threads=threads)
    if provider == "auto":
        with contextlib.suppress(InputError):
            return _fastest(path, threads, shape)
    return OnnxRuntimeEngine(path, device="cpu", threads=threads, shape=shape)


def _fastest(path: Path, threads: int | None, shape: Sequence[int] | None) -> ModelEngine:
    if why_no_cuda() is None:
        with contextlib.suppress(InputError):
            return OnnxRuntimeEngine(path, device="cuda", threads=threads)
    return open_faster_on_cpu(path, threads=threads, shape=shape)


def _unknown(provider: str) -> InputError:
    return InputError(f"provider {provider!r} is unknown; use 'auto', 'cpu', 'cuda' or 'openvino'")
