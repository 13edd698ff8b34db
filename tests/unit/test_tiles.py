"""Large slices in tiles: the answer of the whole slice, without seams, in a tile's memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy import ndimage

from deepfocus_live.errors import InputError
from deepfocus_live.inference._engine import EngineError, OutOfMemoryError
from deepfocus_live.inference._tiles import TiledEngine, _cut, _Grid
from deepfocus_live.model import MIN_SIDE, STATISTICS, Registry, measure_statistics, open_session
from deepfocus_live.model.export import export_onnx
from deepfocus_live.model.network import PUBLISHED, Architecture, BlockStem, FocusNetwork
from deepfocus_live.model.weights import load_network


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graph that can be cut: the shipped one, else one traced once."""
    shipped = Registry().shipped_version().onnx
    if _names(shipped).issuperset(STATISTICS):
        return shipped
    path = tmp_path_factory.mktemp("traced") / "model.onnx"
    export_onnx(FocusNetwork(Architecture()), path, name="traced")
    return path


@pytest.fixture(scope="module")
def outspoken(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shipped network with a head that is in two minds about textured noise.

    What the shipped one thinks of it changes with every training.
    """
    path = tmp_path_factory.mktemp("outspoken") / "model.onnx"
    network = load_network(Registry().shipped_version()).eval()
    with torch.inference_mode():
        logits = network.logits(torch.from_numpy(_textured(300, 200).astype(np.float32))[None])
        middle, spread = float(logits.median()), float(logits.std())
        head = network.unet.head
        head.bias.copy_((head.bias - middle) * 2.0 / spread)
        head.weight.mul_(2.0 / spread)
        network.threshold.fill_(127.5)
    export_onnx(network, path, name="outspoken", template=template)
    return path


def _names(path: Path) -> set[str]:
    return {name for node in onnx.load(str(path)).graph.node for name in node.output}


def _textured(height: int, width: int) -> np.ndarray:
    """Return noise with detail that comes and goes over the field."""
    random = np.random.default_rng(0)
    share = ndimage.gaussian_filter(random.normal(0.0, 1.0, (height, width)), 40)
    share = np.clip(share / share.std(), 0.0, None)
    detail = ndimage.gaussian_filter(random.normal(0.0, 1.0, (height, width)), 1)
    noise = random.normal(0.0, 20.0, (height, width))
    return (2000.0 + 300.0 * share + 800.0 * share * detail + noise).clip(0).astype(np.uint16)


def _whole(path: Path, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask, probability = open_session(path).run(None, {"z_slice": counts[np.newaxis]})
    return mask[0], probability[0]


@pytest.mark.parametrize(
    ("shape", "tile_px"),
    [
        pytest.param((700, 1100), 256, id="tiles of 256"),
        pytest.param((515, 641), 100, id="off every grid, and one pixel over it"),
        pytest.param((64, 577), 1, id="as low as may be, tiles as small as may be"),
        pytest.param((300, 200), 2048, id="less than a tile"),
    ],
)
def test_answer_in_tiles_is_the_answer_of_the_whole(
    shape: tuple[int, int], tile_px: int, outspoken: Path
) -> None:
    counts = _textured(*shape)
    mask, probability = TiledEngine(outspoken, threads=1, tile_px=tile_px).run(counts)
    whole_mask, whole_probability = _whole(outspoken, counts)
    assert mask.dtype == probability.dtype == np.uint8
    assert mask.shape == whole_mask.shape
    assert probability.shape == whole_probability.shape
    assert np.abs(probability.astype(int) - whole_probability).max() <= 1
    assert np.mean(mask != whole_mask) <= 1e-4
    assert np.ptp(whole_probability) > 100  # there was something to get wrong


@pytest.mark.parametrize("corner", [0, 2], ids=["from above and left", "from below and right"])
def test_no_pixel_sees_beyond_the_overlap(corner: int, template: Path, tmp_path: Path) -> None:
    # Each convolution looks at one neighbour only, always to the same side, and nothing takes the
    # short way: what is answered here was seen as far away as this network can see.
    network = FocusNetwork(Architecture()).eval()
    for module in network.unet.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.weight)
            tap = corner if module.kernel_size == (3, 3) else 0
            module.weight.data[0, 0, tap, tap] = 1.0
    network.unet.head.weight.data[:] = 0.0
    network.unet.head.weight.data[0, 0] = 1.0
    torch.nn.init.zeros_(network.unet.head.bias)
    torch.nn.init.constant_(network.unet.encoders[0][1].bias, 1.0)
    for narrow in network.unet.narrow:
        torch.nn.init.zeros_(narrow.bias)
    export_onnx(network, tmp_path / "m.onnx", name="far", template=template)
    counts = _textured(420, 450)
    engine = TiledEngine(tmp_path / "m.onnx", threads=1, tile_px=128)
    whole = _whole(tmp_path / "m.onnx", counts)[1]
    assert np.abs(engine.run(counts)[1].astype(int) - whole).max() <= 1
    assert whole.std() > 5
    engine._grid.overlap -= engine._grid.step
    assert np.abs(engine.run(counts)[1].astype(int) - whole).max() > 5


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(),
        Architecture(noise="median", stem="variance"),
        Architecture(reduction=2),
        Architecture(reduction=2, noise="median"),
        Architecture(reduction=1, stem="mean"),
        Architecture(reduction=1, stem="mean", noise="median"),
        PUBLISHED,
    ],
    ids=lambda a: f"{a.reduction}-{a.noise}-{a.norm}",
)
@pytest.mark.parametrize("shape", [(64, 64), (301, 517)])
def test_statistics_are_those_the_network_measures(
    architecture: Architecture, shape: tuple[int, int]
) -> None:
    counts = _textured(*shape) + np.uint16(60000)
    stem, tensor = BlockStem(architecture), torch.from_numpy(counts.astype(np.float32))[None]
    wanted = [float(value) for value in stem.noise(tensor, stem(tensor))]
    measured = measure_statistics(
        counts, reduction=architecture.reduction, noise=architecture.noise
    )
    np.testing.assert_allclose(measured, wanted, rtol=1e-5)
    assert all(value.dtype == np.float32 for value in measured)


@pytest.mark.parametrize("step", [2, 8, 32, 128])
@pytest.mark.parametrize("tile_px", [1, 100, 2048])
def test_tiles_cover_every_pixel_once_with_overlap_and_on_the_grid(step: int, tile_px: int) -> None:
    grid = _Grid(step, tile_px)
    for length in (64, 65, 127, 1000, 2048, 2049, 4097):
        spans = grid.spans(length)
        covered = np.zeros(length, int)
        for span in spans:
            covered[span.kept(1)] += 1
            assert span.first % step == span.start % step == 0
            assert span.first in (0, span.start - grid.overlap)
            assert span.last in (length, span.stop + grid.overlap)
            assert MIN_SIDE <= span.last - span.first
            assert span.stop - span.start <= max(tile_px, step)
        assert (covered == 1).all()


def test_answers_belong_to_the_caller(outspoken: Path) -> None:
    engine = TiledEngine(outspoken, threads=1, tile_px=64)
    counts = _textured(130, 150)
    mask, probability = engine.run(counts)
    kept = mask.copy(), probability.copy()
    engine.run(np.zeros_like(counts))
    np.testing.assert_array_equal(mask, kept[0])
    np.testing.assert_array_equal(probability, kept[1])
    assert engine.provider == "CPUExecutionProvider in tiles"


def test_nothing_of_what_looks_at_the_whole_slice_is_left_in_a_tile(template: Path) -> None:
    model = onnx.load(str(template))
    assert [output.name for output in model.graph.output] == ["mask", "probability"]
    whole = len(model.graph.node)
    _cut(model)
    onnx.checker.check_model(model)
    assert [given.name for given in model.graph.input] == ["z_slice", *STATISTICS]
    assert len(model.graph.node) < whole
    assert not {"TopK", "ReduceMean"} & {node.op_type for node in model.graph.node}


def _without_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = "value_7" if name in STATISTICS else name


def _with_instance_normalisation(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"norm": "batch"', '"norm": "instance"')


def _without_description(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_names, "exported by an older version; retrain or export it again"),
        (_without_description, "exported by an older version"),
        (_with_instance_normalisation, "instance normalisation.* cannot be run in tiles"),
    ],
)
def test_graphs_that_cannot_be_cut_or_tiled_are_refused(
    change: object, words: str, template: Path, tmp_path: Path
) -> None:
    assert callable(change)
    model = onnx.load(str(template))
    change(model)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match=words) as refused:
        TiledEngine(tmp_path / "m.onnx")
    assert str(refused.value).startswith(str(tmp_path / "m.onnx"))
    assert "\n" not in str(refused.value)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such model file"):
        TiledEngine(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be opened as an ONNX model"):
        TiledEngine(tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (RuntimeError("Failed to allocate memory for requested buffer"), OutOfMemoryError),
        (MemoryError("Unable to allocate 64 MiB"), OutOfMemoryError),
        (RuntimeError("CUDA failure 719: unspecified launch failure"), EngineError),
    ],
    ids=["of the runtime", "of the answer", "device lost"],
)
def test_failures_are_told_as_the_engines(
    raised: Exception, told: type[EngineError], outspoken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def run(self, *_: object) -> None:
            raise raised

    engine = TiledEngine(outspoken, threads=1)
    monkeypatch.setattr(engine, "_session", Failing())
    with pytest.raises(EngineError) as caught:
        engine.run(np.zeros((64, 64), np.uint16))
    assert type(caught.value) is told


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_reach_holds_for_networks_of_every_depth(levels: int, upsampling: str) -> None:
    architecture = replace(Architecture(base_channels=2, levels=levels), upsampling=upsampling)
    torch.manual_seed(0)
    unet = FocusNetwork(architecture).eval().unet
    for parameter in unet.parameters():
        parameter.data.abs_()  # nothing is cut off by a ReLU
    step = 2**levels
    features = torch.rand(1, 17, 17 * step, 17 * step, requires_grad=True)
    kept = slice(8 * step, 9 * step)
    unet(features)[0, 0, kept, kept].sum().backward()
    seen = np.flatnonzero(features.grad.abs().sum((0, 1, 2)).numpy())
    above, below = kept.start - seen.min(), seen.max() + 1 - kept.stop
    assert 3 * step < above <= 6 * step
    assert 3 * step < below <= 6 * step
