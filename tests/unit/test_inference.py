"""Inference: raw slices in, masks out, models swapped between slices."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deepfocus_live.errors import InputError
from deepfocus_live.inference import InFocusModel, ModelSlot, _steady, why_no_cuda
from deepfocus_live.model import Registry
from deepfocus_live.simulation import simulate_focal_stack


@pytest.fixture(scope="module")
def model() -> InFocusModel:
    return InFocusModel.load(Registry().shipped_version(), provider="cpu", threads=1)


def test_shipped_model_finds_the_focus_of_a_stack_it_never_saw(model: InFocusModel) -> None:
    stack = simulate_focal_stack("organoid_layer", shape=(5, 256, 256), z_step_um=12.0, seed=77)
    called = np.stack([model.infer(z_slice).mask for z_slice in stack.slices]).astype(bool)
    both, either = (called & stack.in_focus).sum(), (called | stack.in_focus).sum()
    assert both / either > 0.4


def test_result_has_the_slices_shape_and_the_networks_resolution(model: InFocusModel) -> None:
    result = model.infer(np.zeros((101, 75), np.uint16))
    assert result.mask.shape == (101, 75)
    assert result.probability.shape == (26, 19)
    assert result.mask.dtype == result.probability.dtype == np.uint8
    assert result.milliseconds > 0
    assert not result.mask.any()


def test_uint8_slice_gives_what_its_widened_copy_gives(model: InFocusModel) -> None:
    narrow = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    narrow[20:60, 20:60] //= 8
    wide = model.infer(narrow.astype(np.uint16))
    np.testing.assert_array_equal(model.infer(narrow).probability, wide.probability)
    swapped = narrow.astype(">u2")  # as some TIFFs hold it
    np.testing.assert_array_equal(model.infer(swapped).probability, wide.probability)


def test_strided_view_gives_what_its_copy_gives(model: InFocusModel) -> None:
    frame = np.random.default_rng(1).integers(0, 4096, (200, 220), dtype=np.uint16)
    view = frame[::2, 10:-10:2]
    np.testing.assert_array_equal(
        model.infer(view).probability, model.infer(view.copy()).probability
    )


def test_later_slices_do_not_overwrite_earlier_results(model: InFocusModel) -> None:
    random = np.random.default_rng(2)
    first = model.infer(random.integers(0, 4096, (96, 96), dtype=np.uint16))
    kept = first.probability.copy()
    model.infer(np.zeros((96, 96), np.uint16))
    np.testing.assert_array_equal(first.probability, kept)


@pytest.mark.parametrize(
    ("z_slice", "words"),
    [
        pytest.param(np.zeros((63, 100), np.uint16), "too small", id="small"),
        pytest.param(np.zeros((1, 100, 100), np.uint16), "must be", id="3-D"),
        pytest.param(np.zeros((100, 100), np.complex64), "complex64", id="complex"),
    ],
)
def test_slices_the_network_cannot_take_are_refused(
    model: InFocusModel, z_slice: np.ndarray, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        model.infer(z_slice)


def test_model_names_its_version_and_what_really_runs(model: InFocusModel) -> None:
    assert model.version == Registry().shipped_version().name
    assert model.provider == "CPUExecutionProvider"
    assert model.reduction == 4
    assert model.threshold == Registry().shipped_version().threshold


def test_model_opens_from_a_folder_and_from_a_file() -> None:
    version = Registry().shipped_version()
    for place in (version.path, version.onnx, str(version.path)):
        assert InFocusModel.load(place, provider="cpu").version == version.name


def test_unknown_provider_and_thread_count_are_refused() -> None:
    version = Registry().shipped_version()
    with pytest.raises(InputError, match="'tpu' is unknown"):
        InFocusModel.load(version, provider="tpu")
    with pytest.raises(InputError, match="threads is 0"):
        InFocusModel.load(version, threads=0)


@pytest.mark.skipif(why_no_cuda() is None, reason="CUDA may be had here")
def test_cuda_that_cannot_be_had_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"provider 'cuda' cannot be had: .+"):
        InFocusModel.load(Registry().shipped_version(), provider="cuda")


def test_loading_with_auto_is_quiet() -> None:
    code = (
        "from deepfocus_live.model import Registry\n"
        "from deepfocus_live.inference import InFocusModel\n"
        "InFocusModel.load(Registry('nowhere').current()).warm_up((64, 64))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_model_that_cannot_be_used_leaves_the_old_one_in_place(
    model: InFocusModel, tmp_path: Path
) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    slot = ModelSlot(model, provider="cpu")
    with pytest.raises(InputError):
        slot.swap(tmp_path / "bad.onnx", (64, 64))
    assert slot.model is model


def test_model_that_opens_but_does_not_run_is_refused_in_one_line(
    model: InFocusModel, tmp_path: Path
) -> None:
    onnx.save(broken_model(), str(tmp_path / "broken.onnx"))
    slot = ModelSlot(model, provider="cpu")
    with pytest.raises(InputError, match="model broken does not run here: ONNX Runtime") as refused:
        slot.swap(tmp_path / "broken.onnx", (64, 64))
    assert "\n" not in str(refused.value)
    assert slot.model is model


def broken_model() -> onnx.ModelProto:
    """Return a graph of the right signature that fails on every slice."""
    byte = TensorProto.UINT8
    kinds = {"z_slice": TensorProto.UINT16, "mask": byte, "probability": byte}
    values = {
        name: helper.make_tensor_value_info(name, kind, ["N", "H", "W"])
        for name, kind in kinds.items()
    }
    nodes = [
        helper.make_node("Reshape", ["z_slice", "shape"], ["odd"]),
        helper.make_node("Cast", ["odd"], ["mask"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["odd"], ["probability"], to=TensorProto.UINT8),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 3, 5])
    graph = helper.make_graph(
        nodes, "broken", [values["z_slice"]], [values["mask"], values["probability"]], [shape]
    )
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    return made


def test_new_model_swaps_in_between_slices_never_within_one(model: InFocusModel) -> None:
    slot = ModelSlot(model, provider="cpu", threads=1)
    z_slice = np.random.default_rng(3).integers(0, 4096, (128, 128), dtype=np.uint16)
    expected = model.infer(z_slice).probability
    stop = threading.Event()
    wrong: list[str] = []

    def infer_all_the_time() -> None:
        while not stop.is_set():
            result, version = slot.infer(z_slice)
            if not np.array_equal(result.probability, expected):
                wrong.append(version)

    thread = threading.Thread(target=infer_all_the_time)
    thread.start()
    try:
        swapped = [slot.swap(Registry().shipped_version(), z_slice.shape) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert slot.model is swapped[-1]
    assert not wrong


def test_large_slice_that_memory_cannot_hold_whole_is_segmented_in_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    version = Registry().shipped_version()
    model = InFocusModel.load(version, provider="cpu", threads=1, on_change=told.append)
    z_slice = np.random.default_rng(4).integers(0, 4096, (200, 333), dtype=np.uint16)
    z_slice[50:120, 60:200] //= 8
    whole = model.infer(z_slice)
    monkeypatch.setattr(_steady, "_LARGE_PX", z_slice.size)
    monkeypatch.setattr(_steady, "_MOST_OF_MEMORY", 0.0)
    tiled = model.infer(z_slice)
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    assert model.provider == "CPUExecutionProvider in tiles"
    assert told == [
        "masks are made on CPUExecutionProvider in tiles, no longer on CPUExecutionProvider"
    ]
    model.infer(z_slice[:100])
    assert model.provider == "CPUExecutionProvider"


def test_colour_and_floating_point_slices_are_segmented(model: InFocusModel) -> None:
    grey = np.random.default_rng(5).integers(0, 256, (96, 128), dtype=np.uint8)
    want = model.infer(grey).probability
    colour = np.stack([grey] * 3, axis=2)
    np.testing.assert_array_equal(model.infer(colour).probability, want)
    np.testing.assert_array_equal(model.infer(grey.astype(np.float32)).probability, want)
