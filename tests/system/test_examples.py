"""Each script in `examples/` runs as it stands, and leaves on the disk what it says."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from filelock import FileLock
from numpy.typing import NDArray

from deepfocus_live import Run, open_run
from deepfocus_live.frames import StackKey
from deepfocus_live.model import ModelVersion, Registry
from deepfocus_live.simulation import demo_stack, simulate_focal_stack

EXAMPLES = Path(__file__).parents[2] / "examples"
WINDOWS = {"in_napari_micromanager.py": "napari_micromanager", "in_pymmcore_gui.py": "pymmcore_gui"}
"""Examples with a window, and the package that must be there for them."""
CORRECTS = "correct_in_napari_and_retrain.py"
TRIED = (
    "adaptive_z_range.py",
    "attach_script.py",
    CORRECTS,
    "follow_masks.py",
    "read_in_napari.py",
    "read_run.py",
    "read_with_dask.py",
    "read_with_zarr.py",
    "retrain_offline.py",
    *WINDOWS,
)
PATIENCE_S = 120
_WITH_QT = """
import os, runpy, sys
import PyQt6.QtCore  # with it, and this, signals are Qt's in a process without a window, too
os.environ["PYMM_SIGNALS_BACKEND"] = "qt"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_WITHOUT_US = """
import runpy, sys
sys.modules["deepfocus_live"] = None  # as where it is not installed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_AT_NAPARI = """
import json, runpy, sys
import napari
from qtpy.QtCore import QTimer
from deepfocus_live import training

def use(viewer):
    for layer in viewer.layers:
        print(json.dumps([layer.name, layer.data.shape, list(layer.scale), layer.visible]))
    if "in focus" in viewer.layers:
        viewer.layers["in focus"].brush_size = 1
        viewer.layers["in focus"].paint((3, 20, 40), 2)
    viewer.close()

def run(until_closed=napari.run):
    QTimer.singleShot(500, lambda: use(napari.current_viewer()))
    until_closed()

