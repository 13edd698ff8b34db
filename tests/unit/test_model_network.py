"""The network: what it sees of a slice, and that the exported graph computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deepfocus_live.errors import InputError
from deepfocus_live.inference._tiles import TiledEngine
from deepfocus_live.model import STATISTICS, Registry, measure_statistics, open_session
from deepfocus_live.model.export import ExportMismatchError, export_onnx, fold
from deepfocus_live.model.network import PUBLISHED, Architecture, BlockStem, FocusNetwork


@pytest.fixture(scope="module")
def template() -> Path:
    """Return a graph of the default architecture: tracing one takes many seconds."""
    return Registry().shipped_version().onnx


def _random_network(seed: int) -> FocusNetwork:
    torch.manual_seed(seed)
    network = FocusNetwork(Architecture())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
    return network.eval()


def _features(network: FocusNetwork, counts: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network.features(torch.from_numpy(counts.astype(np.float32))[None]).numpy()


def test_block_statistics_equal_numpys_even_at_the_top_of_16_bits() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(65000, 65536, (64, 72)).astype(np.float32)
    stem = BlockStem(Architecture())
    level, floor = torch.tensor([65000.0]), torch.tensor([4.0])
    maps = stem.features(stem(torch.from_numpy(counts)[None]), level, floor)[0].numpy()
    blocks = counts.astype(np.float64).reshape(16, 4, 18, 4)
    height = (blocks.mean(axis=(1, 3)) - 65000.0) / 2.0
    np.testing.assert_allclose(maps[0], np.log1p(height), rtol=1e-4)
    variance = blocks.var(axis=(1, 3), ddof=1)
    np.testing.assert_allclose(maps[1], np.log((variance + 0.25) / 4.0), rtol=1e-4)
    # The Hadamard transform keeps the energy: 15 coefficients of 16 are the variance.
    detail = np.sign(maps[2:]) * np.expm1(np.abs(maps[2:])) * 2.0
    np.testing.assert_allclose((detail**2).mean(axis=0), variance, rtol=1e-3)


@pytest.mark.parametrize("architecture", [Architecture(), Architecture(reduction=2), PUBLISHED])
def test_noise_is_the_cameras_even_where_a_specimen_fills_the_field(
    architecture: Architecture,
) -> None:
    random = np.random.default_rng(3)
    counts = 2000.0 + random.normal(0.0, 12.0, (512, 512))
    y, x = np.mgrid[:512, :512]
    specimen = 300.0 * np.sin(y / 3.0) * np.sin(x / 3.0)
    stem = BlockStem(architecture)

    def measured(field: np.ndarray) -> float:
        tensor = torch.from_numpy(field.astype(np.float32))[None]
        return float(stem.noise(tensor, stem(tensor))[1]) ** 0.5

    assert measured(counts) == pytest.approx(12.0, rel=0.05)
    assert measured(counts + specimen) < 3 * 12.0
    median = BlockStem(Architecture(stem="variance", noise="median"))
    tensor = torch.from_numpy((counts + specimen).astype(np.float32))[None]
    assert float(median.noise(tensor, median(tensor))[1]) ** 0.5 > 5 * 12.0


@pytest.mark.parametrize(("gain", "offset"), [(16.0, 0.0), (3.0, 40000.0), (1.0, 500.0)])
def test_network_sees_the_same_whatever_gain_and_offset(gain: float, offset: float) -> None:
    counts = np.rint(np.random.default_rng(1).normal(800.0, 40.0, (128, 128)))
    counts[30:60, 30:60] += 300.0
    network = _random_network(0)
    before, after = _features(network, counts), _features(network, counts * gain + offset)
    np.testing.assert_allclose(after, before, atol=2e-3)


def test_constant_field_is_all_zero_to_the_network() -> None:
    assert np.abs(_features(_random_network(0), np.full((64, 64), 4095))).max() == 0.0


def test_noise_fields_of_every_brightness_look_alike() -> None:
    random = np.random.default_rng(2)
    network = _random_network(0)
    spreads = [
        _features(network, np.rint(random.normal(level, level / 50, (256, 256)))).std()
        for level in (200.0, 2000.0, 20000.0)
    ]
    assert max(spreads) < 1.2 * min(spreads)
    assert max(spreads) < 1.0


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="reduction is 3"):
        Architecture(reduction=3)
    with pytest.raises(InputError, match="stem is 'max'; the network knows mean, variance"):
        Architecture(stem="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs blocks of 2 or 4"):
        Architecture(reduction=1)
    with pytest.raises(InputError, match="not one of ours"):
        Architecture.from_dict({"depth": 4})


def test_architecture_goes_into_a_card_and_back() -> None:
    for architecture in (Architecture(), PUBLISHED):
        assert Architecture.from_dict(architecture.as_dict()) == architecture
    first = Architecture.from_dict({"base_channels": 16, "levels": 3, "reduction": 4})
    assert (first.stem, first.noise, first.norm) == ("variance", "median", "batch")


@pytest.mark.parametrize(
    "shape", [(1, 64, 64), (3, 65, 99), (1, 127, 64), (2, 200, 333), (1, 96, 71)]
)
def test_exported_graph_equals_torch_at_any_size(
    shape: tuple[int, int, int], template: Path, tmp_path: Path
) -> None:
    network = _random_network(3)
    file = tmp_path / "model.onnx"
    export_onnx(network, file, name="test-1", template=template)
    counts = np.random.default_rng(4).integers(0, 4096, shape).astype(np.uint16)
    counts[:, 10:40, 20:50] += 20000
    mask, probability = open_session(file).run(None, {"z_slice": counts})
    with torch.inference_mode():
        want_mask, want_probability = network(torch.from_numpy(counts))
    assert mask.shape == shape
    assert probability.shape == (shape[0], -(-shape[1] // 4), -(-shape[2] // 4))
    assert mask.dtype == probability.dtype == np.uint8
    assert np.abs(probability.astype(int) - want_probability.numpy()).max() <= 1
    assert np.mean(mask != want_mask.numpy()) < 1e-3
    assert set(np.unique(mask)) <= {0, 1}


def test_mask_is_probability_at_threshold_enlarged_by_blocks(
    template: Path, tmp_path: Path
) -> None:
    export_onnx(_random_network(5), tmp_path / "m.onnx", name="test-1", template=template)
    counts = np.random.default_rng(6).integers(0, 4096, (1, 130, 90)).astype(np.uint16)
    mask, probability = open_session(tmp_path / "m.onnx").run(None, {"z_slice": counts})
    enlarged = probability.repeat(4, axis=1).repeat(4, axis=2)[:, :130, :90]
    decided = np.abs(enlarged.astype(float) - 127.5) > 0.6  # rounding may hide which side
    np.testing.assert_array_equal(mask[decided], enlarged[decided] >= 128)


def test_folded_network_equals_the_trained_one() -> None:
    network = _random_network(7)
    counts = torch.randint(0, 4096, (1, 96, 96)).float()
    with torch.inference_mode():
        torch.testing.assert_close(
            fold(network).logits(counts), network.logits(counts), rtol=1e-3, atol=1e-3
        )


def test_export_that_differs_from_torch_is_refused_and_removed(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfocus_live.model.export._graft", lambda *_: None)
    with pytest.raises(ExportMismatchError, match="differs from torch"):
        export_onnx(_random_network(8), tmp_path / "m.onnx", name="test-1", template=template)
    assert not (tmp_path / "m.onnx").exists()


def test_statistics_are_named_values_of_the_graph_and_no_outputs(
    template: Path, tmp_path: Path
) -> None:
    export_onnx(_random_network(9), tmp_path / "m.onnx", name="test-1", template=template)
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert [output.name for output in model.graph.output] == ["mask", "probability"]
    shapes = {value.name: value.type.tensor_type for value in model.graph.value_info}
    for name in STATISTICS:
        assert shapes[name].elem_type == onnx.TensorProto.FLOAT
        assert [dim.dim_param for dim in shapes[name].shape.dim] == ["N"]
    # Seen as outputs they are what numpy measures.
    model.graph.output.extend(model.graph.value_info)
    counts = np.random.default_rng(1).integers(0, 4096, (2, 130, 90)).astype(np.uint16)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    levels, variances = session.run(list(STATISTICS), {"z_slice": counts})
    for z_slice, level, variance in zip(counts, levels, variances, strict=True):
        measured = measure_statistics(z_slice, reduction=4, noise="diagonal")
        np.testing.assert_allclose(measured, (level, variance), rtol=1e-5)


def test_exported_file_describes_itself_and_names_no_folder(template: Path, tmp_path: Path) -> None:
    export_onnx(_random_network(9), tmp_path / "m.onnx", name="test-1", template=template)
    described = open_session(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert described["name"] == "test-1"
    assert described["format_version"] == "1"
    assert described["reduction"] == "4"
    assert float(described["threshold"]) == 0.5
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_network_of_another_architecture_is_traced_anew(tmp_path: Path) -> None:
    architecture = replace(PUBLISHED, base_channels=4, levels=2)
    torch.manual_seed(0)
    network = FocusNetwork(architecture).eval()
    # The export compares with torch by itself, at three sizes.
    export_onnx(network, tmp_path / "m.onnx", name="small", template=None)
    session = open_session(tmp_path / "m.onnx")
    mask, probability = session.run(None, {"z_slice": np.zeros((1, 65, 70), np.uint16)})
    assert mask.shape == (1, 65, 70)
    r = architecture.reduction
    assert probability.shape == (1, -(-65 // r), -(-70 // r))
    if architecture.norm == "instance":
        with pytest.raises(InputError, match="cannot be run in tiles"):
            TiledEngine(tmp_path / "m.onnx")
        return
    counts = np.random.default_rng(0).integers(0, 4096, (301, 203), dtype=np.uint16)
    in_tiles = TiledEngine(tmp_path / "m.onnx", threads=1, tile_px=64).run(counts)
    for whole, tiled in zip(session.run(None, {"z_slice": counts[None]}), in_tiles, strict=True):
        assert np.abs(whole[0].astype(int) - tiled).max() <= 1
