"""Models handed on come back the same; what is none of ours is refused and leaves nothing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

from deepfocus_live.errors import InputError
from deepfocus_live.model import (
    ModelVersion,
    Registry,
    _archive,
    export_bare_onnx,
    export_bioimageio,
    export_zip,
    import_model,
)
from deepfocus_live.model.export import fold
from deepfocus_live.model.weights import load_network
from deepfocus_live.simulation import simulate_focal_stack
from tests.unit.test_cli import run

SHIPPED = Registry().shipped_version()


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    return simulate_focal_stack(shape=(3, 128, 160), seed=3).slices


@pytest.fixture(scope="module")
def handed_on(tmp_path_factory: pytest.TempPathFactory, slices: np.ndarray) -> dict[str, Path]:
    """Return the shipped model in every form it is handed on in."""
    folder = tmp_path_factory.mktemp("handed on")
    forms = {kind: folder / f"fish.{kind}" for kind in ("zip", "onnx", "bioimageio.zip")}
    export_zip(SHIPPED, forms["zip"])
    export_bare_onnx(SHIPPED, forms["onnx"])
    export_bioimageio(SHIPPED, forms["bioimageio.zip"], slices[0])
    with zipfile.ZipFile(forms["zip"]) as archive:
        archive.extractall(folder / "unpacked")
        with zipfile.ZipFile(folder / "by hand.zip", "w") as again:
            for name in archive.namelist():
                again.writestr(f"fish/{name}", archive.read(name))
            again.writestr("__MACOSX/fish/._card.json", b"\0")
    return {**forms, "unpacked": folder / "unpacked", "by hand": folder / "by hand.zip"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def _files(version: ModelVersion) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in version.path.iterdir() if f.name != "card.json"}


def _rezipped(
    path: Path, source: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> Path:
    with zipfile.ZipFile(source) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(contents).items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("form", ["zip", "bioimageio.zip", "unpacked", "by hand"])
def test_model_comes_back_as_it_was(
    registry: Registry, handed_on: dict[str, Path], form: str
) -> None:
    version = import_model(handed_on[form], registry, name="back")
    assert _files(version) == _files(SHIPPED)
    came = version.card.pop("imported")
    assert (came["name"], came["file"]) == (SHIPPED.name, handed_on[form].name)
    assert version.card == {**SHIPPED.card, "name": "back"}
    assert registry.current() == SHIPPED  # taken in, not put to use
    assert registry.use("back") == registry.current()


def test_onnx_file_alone_becomes_a_version_that_says_so(
    registry: Registry, handed_on: dict[str, Path]
) -> None:
    version = import_model(handed_on["onnx"], registry, name="back")
    assert _files(version) == {"model.onnx": SHIPPED.onnx.read_bytes()}
    assert version.card["architecture"] == SHIPPED.card["architecture"]
    assert (version.threshold, version.parent) == (SHIPPED.threshold, None)
    assert "came without a card" in version.card["description"]
    assert registry.use("back") == registry.current()


def test_same_model_gives_the_same_bytes(
    tmp_path: Path, handed_on: dict[str, Path], slices: np.ndarray
) -> None:
    export_zip(SHIPPED, tmp_path / "a.zip")
    export_bioimageio(SHIPPED, tmp_path / "b.zip", slices[0])
    assert (tmp_path / "a.zip").read_bytes() == handed_on["zip"].read_bytes()
    assert (tmp_path / "b.zip").read_bytes() == handed_on["bioimageio.zip"].read_bytes()


@pytest.mark.parametrize("statistics", ["of slices", "none"])
def test_network_read_from_the_graph_computes_what_the_stored_weights_do(
    registry: Registry, handed_on: dict[str, Path], slices: np.ndarray, statistics: str
) -> None:
    version = import_model(handed_on["onnx"], registry, name="back")
    network = load_network(version, slices=slices if statistics == "of slices" else None)
    counts = torch.from_numpy(slices.astype(np.float32))
    with torch.no_grad():
        want = load_network(SHIPPED).eval().logits(counts)
        got = network.eval().logits(counts)
        assert float((got - want).abs().max()) < 1e-4
    # Folded again they are the graph's own weights.
    folded = fold(network).state_dict()
    initialisers = onnx.load(str(version.onnx)).graph.initializer
    own = {t.name: onnx.numpy_helper.to_array(t) for t in initialisers if t.name in folded}
    assert own.keys() >= {name for name in folded if name.startswith("unet.")}
    for name, array in own.items():
        np.testing.assert_allclose(folded[name].numpy(), array, rtol=1e-5, atol=1e-5)


def test_measured_statistics_let_training_start_where_the_graph_ended(slices: np.ndarray) -> None:
    bare = replace(SHIPPED, path=SHIPPED.path / "nowhere")
    counts = torch.from_numpy(slices.astype(np.float32))

    class Bare(ModelVersion):
        onnx = SHIPPED.onnx

    version = Bare(bare.name, bare.path, bare.card)
    with torch.no_grad():
        want = load_network(SHIPPED).eval().logits(counts)
        off = {
            measured: (load_network(version, slices=given).train().logits(counts) - want).abs()
            for measured, given in ((True, slices), (False, None))
        }
    assert float(off[True].max()) < 1e-3 < 0.1 < float(off[False].mean())


def test_graph_of_another_network_than_its_card_says_is_refused(
    registry: Registry, handed_on: dict[str, Path]
) -> None:
    version = import_model(handed_on["onnx"], registry, name="back")
    deeper = {**version.card, "architecture": {"base_channels": 16, "levels": 4, "reduction": 4}}
    with pytest.raises(InputError, match="of another network"):
        load_network(replace(version, card=deeper))


def _with_card(**fields: object) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(contents: dict[str, bytes]) -> dict[str, bytes]:
        card = {**json.loads(contents["card.json"]), **fields}
        return {**contents, "card.json": json.dumps(card).encode()}

    return change


def _other_onnx(path: Path, metadata: dict[str, str] | None = None) -> Path:
    if metadata is not None:
        model = onnx.load(str(SHIPPED.onnx))
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata)
    else:
        ends = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8])
            for name in ("image", "classes")
        ]
        node = onnx.helper.make_node("Relu", ["image"], ["classes"])
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, str(path))
    return path


_SUMS = SHIPPED.card["sha256"]
_FOREIGN_RDF = {
    "inputs": [{"id": "em", "axes": [{"type": "batch"}, {"id": "y"}], "data": {"type": "uint8"}}],
    "outputs": [{"name": "cells", "axes": "bcyx"}],
}
REFUSED: dict[str, tuple[Callable[[Path, dict[str, Path]], Path], str]] = {
    "absent": (lambda f, m: f / "gone.zip", "no such file or folder"),
    "text": (
        lambda f, m: _written(f / "a.zip", b"hello"),
        "cannot be opened as an ONNX.*import takes",
    ),
    "empty file": (lambda f, m: _written(f / "a.onnx", b""), "cannot be opened as an ONNX"),
    "other onnx": (
        lambda f, m: _other_onnx(f / "a.onnx"),
        r"takes .image tensor.float., 4 axes.*expected.*z_slice tensor.uint16., 3 axes",
    ),
    "onnx without metadata": (
        lambda f, m: _other_onnx(f / "a.onnx", {"name": "x"}),
        "metadata do not say.*architecture",
    ),
    "onnx of odd threshold": (
        lambda f, m: _other_onnx(
            f / "a.onnx", {"name": "x", "architecture": "{}", "threshold": "nan"}
        ),
        "metadata do not say.*0..1",
    ),
    "onnx of odd metadata": (
        lambda f, m: _other_onnx(f / "a.onnx", {"name": "x", "architecture": "[]"}),
        "metadata do not say",
    ),
    "truncated zip": (
        lambda f, m: _written(f / "a.zip", m["zip"].read_bytes()[:-5000]),
        "not a whole zip",
    ),
    "bit flipped": (
        lambda f, m: _written(f / "a.zip", _flipped(m["zip"].read_bytes())),
        "not a whole zip",
    ),
    "zip without card": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {"model.onnx": c["model.onnx"]}),
        "holds no card.json, but model.onnx",
    ),
    "package of others": (
        lambda f, m: _rezipped(
            f / "a.zip", m["zip"], lambda c: {"rdf.yaml": yaml.safe_dump(_FOREIGN_RDF).encode()}
        ),
        r"takes \(em uint8 batch·y\) and gives \(cells b·c·y·x\); a model of ours takes",
    ),
    "rdf that is none": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {"rdf.yaml": b"[: {"}),
        "what cannot be read",
    ),
    "card is no JSON": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {**c, "card.json": b"[1"}),
        "cannot be read as a JSON object",
    ),
    "card is a list": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {**c, "card.json": b"[1]"}),
        "cannot be read as a JSON object",
    ),
    "card of another format": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], _with_card(format_version=99)),
        "format version 99",
    ),
    "odd threshold": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], _with_card(threshold="much")),
        "architecture or threshold cannot be used",
    ),
    "odd architecture": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], _with_card(architecture=[16])),
        "architecture or threshold cannot be used",
    ),
    "card without checksums": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], _with_card(sha256=None)),
        "holds no checksum",
    ),
    "damaged weights": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {**c, "weights.npz": b"x"}),
        r"a\.zip.weights\.npz: is damaged",
    ),
    "file missing": (
        lambda f, m: _rezipped(
            f / "a.zip", m["zip"], lambda c: {k: v for k, v in c.items() if k != "weights.npz"}
        ),
        "holds no weights.npz, which its card lists",
    ),
    "card leads out": (
        lambda f, m: _rezipped(
            f / "a.zip", m["zip"], _with_card(sha256={**_SUMS, "../../evil": "0"})
        ),
        "cannot be a file of a model",
    ),
    "entry leads out": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {**c, "../evil": b"x"}),
        "can lead out of it",
    ),
    "absolute entry": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {**c, "/tmp/evil": b"x"}),
        "can lead out of it",
    ),
    "drive letter": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], lambda c: {**c, "C:evil": b"x"}),
        "can lead out of it",
    ),
    "link": (lambda f, m: _with_link(f / "a.zip", m["zip"]), "a link"),
    "unusable name": (
        lambda f, m: _rezipped(f / "a.zip", m["zip"], _with_card(name="../a")),
        "cannot be a name",
    ),
    "name taken": (lambda f, m: m["zip"], f"exists already.*--name {SHIPPED.name}-2"),
    "empty folder": (lambda f, m: f, "not a model"),
}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def _with_link(path: Path, source: Path) -> Path:
    _rezipped(path, source, lambda contents: contents)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("also.onnx")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_of_ours_is_refused_and_leaves_nothing(
    registry: Registry, tmp_path: Path, handed_on: dict[str, Path], case: str
) -> None:
    make, reason = REFUSED[case]
    (tmp_path / "given").mkdir()
    given = make(tmp_path / "given", handed_on)
    before = sorted(tmp_path.rglob("*"))
    name = None if "name" in case else "back"
    with pytest.raises(InputError, match=reason) as caught:
        import_model(given, registry, name=name)
    assert "\n" not in str(caught.value)
    assert ".adding" not in str(caught.value)
    ours = {registry.root, registry.root / "versions", registry.root / ".lock"}
    assert set(tmp_path.rglob("*")) - ours == set(before)
    assert registry.current() == SHIPPED


def test_zip_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    registry: Registry, handed_on: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_archive, "MAX_BYTES", 3 * 2**20)
    monkeypatch.setattr(_archive.ModelArchive, "_blocks", lambda *a: pytest.fail("unpacked"))
    with pytest.raises(InputError, match="unpacks to 3 MiB; at most 3 MiB"):
        import_model(handed_on["zip"], registry, name="back")


def test_import_into_a_registry_that_cannot_be_written_to_says_so(
    tmp_path: Path, handed_on: dict[str, Path]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written to"):
        import_model(handed_on["zip"], Registry(tmp_path / "file" / "models"), name="back")


def test_commands_hand_a_model_on_and_take_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def models(*words: str) -> tuple[int, str, str]:
        arguments = ("models", *words, "--models", str(tmp_path / "reg"))
        return run(*arguments, monkeypatch=monkeypatch, capsys=capsys)

    assert models("export", SHIPPED.name) == (0, f"written: {SHIPPED.name}.zip\n", "")
    code, out, err = models("export", SHIPPED.name, "-o", "a.zip", "--onnx", "./a.zip")
    assert (code, out) == (2, "") and "name one file" in err
    # The second exists: neither is written.
    code, out, err = models("export", SHIPPED.name, "--onnx", "a.onnx", "-o", f"{SHIPPED.name}.zip")
    assert (code, out) == (2, "") and "--overwrite" in err
    assert not Path("a.onnx").exists()
    assert models("export", SHIPPED.name, "--onnx", "a.onnx", "-o", "b/c.zip")[0] == 2
    assert models("export", SHIPPED.name, "--onnx", "a.onnx", "--overwrite")[0] == 0
    assert models("import", f"{SHIPPED.name}.zip", "--name", "fish-1")[0] == 0
    code, out, _ = models("import", "a.onnx", "--name", "fish-2")
    assert code == 0 and "unfolded weights" in out
    code, out, _ = models("use", "fish-1")
    assert out == f"profile default uses fish-1, instead of {SHIPPED.name}\n"
    code, out, _ = models("list")
    head, *rows = out.splitlines()
    assert head.split() == ["name", "created", "(UTC)", "parent", "current", "for", "figures"]
    assert [row[:12].split() for row in rows] == [[SHIPPED.name], ["*", "fish-1"], ["fish-2"]]
    assert "default" in rows[1] and "default" not in rows[0]
    listed = json.loads(models("list", "--json")[1])
    assert [(v["name"], v["in_use"]) for v in listed][1] == ("fish-1", True)
    code, out, _ = models("show", "fish-2")
    assert code == 0 and "came without a card" in out and "files: whole" in out
    (tmp_path / "reg/versions/fish-2/model.onnx").write_bytes(b"x")
    assert "NOT USABLE" in models("show", "fish-2")[1]
    card = json.loads(models("show", "fish-1", "--json")[1])
    assert card["imported"]["name"] == SHIPPED.name
    assert models("export", "fish-2")[0] == 2  # damaged: not handed on
    assert not Path("fish-2.zip").exists()


def test_where_this_computer_keeps_its_stacks_is_not_handed_on(
    tmp_path: Path, slices: np.ndarray
) -> None:
    secret = [{"path": "/home/ada/patients/042.tif", "stack": "042"}]
    mine = replace(SHIPPED, card={**SHIPPED.card, "held_out": secret})
    export_zip(mine, tmp_path / "model.zip")
    export_bioimageio(mine, tmp_path / "package.zip", slices[0])
    for file in ("model.zip", "package.zip"):
        with zipfile.ZipFile(tmp_path / file) as archive:
            assert b"patients" not in b"".join(archive.read(name) for name in archive.namelist())
            assert json.loads(archive.read("card.json"))["name"] == SHIPPED.name
