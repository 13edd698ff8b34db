"""What a network cannot be faster than: its multiply-adds at the rate of a matrix product.

Design Notes
------------
*Multiply-adds* are counted in the graph that is run, not in the code that made it: every
convolution's real output shape is read from one run, for a graph of any size does not know its
shapes beforehand. Products with padding count, as everywhere; what is no convolution (a logarithm,
a sort, a copy) does not, so the floor lies too low, never too high.

*The rate* is that of the best matrix product at hand, measured beside the network. torch and
numpy bring libraries of their own, and which is faster depends on the processor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepfocus_live.model import INPUT

__all__ = ["FLOAT32", "gemm_flops", "gemms", "multiply_adds"]

FLOAT32 = ("torch float32", "numpy float32")
"""Names of the products in single precision."""

_NOT_COUNTED = {"MatMul", "Gemm", "Einsum", "MatMulInteger", "QLinearConv", "ConvInteger"}


def multiply_adds(onnx_file: Path, shape: Sequence[int]) -> int:
    """Return the multiply-adds of a network's convolutions for one slice.

    Parameters
    ----------
    onnx_file : path
        Takes one (1, Y, X) uint16 input, as ours do.
    shape : (Y, X)

    Raises
    ------
    ValueError
        If the graph multiplies in a way that is not counted here.
    """
    import onnx

    model = onnx.load(str(onnx_file))
    if unknown := sorted({node.op_type for node in model.graph.node} & _NOT_COUNTED):
        raise ValueError(f"{onnx_file}: cannot count the multiply-adds of {', '.join(unknown)}")
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    # A weight is used once for every element of what it makes, or, transposed, of what it takes.
    swept = [
        (node.output[0] if node.op_type == "Conv" else node.input[0], weights[node.input[1]])
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    ]
    sizes = _sizes(model, sorted({name for name, _ in swept}), shape)
    return sum(sizes[name] * math.prod(weight[1:]) for name, weight in swept)


def _sizes(model: Any, names: Sequence[str], shape: Sequence[int]) -> dict[str, int]:
    """Return how many elements the tensors of these names have, from a run on an empty slice."""
    import onnx
    import onnxruntime

    del model.graph.output[:]
    for name in names:
        # Shapes are given back, not maps: those of a large slice would fill the memory.
        told = f"{name} shape"
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [told]))
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(told, onnx.TensorProto.INT64, None)
        )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    shapes = session.run(None, {INPUT.name: np.zeros((1, *shape), np.uint16)})
    return {name: math.prod(map(int, told)) for name, told in zip(names, shapes, strict=True)}


def gemms(side: int) -> dict[str, Callable[[], object]]:
    """Return products of two (side, side) matrices, by name, each ready to be run.

    `FLOAT32` always; "torch bfloat16" where the processor has instructions for it, for without
    them one product takes minutes. torch's run on `torch.get_num_threads()` threads; numpy's
    library counts its own, by default one per core.
    """
    a, b = (np.random.default_rng(seed).random((side, side), np.float32) for seed in (0, 1))
    into = np.empty_like(a)
    by_name = {FLOAT32[0]: _torch_gemm(side, torch.float32)}
    by_name[FLOAT32[1]] = lambda: np.matmul(a, b, out=into)
    if _bfloat16_is_fast():
        by_name["torch bfloat16"] = _torch_gemm(side, torch.bfloat16)
    return by_name


def gemm_flops(side: int) -> int:
    """Return the floating-point operations of one of `gemms`: two a multiply-add."""
    return 2 * side**3


def _torch_gemm(side: int, dtype: torch.dtype) -> Callable[[], object]:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.rand(side, side, generator=random).to(dtype) for _ in range(2))
    into = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=into)


def _bfloat16_is_fast() -> bool:
    spent = []
    for dtype in (torch.float32, torch.bfloat16):
        product = _torch_gemm(256, dtype)
        product()
        begin = time.perf_counter()
        product()
        spent.append(time.perf_counter() - begin)
    return spent[1] < spent[0]