napari.run = run
training.retrain = lambda *_, **__: sys.exit()  # that it learns, another test sees
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Workplace:
    """A folder, and environment variables that give whoever works there a daemon of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = os.environ | {
            "DEEPFOCUS_LIVE_RUNTIME_DIR": str(folder / "runtime"),
            "QT_QPA_PLATFORM": "offscreen",
        }
        self._models = folder / "models"

    def python(self, *arguments: object, quiet: bool = True, screen: tuple[str, ...] = ()) -> str:
        """Run the interpreter and return what it prints; it must end well, and say no word else."""
        done = subprocess.run(
            [*screen, sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self._env | ({"QT_QPA_PLATFORM": "xcb"} if screen else {}),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Said where the disk takes more than two seconds: a busy computer's may.
        words = [
            line for line in done.stderr.splitlines() if "on their way to the disk" not in line
        ]
        assert not (quiet and words), done.stderr
        return done.stdout

    def start(self) -> None:
        """Start the daemon, on a port that nobody has."""
        arguments = ("--detach", "--port", 0, "--models", self._models, "--output", "daemons-own")
        self.python("-m", "deepfocus_live", "start", *arguments)

    def stop(self, *how: str) -> None:
        """Stop the daemon; without `--now` it finishes masks and labels first."""
        self.python("-m", "deepfocus_live", "stop", *how)


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    place.start()
    yield place
    place.stop("--now")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workplace, str, Run]]:
    """Return where `follow_masks.py` was run, what it printed, and the run that it left."""
    place = Workplace(tmp_path_factory.mktemp("followed"))
    place.start()
    said = place.python(*with_qt_signals(), EXAMPLES / "follow_masks.py", "here")
    adapted = place.python(EXAMPLES / "adaptive_z_range.py", "there")
    place.stop()
    (place.folder / "adapted.txt").write_text(adapted, encoding="utf-8")
    yield place, said, only_run(place.folder / "here")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs an example in this process, as a script, and returns what it prints."""

    def run(example: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [example, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
        return capsys.readouterr().out

    return run


def with_qt_signals() -> tuple[str, ...]:
    """Return what has Python run a script as in a Qt program; nothing where there is no Qt."""
    return ("-c", _WITH_QT) if importlib.util.find_spec("PyQt6") else ()


def only_run(folder: Path) -> Run:
    """Return the one run in a folder."""
    (path,) = folder.iterdir()
    return open_run(path)


def numbers(run: Run, kind: str) -> list[int]:
    """Return the sequence numbers of a kind of journal line, sorted."""
    return sorted(line["sequence_number"] for line in run.journal if line["kind"] == kind)


def whole(array: Any) -> NDArray[Any]:
    """Read an array of (t, 1, z, y, x) and leave out its one channel."""
    return np.asarray(array[:])[:, 0]


def test_every_example_is_tried() -> None:
    assert sorted(file.name for file in EXAMPLES.glob("*.py")) == sorted(TRIED)


def test_script_without_main_guard_leaves_every_frame_on_the_disk(workplace: Workplace) -> None:
    assert workplace.python(EXAMPLES / "attach_script.py") == ""
    run = only_run(workplace.folder / "deepfocus-runs")
    assert run.state == "completed"
    assert numbers(run, "frame") == list(range(22))
    stored = whole(run.images[0].image)
    assert stored.shape == (2, 11, 512, 512)
    assert stored.any(axis=(2, 3)).all()
    assert not (workplace.folder / "daemons-own").exists() or not any(
        (workplace.folder / "daemons-own").iterdir()
    )

    workplace.stop()
    assert numbers(run, "mask") == list(range(22))
    assert Counter(line["t"] for line in run.journal if line["kind"] == "label") == {0: 1, 1: 1}


def test_followed_masks_are_those_on_the_disk(followed: tuple[Workplace, str, Run]) -> None:
    _, said, run = followed
    image = run.images[0]
    pixels = demo_stack(shape=(11, 256, 256)).slices
    np.testing.assert_array_equal(whole(image.image), np.stack([pixels, pixels]))
    told = {
        (int(t), int(z)): float(share)
        for t, z, share in re.findall(r"t (\d+) z +(\d+): +([\d.]+) % in focus", said)
    }
    shares = 100 * whole(image.in_focus).mean(axis=(2, 3))
    assert told.keys() == set(np.ndindex(2, 11))
    for place, share in told.items():
        assert share == pytest.approx(shares[place], abs=0.051)  # printed with one decimal


def test_best_slices_told_are_those_with_most_in_focus(
    followed: tuple[Workplace, str, Run],
) -> None:
    _, said, run = followed
    best = whole(run.images[0].in_focus).mean(axis=(2, 3)).argmax(axis=1)
    told = re.findall(r"stack (\d) is sharpest at ([\d.-]+) µm \(z (\d+)\)", said)
    z_um = demo_stack(shape=(11, 256, 256)).z_um
    assert sorted(told) == [(str(t), str(float(z_um[z])), str(z)) for t, z in enumerate(best)]
    assert f"the run: {run.path}" in said


def with_window(example: str, package: str) -> Any:
    """Return the example as a test's parameter, skipped where its package is not there."""
    there = importlib.util.find_spec(package) and importlib.util.find_spec("PyQt6")
    absent = pytest.mark.skipif(not there, reason=f"{package} or PyQt6 is not installed")
    # napari draws by OpenGL, which Qt's offscreen platform does not have.
    drawn = "napari" not in example or shutil.which("xvfb-run")
    undrawn = pytest.mark.skipif(not drawn, reason="napari draws by OpenGL: no `xvfb-run`")
    return pytest.param(example, marks=[absent, undrawn])


def screen_for(example: str) -> tuple[str, ...]:
    """Return what to start an example with where Qt's offscreen platform does not do."""
    return ("xvfb-run", "-a") if "napari" in example else ()


def test_each_z_range_is_narrower_and_the_stage_ends_at_the_best_of_the_last(
    followed: tuple[Workplace, str, Run],
) -> None:
    place, _, _ = followed
    said = (place.folder / "adapted.txt").read_text(encoding="utf-8")
    scans = re.findall(r"(-?[\d.]+) to (-?[\d.]+) µm by ([\d.]+) µm: best at ([\d.]+) µm", said)
    (coarse, *_, fine) = [tuple(map(float, scan)) for scan in scans]
    assert len(scans) == 3
    assert coarse[0] < fine[0] < fine[3] < fine[1] < coarse[1]
    assert said.endswith(f"the stage is at {fine[3]} µm\n")
    for path, scan in zip(sorted((place.folder / "there").iterdir()), scans, strict=True):
        run = open_run(path)
        in_focus = whole(run.images[0].in_focus)[0].mean(axis=(1, 2))
        heights = {line["z"]: line["z_um"] for line in run.journal if line["kind"] == "frame"}
        assert heights[int(in_focus.argmax())] == float(scan[3])


@pytest.mark.parametrize("example", [with_window(*window) for window in WINDOWS.items()])
def test_a_program_with_a_window_shows_masks_and_loses_nothing(
    example: str, workplace: Workplace
) -> None:
    place = workplace
    script = Path(__file__).parents[1] / "in_window.py"
    said = place.python(script, EXAMPLES / example, quiet=False, screen=screen_for(example))
    assert "signals: QMDASignaler" in said
    assert "masks: 5" in said
    (path,) = (place.folder / "deepfocus-runs").iterdir()
    assert numbers(open_run(path), "frame") == list(range(5))


def test_run_read_back_says_what_was_taken(followed: tuple[Workplace, str, Run]) -> None:
    place, _, run = followed
    lines = place.python(EXAMPLES / "read_run.py", run.path).splitlines()
    best = whole(run.images[0].in_focus).mean(axis=(2, 3)).argmax(axis=1)
    assert lines == [
        "run: completed",
        "image 0: (2, 1, 11, 256, 256) uint16 (t, c, z, y, x)",
        "22 of 22 slices stored",
        *(f"image 0 t {t} c 0: 11 masks, best z {z}" for t, z in enumerate(best)),
    ]


# ------------------------------------------------- a run, by other libraries


def test_run_is_read_where_deepfocus_live_is_not_installed(
    followed: tuple[Workplace, str, Run],
) -> None:
    place, _, run = followed
    said = place.python("-c", _WITHOUT_US, EXAMPLES / "read_with_zarr.py", run.path).splitlines()
    spec = run.spec
    assert said[0] == f"image 0, {spec.name} {spec.images[0].name}: (2, 1, 11, 256, 256) uint16"
    lengths = {"z": spec.z_step_um, "y": spec.pixel_size_um, "x": spec.pixel_size_um}
    assert spec.z_step_um is not None
    units = [f"  {axis}: {known.um:g} micrometer" for axis, known in lengths.items() if known]
    assert [line for line in said[1:] if "micrometer" in line] == units
    pixels, masks = whole(run.images[0].image), whole(run.images[0].in_focus) == 1
    expected = []
    for t, z in np.ndindex(2, 11):
        mask = masks[t, z]
        line = f"image 0 t {t} c 0 z {z:2}: {100 * mask.mean():5.1f} % in focus"
        counts = f", {pixels[t, z][mask].mean():.1f} counts there" if mask.any() else ""
        expected.append(line + counts)
    assert sorted(line for line in said if "in focus" in line) == expected


def test_what_is_in_focus_is_seen_from_above(
    followed: tuple[Workplace, str, Run], tmp_path: Path, here: Callable[..., str]
) -> None:
    pytest.importorskip("dask.array")
    run = followed[2]
    path = tmp_path / "above.ome.tif"
    said = here("read_with_dask.py", run.path, path)
    assert said == f"{path}: (2, 1, 256, 256) uint16 (t, c, y, x)\n"
    image = run.images[0]
    in_focus = np.where(whole(image.in_focus) == 1, whole(image.image), 0)
    with tifffile.TiffFile(path) as file:
        np.testing.assert_array_equal(file.asarray(), in_focus.max(axis=1))
        described = file.ome_metadata or ""
    known = run.spec.pixel_size_um
    assert ("PhysicalSizeX=" in described) == (known is not None)
    assert known is None or f'PhysicalSizeY="{known.um}"' in described


def layers_shown(place: Workplace, example: str, *arguments: object) -> list[Any]:
    """Return name, shape, scale and visibility of the layers that an example shows in napari."""
    script = ("-c", _AT_NAPARI, EXAMPLES / example, *arguments)
    said = place.python(*script, quiet=False, screen=screen_for(example))
    return [json.loads(line) for line in said.splitlines() if line.startswith("[")]


def scale_um(run: Run) -> list[float]:
    """Return the lengths of a voxel along z, y and x; 1 where they are not known."""
    step, side = run.spec.z_step_um, run.spec.pixel_size_um
    return [step.um if step else 1.0, *2 * [side.um if side else 1.0]]


@pytest.mark.parametrize("example", [with_window("read_in_napari.py", "napari")])
def test_napari_shows_a_run_to_scale(example: str, followed: tuple[Workplace, str, Run]) -> None:
    place, _, run = followed
    layers = layers_shown(place, example, run.path)
    channel, scale = run.spec.channels[0].name, [1.0, *scale_um(run)]
    assert layers == [
        [channel, [2, 11, 256, 256], scale, True],
        [f"in_focus {channel}", [2, 11, 256, 256], scale, True],
        [f"weak_label {channel}", [2, 11, 256, 256], scale, False],
        [f"undecided {channel}", [2, 11, 256, 256], scale, False],
    ]


# -------------------------------------------------------------- the network


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a training be a few small steps, as many on a busy machine."""
    from deepfocus_live.training import _anchor, _retraining, fit
    from tests.system.test_retrain import SMALL

    caches = (_anchor.anchor_set, _anchor._rehearsed)
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(_retraining, "fit", functools.partial(fit, max_steps=4))
    monkeypatch.setattr(_retraining, "BATCH", 2)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def own_models(folder: Path) -> list[ModelVersion]:
    """Return the versions in a registry that did not come with the program."""
    return [v for v in Registry(folder).versions() if v.path.is_relative_to(folder)]


@pytest.mark.usefixtures("short_training")
def test_stacks_become_a_registered_network(tmp_path: Path, here: Callable[..., str]) -> None:
    stacks = [tmp_path / f"stack_{seed}.tif" for seed in (1, 2)]
    for seed, path in enumerate(stacks, start=1):
        stack = simulate_focal_stack("organoid_layer", shape=(5, 192, 192), seed=seed)
        tifffile.imwrite(path, stack.slices, photometric="minisblack")
    models = tmp_path / "models"
    said = here("retrain_offline.py", *stacks, "--models", models, "--minutes", 3)
    (version,) = own_models(models)
    assert sorted(version.card["trained_on"]) == ["stack_1", "stack_2"]
    report = json.loads((version.path / "report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 4
    assert f"{report['iou_before']:.3f} → {report['iou_after']:.3f}" in said
    assert f"registered: {version.name}, with a report: {version.path / 'report.html'}" in said
    assert report["reason"] in said
    assert ("models use" in said) == report["passed"]
    assert Registry(models).current().name == Registry(models).shipped_version().name


@pytest.fixture
def correcting(followed: tuple[Workplace, str, Run], tmp_path: Path) -> tuple[ModuleType, Path]:
    """Return the example that corrects masks, and a run of its own to correct."""
    spec = importlib.util.spec_from_file_location("correcting", EXAMPLES / CORRECTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, Path(shutil.copytree(followed[2].path, tmp_path / "run"))


@pytest.mark.usefixtures("short_training")
def test_what_was_painted_is_in_the_run_and_is_learnt_from(
    correcting: tuple[ModuleType, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example, run = correcting
    live = np.asarray(open_run(run).images[0].in_focus[1, 0])
    fullest = int(live.sum(axis=(1, 2)).argmax())
    boxed, doubted, mistaken = [z for z in range(11) if z != fullest][-3:]
    expected = np.zeros_like(live)
    expected[[fullest, boxed, doubted, mistaken]] = live[[fullest, boxed, doubted, mistaken]]
    expected[boxed, 10:40, 20:80] = 1
    expected[doubted, :9] = 2
    expected[mistaken, 100:, 50:60] = 1
    expected[fullest], expected[fullest, 0, 0] = 0, 2  # nothing but 0: nobody has looked at it
    lock = FileLock(run / ".writer.lock")  # as of a daemon that has not ended with the run
    asked: list[str] = []

    def paint(path: Path, key: StackKey) -> NDArray[np.uint8]:
        lock.acquire()
        masks: NDArray[np.uint8] = example.masks_so_far(path, key)
        np.testing.assert_array_equal(masks, live)
        masks[boxed, 10:40, 20:80] = 1
        masks[doubted, :9] = 2
        masks[mistaken, 100:, 50:60] = 7
        masks[fullest] = 0
        return masks

    def answer(question: str) -> str:
        asked.append(question)
        lock.release()
        return ""

    monkeypatch.setattr(example, "edit", paint)
    monkeypatch.setattr("builtins.input", answer)
    models = tmp_path / "models"
    arguments = ["--t", "1", "--models", str(models), "--minutes", "3"]
    monkeypatch.setattr(sys, "argv", [CORRECTS, str(run), *arguments])
    example.main()

    assert len(asked) == 1 and "another process is writing this run" in asked[0]
    corrected = np.asarray(open_run(run).images[0].labels["corrected"][:, 0])
    np.testing.assert_array_equal(corrected[1], expected)
    assert not corrected[0].any()
    np.testing.assert_array_equal(open_run(run).images[0].in_focus[1, 0], live)
    said = capsys.readouterr().out
    slices = sorted([fullest, boxed, doubted, mistaken])
    assert f"corrected: slices {slices}\n" in said
    (version,) = own_models(models)
    assert f"registered: {version.name}, with a report: " in said
    report = json.loads((version.path / "report.json").read_text(encoding="utf-8"))
    assert len([line for line in report["learnt_from"] if "hand-made" in line]) == 1

    monkeypatch.setattr(example, "edit", example.masks_so_far)
    example.main()
    assert capsys.readouterr().out == "nothing was changed\n"
    assert len(own_models(models)) == 1


def test_run_that_has_no_end_is_refused_before_anything_is_painted(
    correcting: tuple[ModuleType, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example, run = correcting
    journal = run / "frames.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(x for x in lines if '"end"' not in x), encoding="utf-8")
    monkeypatch.delattr(example, "edit")
    monkeypatch.setattr(sys, "argv", [CORRECTS, str(run)])
    with pytest.raises(SystemExit, match="2"):
        example.main()
    assert "has no end yet" in capsys.readouterr().err


@pytest.mark.parametrize("example", [with_window(CORRECTS, "napari")])
def test_napari_shows_the_masks_to_paint_on_and_what_is_painted_is_kept(
    example: str, followed: tuple[Workplace, str, Run], tmp_path: Path
) -> None:
    place, _, run = followed
    path = Path(shutil.copytree(run.path, tmp_path / "run"))
    layers = layers_shown(place, example, path)
    assert [layer[1:3] for layer in layers] == 2 * [[[11, 256, 256], scale_um(run)]]
    image = open_run(path).images[0]
    corrected, live = np.asarray(image.labels["corrected"][0, 0]), np.asarray(image.in_focus[0, 0])
    assert corrected[3, 20, 40] == 2
    assert np.count_nonzero(corrected[3] != live[3]) == 1
    assert not np.delete(corrected, 3, axis=0).any()
