"""The registry: versions that cannot fall apart, and always a model to fall back to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deepfocus_live.errors import InputError
from deepfocus_live.model import ModelVersion, Registry, open_session, read_version, seal
from tests.small_disk import run_on_small_disk


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def _copy_of_shipped(registry: Registry, folder: Path, name: str) -> Path:
    shipped = registry.shipped_version()
    shutil.copytree(shipped.path, folder)
    seal(folder, {**shipped.card, "name": name, "parent": shipped.name})
    return folder


def _added(registry: Registry, tmp_path: Path, name: str) -> ModelVersion:
    return registry.add(_copy_of_shipped(registry, tmp_path / f"new-{name}", name))


def test_empty_registry_gives_the_shipped_model_without_complaint(registry: Registry) -> None:
    current = registry.current()
    assert current == registry.shipped_version()
    assert current.fallback_reason is None
    assert not registry.root.exists()  # looking changes nothing


def test_added_version_is_listed_but_not_current(registry: Registry, tmp_path: Path) -> None:
    added = _added(registry, tmp_path, "a-1")
    assert added.path == registry.root / "versions" / "a-1"
    assert added.parent == registry.shipped_version().name
    assert [v.name for v in registry.versions()] == [registry.shipped_version().name, "a-1"]
    assert registry.current() == registry.shipped_version()


def test_each_profile_has_its_own_current_model(registry: Registry, tmp_path: Path) -> None:
    _added(registry, tmp_path, "a-1")
    registry.use("a-1", "fluorescence")
    assert registry.current("fluorescence").name == "a-1"
    assert registry.current("default") == registry.shipped_version()
    # Another process sees it at once.
    assert Registry(registry.root).current("fluorescence").name == "a-1"


def test_rollback_walks_back_to_the_shipped_model(registry: Registry, tmp_path: Path) -> None:
    for name in ("a-1", "a-2"):
        _added(registry, tmp_path, name)
        registry.use(name)
    assert registry.rollback().name == "a-1"
    assert registry.rollback() == registry.shipped_version()
    with pytest.raises(InputError, match="no earlier model"):
        registry.rollback()


def test_rollback_passes_over_a_version_that_is_gone(registry: Registry, tmp_path: Path) -> None:
    for name in ("a-1", "a-2", "a-3"):
        _added(registry, tmp_path, name)
        registry.use(name)
    shutil.rmtree(registry.root / "versions" / "a-2")
    assert registry.rollback().name == "a-1"


@pytest.mark.parametrize("damage", ["removed", "truncated", "card"])
def test_damaged_current_model_falls_back_and_says_why(
    registry: Registry, tmp_path: Path, damage: str
) -> None:
    version = _added(registry, tmp_path, "a-1")
    registry.use("a-1")
    if damage == "removed":
        shutil.rmtree(version.path)
    elif damage == "truncated":
        version.onnx.write_bytes(version.onnx.read_bytes()[:1000])
    else:
        (version.path / "card.json").write_text("{")
    current = registry.current()
    assert current.name == registry.shipped_version().name
    assert current.fallback_reason is not None
    assert "a-1" in current.fallback_reason


def test_damaged_model_is_not_added_and_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    folder = _copy_of_shipped(registry, tmp_path / "new", "a-1")
    (folder / "weights.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"weights\.npz: is damaged"):
        registry.add(folder)
    assert [v.name for v in registry.versions()] == [registry.shipped_version().name]


def test_name_that_is_taken_is_refused(registry: Registry, tmp_path: Path) -> None:
    _added(registry, tmp_path, "a-1")
    folder = _copy_of_shipped(registry, tmp_path / "again", "a-1")
    with pytest.raises(InputError, match="exists already"):
        registry.add(folder)
    assert registry.free_name("a-1") == "a-1-2"
    assert registry.free_name("b") == "b"


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a" * 101, "a\\b", "trailing."])
def test_names_that_lead_out_of_the_registry_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a name"):
        registry.get(name)
    with pytest.raises(InputError, match="cannot be a name"):
        registry.current(name)


def test_unknown_model_is_refused_with_the_names_there_are(registry: Registry) -> None:
    with pytest.raises(InputError, match=registry.shipped_version().name):
        registry.use("nobody-1")
    assert registry.current() == registry.shipped_version()


def test_model_with_other_inputs_is_refused_with_what_was_found(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("classes", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["classes"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(InputError, match=r"takes .image tensor.float., 4 axes.*expected") as caught:
        open_session(tmp_path / "other.onnx")
    assert "z_slice tensor(uint16), 3 axes" in str(caught.value)


def test_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match="cannot be opened as an ONNX model") as caught:
        open_session(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such model file"):
        open_session(tmp_path / "absent.onnx")


@pytest.mark.parametrize("name", ["../evil", "a/b", "/tmp/x", "..", "a\\b", "C:x", "card.json", ""])
def test_card_that_lists_anything_but_plain_names_is_refused(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    folder = _copy_of_shipped(registry, tmp_path / "new", "a-1")
    (tmp_path / "evil").write_bytes(b"x")
    card = json.loads((folder / "card.json").read_text())
    card["sha256"][name] = card["sha256"]["model.onnx"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="cannot be a file of a model"):
        registry.add(folder)
    assert list((registry.root / "versions").glob("*")) == []


def test_names_that_differ_in_case_alone_are_one_name(registry: Registry, tmp_path: Path) -> None:
    # As they are to the file systems of most microscope computers.
    _added(registry, tmp_path, "Fish")
    assert registry.free_name("fish") == "fish-2"
    with pytest.raises(InputError, match=r"exists already.*--name fish-2"):
        registry.add(_copy_of_shipped(registry, tmp_path / "again", "fish"))


def test_profiles_and_unreadable_folders_are_told(registry: Registry, tmp_path: Path) -> None:
    version = _added(registry, tmp_path, "a-1")
    assert (registry.profiles(), registry.unreadable()) == ({}, [])
    registry.use("a-1", "fluorescence")
    (version.path / "card.json").write_text("{")
    assert registry.profiles() == {"fluorescence": "a-1"}
    [reason] = registry.unreadable()
    assert str(version.path) in reason


def test_registry_that_cannot_be_written_to_says_so(registry: Registry, tmp_path: Path) -> None:
    folder = _copy_of_shipped(registry, tmp_path / "new", "a-1")
    (tmp_path / "file").write_text("in the way")
    blocked = Registry(tmp_path / "file" / "models")
    for change in (lambda: blocked.add(folder), lambda: blocked.use(blocked.current_name())):
        with pytest.raises(InputError, match="cannot be written to"):
            change()
    assert blocked.current() == registry.shipped_version()


def test_full_disk_adds_nothing_and_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    folder = _copy_of_shipped(registry, tmp_path / "new", "a-1")
    (tmp_path / "disk").mkdir()
    script = f"""
