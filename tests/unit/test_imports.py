"""What runs in the microscope's process must be light, and stay light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deepfocus_live

HEAVY = ("torch", "onnxruntime", "numba", "zarr", "starlette", "skimage", "onnx", "scipy")

# Says of each heavy library which file asked for it first.
_WATCH = """
import sys, traceback

heavy, statement = sys.argv[1].split(","), sys.argv[2]

asked = {}

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name in heavy:
            files = [frame.filename for frame in traceback.extract_stack()]
            asked[name] = [file for file in files if file.endswith(".py")]
        return None  # the next finder will find it

sys.meta_path.insert(0, Watcher())
exec(statement)
for name in heavy:
    if name in sys.modules:
        print(name, "via", " > ".join(asked[name][-6:]))
"""


def _loaded_by(statement: str, heavy: tuple[str, ...]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, ",".join(heavy), statement],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import deepfocus_live",
        "from deepfocus_live import attach",
        "import deepfocus_live.cli",
        # What a daemon loads before it says where it is, and what it loads on a thread.
        "import deepfocus_live.daemon",
        "import deepfocus_live.focus",
    ],
)
def test_heavy_libraries_are_loaded_only_on_use(statement: str) -> None:
    # Each line says which, and through which files.
    assert _loaded_by(statement, HEAVY) == ""


def test_reading_a_run_needs_no_network_and_no_web_server() -> None:
    learned = ("torch", "onnxruntime", "onnx", "starlette", "skimage")
    assert _loaded_by("from deepfocus_live import open_run", learned) == ""


def test_daemon_learns_without_loading_torch_itself() -> None:
    asked = (
        "import deepfocus_live.daemon._learning._learner; "
        "from deepfocus_live.training import anchor_set, model_iou"
    )
    assert _loaded_by(asked, ("torch",)) == ""


def test_watcher_sees_what_is_loaded() -> None:
    assert _loaded_by("import zarr", ("zarr", "torch")).startswith("zarr via")


def test_every_public_name_is_there() -> None:
    for name in deepfocus_live.__all__:
        assert getattr(deepfocus_live, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        _ = deepfocus_live.atach
