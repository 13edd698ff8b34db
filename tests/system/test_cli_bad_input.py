"""What the user gets wrong: one line with what, where and what to do, exit code 2, no leftovers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deepfocus_live._platform import RUNTIME_DIR_VARIABLE
from deepfocus_live.cli._main import main

SHAPE = (5, 80, 96)
Prepare = Callable[[Path], list[object]]
"""Makes what a case needs in an empty folder; returns the command line."""


# --- what is wrong ------------------------------------------------------------------------


def pixels(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint16]:
    """Return noise of a camera."""
    return np.random.default_rng(0).integers(90, 4000, shape).astype(np.uint16)


def stack(folder: Path, name: str = "stack.tif", z_stack: NDArray[Any] | None = None) -> Path:
    """Write a TIFF; a good stack where nothing else is given."""
    path = folder / name
    tifffile.imwrite(path, pixels() if z_stack is None else z_stack, photometric="minisblack")
    return path


def truncated_stack(folder: Path) -> Path:
    path = stack(folder)
    path.write_bytes(path.read_bytes()[:-30_000])
    return path


def folder_of_two_sizes(folder: Path) -> Path:
    inside = folder / "slices"
    inside.mkdir()
    for z, width in enumerate((96, 96, 90)):
        stack(inside, f"z{z}.tif", pixels((80, width)))
    return inside


def text(folder: Path, name: str, content: str) -> Path:
    """Write a text file."""
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def below_a_file(folder: Path) -> Path:
    """Return a path that nobody can make, not even an administrator."""
    return text(folder, "file", "in the way") / "runs"


def model_of_others(folder: Path) -> Path:
    """Write a sound ONNX model that takes and gives something else."""
    said = (
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, None, None]),
        helper.make_tensor_value_info("cells", TensorProto.FLOAT, [1, 1, None, None]),
    )
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["cells"])], "theirs", [said[0]], [said[1]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "theirs.onnx"
    onnx.save(model, str(path))
    return path


DEMO_CAMERA = """\
Property,Core,Initialize,0
Device,Camera,DemoCamera,DCam
Device,Z,DemoCamera,DStage
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Core,Focus,Z
"""
Z_SCAN = "z_plan: {bottom: 0, top: 4, step: 1}\n"


def acquire(
    folder: Path, *more: object, mm_config: str = DEMO_CAMERA, sequence: str = Z_SCAN
) -> list[object]:
    """Return an `acquire` of what the two files say."""
    paths = text(folder, "scope.cfg", mm_config), text(folder, "scan.yaml", sequence)
    return ["acquire", "--mm-config", paths[0], "--sequence", paths[1], *more]


def config(folder: Path, content: str) -> list[object]:
    """Return a `start` with a configuration file."""
    return ["start", "--config", text(folder, "own.yaml", content), "--output", folder / "out"]


def segment(folder: Path, path: Path, *more: object) -> list[object]:
    """Return a `segment` of a path."""
    return ["segment", path, "-o", folder / "out.ome.zarr", *more]


def label(folder: Path, path: Path, *more: object) -> list[object]:
    """Return a `label` of a path."""
    return ["label", path, "-o", folder / "out.ome.zarr", *more]


def projected_before(folder: Path) -> list[object]:
    """Return a `label --projection` where a depth map lies already."""
    (folder / "out_depth_slices.ome.zarr").mkdir()
    return label(folder, stack(folder), "--projection")


def retrain(folder: Path, path: Path, *more: object) -> list[object]:
    """Return a short `retrain` on a path, into a registry of its own."""
    return ["retrain", path, "--models", folder / "models", "--minutes", "0.1", *more]


def demo(folder: Path, *paths: Path) -> list[object]:
    """Return a `demo` of paths."""
    return ["demo", *paths, "--headless", "--output", folder / "out"]


# --- the cases: what to do, and what the one line must say ----------------------------------

STACKS = {
    "missing": (lambda folder: folder / "no.tif", ("no.tif", "no such file", "check the path")),
    "truncated": (truncated_stack, ("stack.tif", "truncated", "copy or export it again")),
    "2-D": (
        lambda folder: stack(folder, z_stack=pixels((80, 96))),
        ("stack.tif", "2-D", "at least 2 slices"),
    ),
    "no-tiff": (
        lambda folder: text(folder, "notes.tif", "z 3 is best"),
        ("notes.tif", "is not a TIFF", "export it again"),
    ),
    "slices-of-two-sizes": (folder_of_two_sizes, ("z2.tif", "80 x 90", "80 x 96", "crop")),
    "float-pixels": (
        lambda folder: stack(folder, z_stack=pixels().astype(np.float64)),
        ("stack.tif", "float64", "convert"),
    ),
}
READERS: dict[str, Callable[..., list[object]]] = {
    "segment": segment,
    "label": label,
    "retrain": retrain,
    "demo": demo,
}
STACK_CASES = [
    pytest.param(
        lambda folder, read=read, make=make: read(folder, make(folder)),
        says,
        id=f"{command}-{name}",
    )
    for command, read in READERS.items()
    for name, (make, says) in STACKS.items()
]

CASES: list[tuple[str, Prepare, tuple[str, ...]]] = [
    # the command line itself
    ("unknown-command", lambda _: ["segmnt"], ("segmnt", "'segment'")),
    ("unknown-option", lambda _: ["start", "--prot", "1"], ("--prot", "--port")),
    ("missing-argument", lambda _: ["segment"], ("Missing argument", "STACK")),
    ("missing-option", lambda _: ["acquire"], ("Missing option", "--mm-config")),
    ("port-in-words", lambda _: ["start", "--port", "http"], ("--port", "integer")),
    (
        "unknown-provider",
        lambda f: segment(f, stack(f), "--provider", "tpu"),
        ("--provider", "tpu", "cuda"),
    ),
    # configuration
    (
        "unknown-key",
        lambda f: config(f, "storage:\n  codek: lz4\n"),
        ("own.yaml", "`storage.codek`", "Did you mean `codec`"),
    ),
    (
        "unknown-key-in-profile",
        lambda f: config(f, "profiles:\n  dic:\n    wavelength: 500\n"),
        ("own.yaml", "`profiles.dic.wavelength`", "Did you mean `wavelength_nm`"),
    ),
    (
        "wrong-type",
        lambda f: config(f, "web:\n  port: eighty\n"),
        ("own.yaml", "`web.port`", "'eighty'", "integer"),
    ),
    (
        "wrong-word",
        lambda f: config(f, "storage: {codec: gzip}"),
        ("own.yaml", "`storage.codec`", "'gzip'", "'lz4'"),
    ),
    (
        "section-is-a-number",
        lambda f: config(f, "ring: 5\n"),
        ("own.yaml", "`ring`", "5"),
    ),
    ("configuration-is-a-list", lambda f: config(f, "- web\n"), ("own.yaml", "key: value")),
    ("configuration-is-no-yaml", lambda f: config(f, "web: [\n"), ("own.yaml", "not a YAML file")),
    (
        "configuration-missing",
        lambda f: ["start", "--config", f / "no.yaml"],
        ("no.yaml", "cannot read the configuration", "No such file"),
    ),
    (
        "port-out-of-range",
        lambda f: ["start", "--output", f / "out", "--port", "70000"],
        ("web.port", "70000", "65535"),
    ),
    # where results go
    (
        "segment-output-not-writable",
        lambda f: ["segment", stack(f), "-o", below_a_file(f) / "out.ome.zarr"],
        ("file", "cannot be written"),
    ),
    (
        "label-output-not-writable",
        lambda f: ["label", stack(f), "-o", below_a_file(f) / "out.ome.zarr"],
        ("file", "cannot be written"),
    ),
    (
        "segment-output-exists",
        lambda f: ["segment", stack(f), "-o", f],
        ("work", "exists already", "--overwrite"),
    ),
    (
        "acquire-output-not-writable",
        lambda f: acquire(f, "--output", below_a_file(f)),
        ("file", "cannot write here"),
    ),
    (
        "demo-output-not-writable",
        lambda f: ["demo", stack(f), "--headless", "--output", below_a_file(f)],
        ("file", "cannot write here", "--output"),
    ),
    # models
    (
        "model-of-others",
        lambda f: segment(f, stack(f), "--model", model_of_others(f)),
        ("theirs.onnx", "image tensor(float)", "z_slice tensor(uint16)", "retrain"),
    ),
    (
        "model-corrupt",
        lambda f: segment(f, stack(f), "--model", text(f, "bad.onnx", "\x08\x01not a model")),
        ("bad.onnx", "cannot be opened as an ONNX model"),
    ),
    (
        "model-unknown",
        lambda f: segment(f, stack(f), "--model", "tuesday", "--models", f / "models"),
        ("'tuesday'", "there are: shipped-"),
    ),
    (
        "model-folder-is-empty",
        lambda f: segment(f, stack(f), "--model", f),
        ("model.onnx", "no such model file"),
    ),
    (
        "models-use-unknown",
        lambda f: ["models", "use", "tuesday", "--models", f / "models"],
        ("'tuesday'", "there are: shipped-"),
    ),
    (
        "models-show-outside",
        lambda f: ["models", "show", "../other", "--models", f / "models"],
        ("'../other'", "letters, digits"),
    ),
    (
        "slices-too-small-for-the-network",
        lambda f: segment(f, stack(f, z_stack=pixels((5, 40, 96)))),
        ("40 x 96", "64 x 64"),
    ),
    # labels, training, benches
    (
        "unknown-preset",
        lambda f: label(f, stack(f), "--preset", "papr"),
        ("--preset", "'papr'", "axial, paper"),
    ),
    (
        "measure-where-none-is-taken",
        lambda f: label(f, stack(f), "--measure", "smd"),
        ("--measure", "consensus", "axial, paper, casus"),
    ),
    (
        "unknown-measure",
        lambda f: label(f, stack(f), "--preset", "axial", "--measure", "smdd"),
        ("--measure", "'smdd'", "smd, smd2, std"),
    ),
    (
        "aperture-above-its-immersion",
        lambda f: label(f, stack(f), "--numerical-aperture", "1.4"),
        ("--immersion-index", "1.0", "numerical_aperture 1.4", "1.515"),
    ),
    (
        "window-of-nothing",
        lambda f: label(f, stack(f), "--window-um", "0"),
        ("--window-um", "0", "greater than 0"),
    ),
    (
        "flat-field-missing",
        lambda f: label(f, stack(f), "--flat-field", f / "no.tif"),
        ("no.tif", "flat field", "No such file"),
    ),
    (
        "flat-field-of-another-size",
        lambda f: label(f, stack(f), "--flat-field", stack(f, "flat.tif", pixels((80, 90)))),
        ("stack.tif", "80 × 96", "80 × 90", "same camera settings"),
    ),
    (
        "flat-field-below-the-offset",
        lambda f: label(
            f,
            stack(f),
            *("--flat-field", stack(f, "flat.tif", np.full((80, 96), 100, np.uint16))),
            *("--dark-offset", 100),
        ),
        ("flat.tif", "7680 pixels", "dark offset of 100"),
    ),
    (
        "projection-exists",
        projected_before,
        ("out_depth_slices.ome.zarr", "exists already", "--overwrite"),
    ),
    (
        "retrain-on-an-empty-field",
        lambda f: retrain(f, stack(f, z_stack=np.full(SHAPE, 100, np.uint16))),
        ("nothing is in focus", "nothing to learn"),
    ),
    (
        "retrain-from-unknown",
        lambda f: retrain(f, stack(f), "--from", "tuesday"),
        ("'tuesday'", "there are: shipped-"),
    ),
    (
        "retrain-for-unknown-profile",
        lambda f: retrain(f, stack(f), "--profile", "dic"),
        ("--profile dic", "not in the configuration", "default"),
    ),
    (
        "retrain-in-no-time",
        lambda f: ["retrain", stack(f), "--minutes", "0"],
        ("--minutes", "0.1"),
    ),
    (
        "unknown-bench-group",
        lambda _: ["bench", "focuss"],
        ("'focuss'", "there are", "focus", "volume"),
    ),
    # demo
    (
        "demo-stacks-of-two-sizes",
        lambda f: demo(f, stack(f), stack(f, "wide.tif", pixels((5, 80, 120)))),
        ("80 x 120", "80 x 96", "crop"),
    ),
    (
        "demo-of-no-scan",
        lambda f: [*demo(f, stack(f)), "--stacks", "0"],
        ("--stacks", "1"),
    ),
    # acquire
    (
        "mm-config-missing",
        lambda f: [*acquire(f)[:2], f / "no.cfg", *acquire(f)[3:]],
        ("no.cfg", "no such Micro-Manager configuration"),
    ),
    (
        "mm-config-names-unknown-device",
        lambda f: acquire(f, mm_config=DEMO_CAMERA.replace("DCam", "DCamera")),
        ("scope.cfg", "cannot be loaded", 'instantiate device "DCamera"'),
    ),
    (
        "mm-config-names-unknown-adapter",
        lambda f: acquire(f, mm_config=DEMO_CAMERA.replace("DemoCamera", "OtherCamera")),
        ("scope.cfg", "cannot be loaded", "OtherCamera"),
    ),
    (
        "mm-config-without-a-camera",
        lambda f: acquire(f, mm_config="Property,Core,Initialize,1\n"),
        ("no camera", "load one"),
    ),
    (
        "sequence-missing",
        lambda f: [*acquire(f)[:4], f / "no.yaml"],
        ("no.yaml", "cannot read the sequence"),
    ),
    (
        "sequence-is-a-text",
        lambda f: acquire(f, sequence="all of it\n"),
        ("scan.yaml", "not a useq sequence", "z_plan"),
    ),
    (
        "sequence-is-no-yaml",
        lambda f: acquire(f, sequence="z_plan: {"),
        ("scan.yaml", "not a YAML file"),
    ),
    (
        "sequence-with-unknown-key",
        lambda f: acquire(f, sequence=f"{Z_SCAN}chanels: [DAPI]\n"),
        ("scan.yaml", "`chanels`", "Did you mean `channels`"),
    ),
    (
        "sequence-with-wrong-plan",
        lambda f: acquire(f, sequence="z_plan: {rnge: 4, step: 1}\n"),
        ("scan.yaml", "`z_plan`", "rnge"),
    ),
    (
        "sequence-of-nothing",
        lambda f: acquire(f, sequence="metadata: {name: nothing}\n"),
        ("scan.yaml", "takes no frame", "z_plan"),
    ),
    (
        "acquire-with-unknown-key",
        lambda f: acquire(f, "--config", text(f, "own.yaml", "rings: {}"), "--output", f / "out"),
        ("own.yaml", "`rings`", "`ring`"),
    ),
]


# --- the tests ----------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, int]:
    """Return everything below a folder with its size."""
    return {
        str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1
        for path in folder.rglob("*")
    }


def check_line(stderr: str, says: tuple[str, ...]) -> None:
    """Hold what stands on stderr to the promise."""
    (line,) = stderr.splitlines()
    assert line.startswith("deepfocus-live: ")
    assert [words for words in says if words not in line] == []
    # Else it was somebody else's error, passed on.
    assert "--debug" not in line


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and a runtime folder beside it in which nobody can have a daemon."""
    monkeypatch.setenv(RUNTIME_DIR_VARIABLE, str(tmp_path / "runtime"))
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def run_here(
    arguments: list[object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run a command line in this process; return exit code and what it said on stderr."""
    monkeypatch.setattr(sys, "argv", ["deepfocus-live", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capfd.readouterr().err


def run_elsewhere(arguments: list[object], **environment: str) -> tuple[int, str]:
    """Run a command line in a process of its own; return exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "deepfocus_live", *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("prepare", "says"),
    [*(pytest.param(prepare, says, id=name) for name, prepare, says in CASES), *STACK_CASES],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    prepare: Prepare,
    says: tuple[str, ...],
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = prepare(alone)
    before = contents(alone)
    code, said = run_here(arguments, monkeypatch, capfd)
    check_line(said, says)
    assert code == 2
    assert contents(alone) == before


@pytest.mark.parametrize("how", [[], ["--detach"]], ids=["foreground", "detached"])
def test_start_says_that_its_port_is_in_use(alone: Path, how: list[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        code, said = run_elsewhere(["start", "--port", port, "--output", alone / "out", *how])
    check_line(said, (f"127.0.0.1:{port}", "in use", "--port"))
    assert code == 2
    assert contents(alone) in ({}, {"out": -1})


@pytest.mark.parametrize("how", [[], ["--detach"]], ids=["foreground", "detached"])
def test_start_says_that_its_output_cannot_be_written(alone: Path, how: list[str]) -> None:
    output = below_a_file(alone)
    code, said = run_elsewhere(["start", "--port", 0, "--output", output, *how])
    check_line(said, (str(output), "cannot write", "--output"))
    assert code == 2
    assert contents(alone) == {"file": len("in the way")}


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        pytest.param(
            "label_preset: papr", ("profiles.mine.label_preset", "'papr'", "paper"), id="preset"
        ),
        pytest.param(
            "flat_field: no.tif", ("profiles.mine.flat_field", "no.tif", "No such"), id="flat-field"
        ),
    ],
)
def test_start_says_which_profile_cannot_be_carried_out(
    alone: Path, profile: str, says: tuple[str, ...]
) -> None:
    arguments = config(alone, f"profiles: {{mine: {{{profile}}}}}")
    before = contents(alone)
    code, said = run_elsewhere([*arguments, "--port", 0])
    check_line(said, ("configuration", *says))
    assert code == 2
    assert contents(alone) == before


def test_acquire_says_that_there_are_no_adapters_in_the_folder_named(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = alone / "Micro-Manager"
    empty.mkdir()
    monkeypatch.setenv("MICROMANAGER_PATH", str(empty))
    code, said = run_here(acquire(alone), monkeypatch, capfd)
    check_line(said, ("no Micro-Manager device adapters", str(empty), "MICROMANAGER_PATH"))
    assert code == 2


def test_acquire_says_that_there_are_no_adapters_anywhere(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from pymmcore_plus import _discovery

    # A machine without Micro-Manager: neither the variable, nor an installation, nor the package.
    monkeypatch.delenv("MICROMANAGER_PATH", raising=False)
    monkeypatch.setattr(_discovery, "_iter_mm_paths", lambda: iter(()))
    code, said = run_here(acquire(alone), monkeypatch, capfd)
    check_line(said, ("no Micro-Manager device adapters", "mmcore install", "MICROMANAGER_PATH"))
    assert code == 2


def test_debug_shows_where_it_went_wrong(alone: Path) -> None:
    code, said = run_elsewhere(["label", alone / "no.tif", "-o", alone / "out", "--debug"])
    assert code != 0
    assert "Traceback" in said
    assert "no such file" in said.splitlines()[-1]
