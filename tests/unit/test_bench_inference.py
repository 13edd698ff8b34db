"""`bench inference`: floors counted exactly, rows from known times, all of it run small."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from deepfocus_live.bench import Row, _inference, _swaps
from deepfocus_live.bench._cuda import cuda_rows, torch_call
from deepfocus_live.bench._floor import FLOAT32, gemm_flops, gemms, multiply_adds
from deepfocus_live.bench._inference import Effort, in_turns, mask_rows, measure
from deepfocus_live.inference import Inference, InFocusModel, ModelSlot
from deepfocus_live.model import INPUT, Registry
from deepfocus_live.model.export import fold
from deepfocus_live.model.weights import load_network
from deepfocus_live.simulation import simulate_focal_stack

_TINY = Effort(
    shapes=((64, 80),),
    slices=3,
    seldom=2,
    pause_s=0.0,
    gemm_side=64,
    swaps_under_load=1,
    swaps=2,
    first_swaps=1,
)


def _write_graph(path: Path, nodes: Sequence[Any], **weights: tuple[int, ...]) -> Path:
    image = helper.make_tensor_value_info(INPUT.name, TensorProto.UINT16, ["N", "H", "W"])
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    stored = [
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()
    ]
    stored.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT.name], ["counts"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["counts", "axis"], ["map"]),
            *nodes,
        ],
        "tiny",
        [image],
        [made],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_multiply_adds_are_those_counted_by_hand(tmp_path: Path) -> None:
    conv = helper.make_node
    path = _write_graph(
        tmp_path / "tiny.onnx",
        [
            conv("Conv", ["map", "halve"], ["half"], strides=[2, 2], pads=[1, 1, 1, 1]),
            conv("ConvTranspose", ["half", "double"], ["whole"], strides=[2, 2]),
            conv("Conv", ["whole", "grouped"], ["made"], group=2),
        ],
        halve=(3, 1, 3, 3),
        double=(3, 2, 2, 2),
        grouped=(4, 1, 3, 3),
    )
    halve = 3 * 4 * 5 * 9  # of 8 x 10 pixels: 3 maps of 4 x 5, 9 weights each
    double = 3 * 4 * 5 * 2 * 4  # each of them times 2 maps of 2 x 2 weights
    grouped = 4 * 6 * 8 * 9  # no padding: 4 maps of 6 x 8, 9 weights of one of two inputs
    assert multiply_adds(path, (8, 10)) == halve + double + grouped


def test_graph_with_products_that_are_not_counted_is_refused(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["map", "map"], ["made"])
    with pytest.raises(ValueError, match="cannot count the multiply-adds of MatMul"):
        multiply_adds(_write_graph(tmp_path / "product.onnx", [product]), (8, 8))


def test_multiply_adds_of_the_shipped_graph_are_those_torch_counts() -> None:
    version = Registry().shipped_version()
    shape = (101, 75)  # neither a multiple of 4 nor of 32
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        fold(load_network(version))(torch.zeros(1, *shape, dtype=torch.uint16))
    assert 2 * multiply_adds(version.onnx, shape) == counter.get_total_flops() > 0


def test_products_of_matrices_are_there_in_single_precision() -> None:
    products = gemms(32)
    assert set(FLOAT32) <= set(products)
    by_torch, by_numpy = (np.asarray(products[name]()) for name in FLOAT32)
    assert by_torch.shape == by_numpy.shape == (32, 32)
    assert by_torch.dtype == by_numpy.dtype == np.float32
    assert gemm_flops(32) == 2 * 32 * 32 * 32


def test_slow_calls_take_few_turns_spread_among_the_others() -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[], object]:
        return lambda: order.append(name)

    spent = in_turns({"a": noting("a")}, {"b": noting("b")}, repeat=6, few=2, seconds=60)
    assert "".join(order) == "ab" + "abaa" * 2  # all once, unmeasured, then in turns
    assert {name: len(times) for name, times in spent.items()} == {"a": 6, "b": 2}


def test_time_limit_leaves_one_turn_at_least() -> None:
    spent = in_turns({"a": int}, {"b": int}, repeat=6, few=2, seconds=-1)
    assert [len(times) for times in spent.values()] == [1, 1]


def _rows(**changed: Any) -> dict[str, Row]:
    """Return rows of invented times by their names' gist."""
    times = {
        "ours": [0.010] * 98 + [0.030, 0.050],
        "published": [0.2, 0.1],
        "copy": [0.001],
        "torch float32": [0.02],
        "numpy float32": [0.01],
        "torch bfloat16": [0.002],
    }
    given: dict[str, Any] = {
        "times": times,
        "names": {"ours": "net on CPU", "openvino": "net on OpenVINO"},
        "slices": 100,
        **changed,
    }
    given["times"] = {**times, **given["times"]}
    rows = mask_rows((4, 5), multiply_adds=400_000_000, gemm_flops=10**9, threads=2, **given)
    assert all(row.group == "inference" and "4 × 5 slice" in row.name for row in rows)
    gist = ("p50", "p99", "rate", "published", "openvino", "openvino rate")
    return dict(zip(gist, rows, strict=True))


def test_rows_say_median_and_99th_percentile_of_the_slices() -> None:
    rows = _rows()
    assert rows["p50"].value == pytest.approx(10.0)
    assert rows["p50"].ratio == pytest.approx(10.0)  # copies
    assert rows["p99"].value == pytest.approx(30.2)  # between the two slowest of a hundred
    assert rows["p99"].ratio == pytest.approx(3.02)


