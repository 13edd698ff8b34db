"""Each script in `examples/` runs as it stands, and leaves on the disk what it says."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live import Run, open_run
from deepfocus_live.simulation import demo_stack

EXAMPLES = Path(__file__).parents[2] / "examples"
WINDOWS = {"in_napari_micromanager.py": "napari_micromanager", "in_pymmcore_gui.py": "pymmcore_gui"}
"""Examples with a window, and the package that must be there for them."""
TRIED = ("adaptive_z_range.py", "attach_script.py", "follow_masks.py", "read_run.py", *WINDOWS)
PATIENCE_S = 120
_WITH_QT = """
import os, runpy, sys
import PyQt6.QtCore  # with it, and this, signals are Qt's in a process without a window, too
os.environ["PYMM_SIGNALS_BACKEND"] = "qt"
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
        assert not (quiet and done.stderr), done.stderr
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
