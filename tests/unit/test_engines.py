"""Engines: whatever runs the network, the answer is the same, and shortage is told as such."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference import _choice, _cuda, _onnxruntime, _openvino
from deepfocus_live.inference._by_shape import ByShape
from deepfocus_live.inference._choice import Trial, decide, open_faster_on_cpu
from deepfocus_live.inference._engine import Answer, Engine, EngineError, OutOfMemoryError
from deepfocus_live.inference._failures import told_as_engine_errors
from deepfocus_live.inference._onnxruntime import CPU, OnnxRuntimeEngine
from deepfocus_live.inference._openvino import OpenVinoEngine
from deepfocus_live.inference._providers import open_engine, why_no_cuda
from deepfocus_live.inference._sample import MOST_DIFFERING, differing, made_slice
from deepfocus_live.model import Registry, open_session
from deepfocus_live.simulation import simulate_focal_stack

MODEL = Registry(Path("nowhere")).shipped_version().onnx
SHAPES = [(64, 64), (101, 75), (130, 257)]


@pytest.fixture(scope="module")
def plain() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(MODEL, device="cpu", threads=1)


@pytest.fixture(scope="module")
def openvino() -> OpenVinoEngine:
    return OpenVinoEngine(MODEL, threads=1)


@pytest.fixture(params=["plain", "openvino"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint16]:
    stack = simulate_focal_stack("organoid_layer", shape=(3, 257, 257), z_step_um=12.0, seed=77)
    return np.stack([np.asarray(z_slice, np.uint16) for z_slice in stack.slices])


def same_answer(one: Engine, other: Engine, counts: NDArray[np.uint16]) -> None:
    answers = one.run(counts), other.run(counts)
    for got, expected in zip(*answers, strict=True):
        np.testing.assert_array_equal(got, expected)
    # What the network thinks of a slice is for its teachers to test; that it ran is seen here.
    assert np.ptp(answers[0][1]) > 0


@pytest.fixture
def choices(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plain: OnnxRuntimeEngine,
    openvino: OpenVinoEngine,
) -> Path:
    """Let choices, between engines that are open already, be remembered in a file of this test."""
    file = tmp_path / "cache" / "inference.json"
    monkeypatch.setattr(_choice, "remembered_choices", lambda: file)
    monkeypatch.setattr(_choice, "OnnxRuntimeEngine", lambda *args, **options: plain)
    monkeypatch.setattr(_choice, "OpenVinoEngine", lambda *args, **options: openvino)
    return file


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Trial]]:
    """Return what the comparisons to come will measure, in their order."""
    planned: list[Trial] = []
    monkeypatch.setattr(_choice, "compare", lambda cpu, openvino: planned.pop(0))
    yield planned
    assert planned == []


FASTER, SLOWER = Trial(10.0, 5.0, 0.0), Trial(10.0, 20.0, 0.0)


def of_all_shapes(frames: NDArray[np.uint16]) -> Iterator[NDArray[np.uint16]]:
    for frame in frames:
        for height, width in SHAPES:
            yield np.ascontiguousarray(frame[-height:, -width:])


def test_engines_give_what_a_plain_session_gives(
    plain: OnnxRuntimeEngine, openvino: OpenVinoEngine, frames: NDArray[np.uint16]
) -> None:
    session = onnxruntime.InferenceSession(str(MODEL), providers=[CPU])
    seen = set()
    for counts in [*of_all_shapes(frames), made_slice(200)]:
        mask, probability = (array[0] for array in session.run(None, {"z_slice": counts[None]}))
        seen |= set(np.unique(mask))
        for engine in (plain, openvino):
            got = engine.run(counts)
            assert (got[0].dtype, got[0].shape) == (mask.dtype, mask.shape)
            assert (got[1].dtype, got[1].shape) == (probability.dtype, probability.shape)
            # A processor that computes in half precision is let do so where the masks of a large
            # slice are the same; of a small one a few pixels are a larger part.
            half = engine.provider.endswith("16")
            assert differing(got[0], mask) <= (3 if half else 1) * MOST_DIFFERING
            assert np.abs(got[1].astype(int) - probability).max() <= (8 if half else 1)
    assert seen == {0, 1}


def test_results_belong_to_the_caller_and_slices_may_be_read_only(engine: Engine) -> None:
    counts = made_slice(96)
    counts.flags.writeable = False
    first = engine.run(counts)
    kept = [array.copy() for array in first]
    engine.run(np.zeros((96, 96), np.uint16))
    for array, copy in zip(first, kept, strict=True):
        assert array.flags.writeable
        np.testing.assert_array_equal(array, copy)
    assert np.ptp(kept[1]) > 0


def test_engines_keep_the_last_three_shapes(plain: OnnxRuntimeEngine) -> None:
    for side in (64, 65, 66, 64, 67, 64):
        plain.run(np.zeros((side, 70), np.uint16))
        assert len(plain._bound) <= 3
    assert list(plain._bound._kept) == [(66, 70), (67, 70), (64, 70)]


def test_an_engine_opened_for_a_shape_makes_one_session(
    plain: OnnxRuntimeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    really = onnxruntime.InferenceSession

    def make(*given: Any, **named: Any) -> Any:
        made.append(really(*given, **named))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    engine = OnnxRuntimeEngine(MODEL, device="cpu", shape=(71, 83))
    counts = made_slice(100)[:71, :83].copy()
    engine.run(counts)
    assert [one.get_inputs()[0].shape for one in made] == [[1, 71, 83]]
    same_answer(engine, plain, counts)


def test_sessions_know_their_shape(plain: OnnxRuntimeEngine) -> None:
    session = plain._session((71, 83), [CPU])
    assert session.get_inputs()[0].shape == [1, 71, 83]


def test_the_longest_unused_is_dropped_before_another_is_made() -> None:
    kept: ByShape[str] = ByShape()
    held: list[int] = []

    def make(shape: tuple[int, ...]) -> str:
        held.append(len(kept))
        return str(shape)

    for side in (1, 2, 3, 1, 4):
        assert kept.at((side, side), make) == f"({side}, {side})"
    assert held == [0, 1, 2, 2]  # the second time 1 came it was there
    assert list(kept._kept) == [(3, 3), (1, 1), (4, 4)]


def test_engines_name_what_really_runs(plain: OnnxRuntimeEngine, openvino: OpenVinoEngine) -> None:
    assert plain.provider == "CPUExecutionProvider"
    assert openvino.provider in {f"OpenVINO CPU, {name}" for name in ("f32", "bf16", "f16")}
    assert openvino.metadata == plain.metadata
    assert plain.metadata["reduction"] == "4"


def test_model_file_may_vanish_once_it_is_open(tmp_path: Path, plain: OnnxRuntimeEngine) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(MODEL.read_bytes())
    engine = OnnxRuntimeEngine(file, device="cpu", threads=1)
    file.unlink()
    same_answer(engine, plain, made_slice(96))


@pytest.mark.parametrize("provider", ["auto", "cpu", "openvino"])
@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such model file"), (b"nothing", "cannot be opened")]
)
def test_files_that_are_no_model_are_refused(
    provider: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_engine(file, provider=provider)


def test_unknown_provider_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError) as refusal:
        open_engine(MODEL, provider="tpu")
    said = "provider 'tpu' is unknown; use 'auto', 'cpu', 'cuda' or 'openvino'"
    assert str(refusal.value) == said


def test_openvino_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'openvino'")

    monkeypatch.setattr(_openvino, "_openvino", absent)
    why = _openvino.why_no_openvino.__wrapped__
    monkeypatch.setattr(_openvino, "why_no_openvino", why)
    with pytest.raises(InputError, match=r"'openvino' cannot be had: .*\[openvino\]"):
        open_engine(MODEL, provider="openvino")


@pytest.mark.skipif(why_no_cuda() is None, reason="CUDA may be had here")
def test_cuda_without_a_driver_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=rf"'cuda' cannot be had: {why_no_cuda()[:20]}"):  # type: ignore[index]
        open_engine(MODEL, provider="cuda")


@pytest.mark.skipif(
    why_no_cuda() is None or _cuda.CUDA not in onnxruntime.get_available_providers(),
    reason="needs ONNX Runtime's CUDA build and no GPU",
)
def test_cuda_session_that_falls_back_is_refused_in_silence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_onnxruntime, "why_no_cuda", lambda: None)
    asked = []

    def spied(path: Path, options: object, providers: list[str]) -> object:
        asked.append(providers)
        return open_session(path, options, providers)

    monkeypatch.setattr(_onnxruntime, "open_session", spied)
    with pytest.raises(InputError, match=r"'cuda' cannot be had: .*\[cuda\]"):
        open_engine(MODEL, provider="cuda")
    assert capfd.readouterr() == ("", "")
    assert asked == [[_cuda.CUDA, CPU]]


def test_buffers_on_a_device_give_what_bound_memory_gives(plain: OnnxRuntimeEngine) -> None:
    # The device is the CPU here; a GPU's buffers have the same interface.
    counts = made_slice(130)
    session = plain._session(counts.shape, [CPU])
    buffered = _onnxruntime._OnDevice(session, "cpu", counts.shape, (33, 33))
    buffered.run(np.zeros_like(counts))
    for got, wanted in zip(buffered.run(counts), plain.run(counts), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("refusal", "tried"),
    [
        pytest.param(EngineError("capture refused"), [True, False], id="graph-refused"),
        pytest.param(OutOfMemoryError("full"), [True], id="memory-full"),
    ],
)
def test_cuda_graph_that_is_refused_is_done_without(
    refusal: EngineError,
    tried: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    plain: OnnxRuntimeEngine,
) -> None:
    engine = OnnxRuntimeEngine(MODEL, device="cpu", threads=1)
    engine.provider = _cuda.CUDA
    seen = []

    def bind(shape: tuple[int, ...], low: tuple[int, ...], *, captured: bool) -> object:
        seen.append(captured)
        if captured:
            raise refusal
        return _onnxruntime._OnCpu(engine._session(shape, [CPU]), low)

    monkeypatch.setattr(engine, "_bind_on_cuda", bind)
    if False in tried:
        same_answer(engine, plain, made_slice(96))
    else:
        with pytest.raises(OutOfMemoryError):
            engine.run(made_slice(96))
    assert seen == tried


def test_openvino_cut_in_two_gives_what_the_whole_gives(
    openvino: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "_low_precisions", lambda self: ["bf16"])
    cut = OpenVinoEngine(MODEL, threads=1)
    counts = made_slice(512)
    got, wanted = cut.run(counts), openvino.run(counts)
    assert len(cut._compiled.at(counts.shape, cut._compile)._requests) == 2
    assert differing(got[0], wanted[0]) <= MOST_DIFFERING
    assert np.abs(got[1].astype(int) - wanted[1]).max() <= 1
    assert np.ptp(wanted[1]) > 0


def test_openvino_stays_in_float32_where_half_gives_another_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "_low_precisions", lambda self: ["f16"])
    monkeypatch.setattr(_openvino, "differing", lambda *masks: 0.003)
    engine = OpenVinoEngine(MODEL, threads=1)
    assert engine.provider == "OpenVINO CPU, f32"
    assert len(engine._compiled) == 1  # what was tried is kept for use
    for shape in ((512, 512), (64, 64)):
        assert len(engine._compiled.at(shape, engine._compile)._requests) == 1


def test_graph_without_a_unet_is_not_cut(openvino: OpenVinoEngine) -> None:
    model = openvino._model.clone()
    model.reshape([1, 64, 64])
    for node in model.get_ordered_ops():
        node.set_friendly_name(f"other {node.get_friendly_name()}")
    assert _openvino.split_before_unet(model) == [model]


def test_openvino_runs_in_silence_and_reports_to_nobody(tmp_path: Path) -> None:
    code = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from deepfocus_live.inference._openvino import OpenVinoEngine\n"
        "OpenVinoEngine(Path(sys.argv[1])).run(numpy.zeros((64, 64), numpy.uint16))\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(MODEL)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("trial", "chosen"),
    [
        pytest.param(Trial(10.0, 9.4, 0.0), "openvino", id="faster"),
        pytest.param(Trial(10.0, 9.6, 0.0), "cpu", id="hardly-faster"),
        pytest.param(Trial(10.0, 30.0, 0.0), "cpu", id="slower"),
        pytest.param(Trial(10.0, 5.0, 0.002), "openvino", id="nearly-the-same-mask"),
        pytest.param(Trial(10.0, 5.0, 0.0021), "cpu", id="another-mask"),
    ],
)
def test_openvino_is_taken_if_clearly_faster_and_right(trial: Trial, chosen: str) -> None:
    assert decide(trial) == chosen


class Timed:
    """An engine that takes as long as it is told."""

    provider = "made up"

    def __init__(self, milliseconds: float, mask: int) -> None:
        self.seconds, self.mask = milliseconds / 1e3, mask

    def run(self, counts: NDArray[np.uint16]) -> Answer:
        time.sleep(self.seconds)
        return np.full(counts.shape, self.mask, np.uint8), np.zeros((1, 1), np.uint8)


def test_comparison_tells_times_and_masks() -> None:
    trial = _choice.compare(Timed(1.0, 0), Timed(20.0, 1))
    assert 1.0 <= trial.cpu_ms < trial.openvino_ms
    assert trial.openvino_ms >= 20.0
    assert trial.differing == 1.0


@pytest.mark.parametrize(
    ("trial", "provider"), [(FASTER, "OpenVINO CPU"), (SLOWER, "CPUExecutionProvider")]
)
def test_choice_is_measured_once_and_remembered(
    trial: Trial, provider: str, choices: Path, trials: list[Trial]
) -> None:
    trials.append(trial)  # one comparison; a second would find none planned
    for _ in range(2):
        assert open_faster_on_cpu(MODEL, threads=1).provider.startswith(provider)
    assert [file.name for file in choices.parent.iterdir()] == ["inference.json"]


def test_another_number_of_threads_is_measured_anew(choices: Path, trials: list[Trial]) -> None:
    trials += [SLOWER, SLOWER]
    for threads in (1, 2):
        open_faster_on_cpu(MODEL, threads=threads)
    assert len(json.loads(choices.read_text(encoding="utf-8"))) == 2


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b'{"other": 3}'])
def test_damaged_memory_is_measured_anew_and_mended(
    content: bytes, choices: Path, trials: list[Trial]
) -> None:
    choices.parent.mkdir()
    choices.write_bytes(content)
    trials.append(SLOWER)
    open_faster_on_cpu(MODEL, threads=1)
    assert "cpu" in json.loads(choices.read_text(encoding="utf-8")).values()


def test_memory_that_cannot_be_written_is_no_error(choices: Path, trials: list[Trial]) -> None:
    choices.parent.write_bytes(b"a file where the folder should be")
    trials += [SLOWER, SLOWER]
    for _ in range(2):
        assert open_faster_on_cpu(MODEL, threads=1).provider == CPU


def test_memory_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "inference.json"
    for number in range(40):
        _choice._remember(file, f"machine {number}", "cpu")
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert len(kept) == 32
    assert "machine 39" in kept


def test_openvino_that_fails_is_not_chosen_nor_remembered(
    choices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*engines: Engine) -> Trial:
        raise OutOfMemoryError("full")

    monkeypatch.setattr(_choice, "compare", fails)
    assert open_faster_on_cpu(MODEL, threads=1).provider == CPU
    assert not choices.exists()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            RuntimeError(
                "Non-zero status code returned while running Mul node. Status Message: "
                "/src/bfc_arena.cc:360 void* Arena::Raw(size_t, bool) Failed to allocate memory"
            ),
            OutOfMemoryError,
            "R: Failed to allocate memory",
        ),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), OutOfMemoryError, None),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), OutOfMemoryError, None),
        (RuntimeError("Status Message: bad allocation"), OutOfMemoryError, "R: bad allocation"),
        (MemoryError(), OutOfMemoryError, "R: MemoryError"),
        (
            RuntimeError("Exception from src/core.cpp:117:\nFailed to allocate 64 bytes\n\n"),
            OutOfMemoryError,
            "R: Failed to allocate 64 bytes",
        ),
        (RuntimeError("CUDA failure 719: launch failure"), EngineError, None),
        (OutOfMemoryError("as it is"), OutOfMemoryError, "as it is"),
    ],
)
def test_runtimes_failures_are_told_as_ours(
    error: Exception, kind: type[EngineError], said: str | None
) -> None:
    with pytest.raises(EngineError) as told, told_as_engine_errors("R"):
        raise error
    assert type(told.value) is kind
    assert said is None or str(told.value) == said
    assert told.value is error or told.value.__cause__ is error


_SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, psutil
from deepfocus_live.inference._engine import OutOfMemoryError
from deepfocus_live.inference._onnxruntime import OnnxRuntimeEngine

engine = OnnxRuntimeEngine(Path(sys.argv[1]), device="cpu", threads=1)
small = np.zeros((96, 96), np.uint16)
engine.run(small)
limit = psutil.Process().memory_info().vms + (32 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    engine.run(np.zeros((2048, 2048), np.uint16))
except OutOfMemoryError as error:
    print(error)
print(engine.run(small)[0].shape, len(engine._bound))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit that only Linux keeps")
def test_memory_that_runs_out_is_told_and_survived() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY, str(MODEL)],
        capture_output=True,
        text=True,
        check=True,
    )
    told, after = done.stdout.splitlines()
    assert told.startswith("ONNX Runtime: ")
    assert "alloc" in told
    assert after == "(96, 96) 1"  # and what other shapes held was given back
