"""Handing a model on as one file, and taking one back."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deepfocus_live.errors import InputError
from deepfocus_live.model._archive import MAX_BYTES, ModelArchive, new_file, write_zip
from deepfocus_live.model._contract import FORMAT_VERSION, INPUT, OUTPUTS, open_session
from deepfocus_live.model._registry import Registry
from deepfocus_live.model._version import (
    CARD,
    ONNX,
    ModelVersion,
    card_bytes,
    listed_files,
    read_version,
    seal,
    verify,
    write_card,
)

__all__ = ["export_bare_onnx", "export_zip", "import_model"]

_ZIP_MAGIC = b"PK"
_OF_THIS_COMPUTER = {"held_out"}  # where the stacks lie that the next training is judged by
_RDF_NAMES = ("rdf.yaml", "bioimageio.yaml")
_TAKEN = (
    "import takes a zip or folder of `models export`, its BioImage.IO package, or an ONNX file of "
    "this program"
)


def export_zip(version: ModelVersion, path: Path, *, overwrite: bool = False) -> None:
    """Write a version's folder as one zip: everything that `import_model` needs.

    The same version gives the same bytes.

    Parameters
    ----------
    version : ModelVersion
    path : path
        The zip, in a folder that exists.
    overwrite : bool
        Whether a file that is there is replaced.

    Raises
    ------
    InputError
        If the version is damaged, or if `path` exists or cannot be written.
    """
    verify(version)
    with new_file(path, overwrite=overwrite) as temporary:
        write_zip(temporary, version_files(version))


def export_bare_onnx(version: ModelVersion, path: Path, *, overwrite: bool = False) -> None:
    """Write a version's graph alone. Its name, architecture and threshold are in it; no card is.

    Parameters
    ----------
    version : ModelVersion
    path : path
        The ONNX file, in a folder that exists.
    overwrite : bool
        Whether a file that is there is replaced.

    Raises
    ------
    InputError
        If the version is damaged, or if `path` exists or cannot be written.
    """
    verify(version)
    with new_file(path, overwrite=overwrite) as temporary:
        shutil.copyfile(version.onnx, temporary)


def version_files(version: ModelVersion) -> dict[str, Path | bytes]:
    """Return the files of a version by name, the card first: without what is of this computer."""
    card = {key: value for key, value in version.card.items() if key not in _OF_THIS_COMPUTER}
    names = listed_files(version.card, version.path / CARD)
    return {CARD: card_bytes(card), **{name: version.path / name for name in names}}


def import_model(
    source: Path | str, registry: Registry, *, name: str | None = None
) -> ModelVersion:
    """Take a model into a registry; it is not made current.

    Parameters
    ----------
    source : path
        What `export_zip` or `export_bioimageio` wrote, such a zip unpacked, a version's folder, or
        an ONNX file of ours. Of a zip or folder only what its card lists is taken.
    registry : Registry
    name : str, optional
        By default the name in the card or the ONNX file.

    Returns
    -------
    ModelVersion
        Its card says under `imported` where it came from.

    Raises
    ------
    InputError
        If it is damaged or no model of ours, if the name is taken, or if the registry cannot be
        written to. Nothing is changed then.
    """
    path = Path(source)
    if path.is_dir():
        return _import_folder(path, registry, name)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file or folder")
    with path.open("rb") as file:
        is_zip = file.read(2) == _ZIP_MAGIC
    return (_import_zip if is_zip else _import_onnx)(path, registry, name)


def _import_folder(path: Path, registry: Registry, name: str | None) -> ModelVersion:
    version = read_version(path)
    _check_fields(version.card, path / CARD)
    files = [path / file for file in listed_files(version.card, path / CARD)]
    verify(version)
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB; no model of ours is")

    def fill(staged: Path) -> None:
        for file in files:
            shutil.copyfile(file, staged / file.name)

    return _take(version.card, fill, path, registry, name)


def _import_zip(path: Path, registry: Registry, name: str | None) -> ModelVersion:
    with ModelArchive(path) as archive:
        inside = archive.folder_of(CARD)
        if inside is None:
            raise InputError(_no_card(archive))
        card = _parsed_card(archive.read_text(inside + CARD), f"{path}: {inside}{CARD}")
        names = [inside + file for file in listed_files(card, f"{path}: {inside}{CARD}")]

        def fill(staged: Path) -> None:
            archive.unpack(names, staged)

        return _take(card, fill, path, registry, name)


def _import_onnx(path: Path, registry: Registry, name: str | None) -> ModelVersion:
    try:
        session = open_session(path)
    except InputError as error:
        raise InputError(f"{error} ({_TAKEN})") from error
    about = session.get_modelmeta().custom_metadata_map
    try:
        card = {
            "name": about["name"],
            "created": _now(),
            "architecture": _object(json.loads(about["architecture"])),
            "threshold": _share(about["threshold"]),
            "parent": None,
            "description": f"Taken from {path.name} alone, which came without a card: how it was "
            "trained and how good it is are not known.",
        }
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: its metadata do not say which architecture and threshold it has ({error}); "
            f"{_TAKEN}"
        ) from error

    def fill(staged: Path) -> None:
        shutil.copyfile(path, staged / ONNX)
        seal(staged, card)

    return _take(card, fill, path, registry, name)


def _take(
    card: dict[str, Any],
    fill: Callable[[Path], None],
    source: Path,
    registry: Registry,
    name: str | None,
) -> ModelVersion:
    """Have `fill` write a version's files into the registry, and add where they came from."""
    own_name = str(card.get("name", ""))
    with registry.staging(name or own_name) as staged:
        fill(staged)
        sealed = (staged / CARD).is_file()
        whole = json.loads((staged / CARD).read_text(encoding="utf-8")) if sealed else card
        came = {"file": source.name, "name": own_name, "date": _now()}
        write_card(staged, {**whole, "name": staged.name, "imported": came})
        try:
            verify(read_version(staged))
        except InputError as error:
            # The user knows of the source alone.
            raise InputError(str(error).replace(str(staged), str(source))) from error
    return registry.get(name or own_name)