from pathlib import Path
from deepfocus_live.errors import InputError
from deepfocus_live.model import Registry, import_model
registry = Registry(Path("models"))
try:
    import_model({str(folder)!r}, registry)
except InputError as error:
    print(error)
left = [str(p) for p in Path("models").rglob("*") if p.name != ".lock"]
print(left, [v.name for v in registry.versions()] == [registry.current().name])
"""
    said = run_on_small_disk(script, tmp_path / "disk", size_kb=3000).splitlines()
    assert "No space left" in said[0]
    assert said[1] == "['models/versions'] True"


def test_card_of_another_format_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = _copy_of_shipped(registry, tmp_path / "new", "a-1")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        read_version(folder)


def test_shipped_model_is_small_sound_and_says_nothing_of_empty_fields() -> None:
    version = Registry().shipped_version()
    assert sum(file.stat().st_size for file in version.path.iterdir()) <= 4_000_000
    assert version.card["metrics"]
    session = open_session(version.onnx)
    random = np.random.default_rng(0)
    for level in (3.0, 200.0, 2000.0, 50000.0):
        field = np.rint(random.normal(level, level / 30 + 1, (1, 256, 256))).clip(0, 65535)
        mask, _ = session.run(None, {"z_slice": field.astype(np.uint16)})
        assert mask.mean() <= 0.005
        field[random.random(field.shape) < 1e-3] += 5 * level  # hot pixels, at 150 sigma
        field = field.clip(0, 65535)
        mask, _ = session.run(None, {"z_slice": field.astype(np.uint16)})
        assert mask.mean() <= 0.005


def test_looking_at_models_loads_no_torch_and_no_onnxruntime() -> None:
    code = (
        "import sys; from deepfocus_live.model import Registry; import deepfocus_live.inference; "
        "Registry('nowhere').current(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'onnxruntime', 'onnx', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