def test_floor_is_the_faster_product_in_single_precision() -> None:
    rate = _rows()["rate"]
    assert (rate.value, rate.reference_value) == pytest.approx((80.0, 100.0))
    assert rate.met  # 0.8 of the floor
    assert not _rows(times={"numpy float32": [0.009]})["rate"].met  # 0.72 of it


@pytest.mark.parametrize(("seconds", "met"), [([0.13, 0.12, 0.11], True), ([0.119], False)])
def test_published_network_takes_a_dozen_times_as_long(seconds: list[float], met: bool) -> None:
    row = _rows(times={"published": seconds})["published"]
    assert row.met is met
    assert f"{len(seconds)} slices" in row.name


def test_openvino_is_judged_by_the_fastest_product_of_any_precision() -> None:
    rows = _rows(times={"openvino": [0.004]})
    assert rows["openvino"].ratio == pytest.approx(0.4)
    assert (rows["openvino rate"].value, rows["openvino rate"].reference_value) == pytest.approx(
        (200.0, 500.0)
    )
    assert rows["openvino rate"].met is False
    assert "net on OpenVINO" in rows["openvino"].name


def test_fewer_slices_than_wanted_are_told() -> None:
    assert "100 slices" not in _rows()["p50"].name
    assert "100 slices" in _rows(slices=200)["p50"].name


def test_card_is_judged_by_its_times_and_torch_by_ours() -> None:
    times = {"ours": 0.0004, "stack": 0.009, "bytes": 0.0002, "torch eager, float32": 0.002}
    one, stack, copies, eager, *missing = cuda_rows("net on CUDA", (4, 5), times)
    assert (one.met, stack.met) == (True, False)
    assert (copies.ratio, eager.ratio) == pytest.approx((0.5, 5.0))
    assert {row.value for row in missing} == {None}


def test_torch_makes_the_masks_of_the_graph_in_either_precision() -> None:
    version = Registry().shipped_version()
    z_slice = simulate_focal_stack("organoid_layer", shape=(3, 128, 160), seed=1).slices[1]
    wanted = InFocusModel.load(version, provider="cpu", threads=1).infer(z_slice)
    assert 0.02 < wanted.mask.mean() < 0.98
    for dtype, most in ((torch.float32, 1e-3), (torch.bfloat16, 0.02)):
        mask, probability = torch_call(version, z_slice, "cpu", dtype=dtype)()
        assert probability[0].shape == wanted.probability.shape
        assert np.mean(mask[0].numpy() != wanted.mask) <= most


class _LateOnce(ModelSlot):
    """Keeps the slice after a swap waiting."""

    late = False

    def swap(self, *given: Any) -> InFocusModel:
        model = super().swap(*given)
        self.late = True
        return model

    def infer(self, z_slice: np.ndarray) -> tuple[Inference, str]:
        if self.late:
            self.late = False
            time.sleep(0.3)
        return super().infer(z_slice)


def test_slice_that_a_swap_made_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_swaps, "ModelSlot", _LateOnce)
    version = Registry().shipped_version()
    slowest, median = _swaps.swap_under_load(version, (64, 64), swaps=1, threads=1)
    assert slowest > 0.3 > median


class _Hoarder(ModelSlot):
    """Keeps memory of every model it was given."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.kept: list[mmap.mmap] = []

    def swap(self, *given: Any) -> InFocusModel:
        # From the system itself: an allocator may have as much that was given back to it.
        memory = mmap.mmap(-1, 40_000_000)
        np.frombuffer(memory, np.uint8)[:] = 1
        self.kept.append(memory)
        return super().swap(*given)


def test_memory_that_swaps_keep_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    version = Registry().shipped_version()
    monkeypatch.setattr(_swaps, "ModelSlot", _Hoarder)
    done, grown = _swaps.memory_of_swaps(version, swaps=2, first=1, seconds=60)
    assert done == 2
    assert 60 < grown < 110  # of two, not of three


def test_pause_before_a_call_is_not_its_time() -> None:
    began = time.perf_counter()
    spent = in_turns({"a": list}, {"b": list}, repeat=3, few=3, seconds=60, pause_s=0.01)
    assert time.perf_counter() - began > 0.06
    assert max(spent["a"] + spent["b"]) < 0.01


def test_time_limit_ends_the_many_swaps() -> None:
    version = Registry().shipped_version()
    assert _swaps.memory_of_swaps(version, swaps=1000, first=0, seconds=-1)[0] == 1


@pytest.mark.parametrize("with_openvino", [False, True], ids=["processor-alone", "openvino"])
def test_table_is_complete_whatever_the_machine_has(
    with_openvino: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Registry().shipped_version()
    other = InFocusModel.load(version, provider="cpu", threads=1)

    def load_if_any(_version: Any, provider: str, _threads: int) -> InFocusModel | None:
        return other if with_openvino and provider == "openvino" else None

    monkeypatch.setattr(_inference, "_load_if_any", load_if_any)
    monkeypatch.setattr(_inference, "_published", lambda *_: other)  # no tracing
    rows = measure(_TINY)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    missing = {row.name for row in rows if row.value is None}
    assert {name for name in names if "CUDA" in name or "card" in name} <= missing
    assert len(missing) == (7 if with_openvino else 9)
    assert all(row.met is None for row in rows if row.value is None)
    assert {"slowest 64 × 80 slice during 1 swaps", "growth of memory over 2 swaps"} <= set(names)


def test_provider_that_cannot_be_had_is_not_measured() -> None:
    assert _inference._load_if_any(Registry().shipped_version(), "no such", 1) is None