def _parsed_card(text: str, where: str) -> dict[str, Any]:
    try:
        card = _object(json.loads(text))
    except ValueError as error:
        raise InputError(f"{where} cannot be read as a JSON object ({error})") from error
    if card.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{where}: format version {card.get('format_version')}, "
            f"this program reads {FORMAT_VERSION}"
        )
    _check_fields(card, where)
    return card


def _check_fields(card: dict[str, Any], where: Path | str) -> None:
    try:
        _object(card.get("architecture"))
        _share(card.get("threshold"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: architecture or threshold cannot be used ({error})") from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]!r} is no JSON object")
    return value


def _share(value: Any) -> float:
    share = float(value)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{share} is not within 0..1")
    return share


def _no_card(archive: ModelArchive) -> str:
    """Say what a zip without a card of ours is instead."""
    for name in _RDF_NAMES:
        if (inside := archive.folder_of(name)) is not None:
            takes, gives = _described(archive.read_text(inside + name))
            return (
                f"{archive.path}: a BioImage.IO package of another program, which takes ({takes}) "
                f"and gives ({gives}); a model of ours takes ({INPUT}) and gives "
                f"({'; '.join(str(output) for output in OUTPUTS)})"
            )
    held = ", ".join(archive.names[:5]) or "nothing"
    more = " …" if len(archive.names) > 5 else ""
    return f"{archive.path}: holds no {CARD}, but {held}{more}; {_TAKEN}"


def _described(rdf: str) -> tuple[str, str]:
    """Return what a BioImage.IO description says of inputs and outputs."""
    try:
        about = yaml.safe_load(rdf)
        sides = [[_tensor(tensor) for tensor in about[side]] for side in ("inputs", "outputs")]
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        return "what cannot be read", "what cannot be read"
    return "; ".join(sides[0]), "; ".join(sides[1])


def _tensor(tensor: dict[str, Any]) -> str:
    axes = tensor["axes"]
    listed = [str(a.get("id", a.get("type")) if isinstance(a, dict) else a) for a in axes]
    kind = tensor.get("data", {}).get("type", "float32") if "data" in tensor else ""
    return " ".join(f"{tensor.get('id', tensor.get('name'))} {kind} {'·'.join(listed)}".split())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
