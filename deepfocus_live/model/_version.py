"""A model version: one folder that cannot fall apart."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepfocus_live.errors import InputError
from deepfocus_live.model._contract import FORMAT_VERSION, open_session

__all__ = [
    "CARD",
    "ONNX",
    "WEIGHTS",
    "ModelVersion",
    "card_bytes",
    "listed_files",
    "read_version",
    "seal",
    "verify",
    "write_card",
]

ONNX = "model.onnx"
CARD = "card.json"
WEIGHTS = "weights.npz"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ModelVersion:
    """A model in the registry, or the one that ships.

    Attributes
    ----------
    name : str
        Unique in its registry; the folder's name.
    path : path
        The folder.
    card : dict
        What `card.json` holds: training data, settings, metrics, parent, checksums.
    fallback_reason : str or None
        Why this is not the version that was asked for; None: it is.
    """

    name: str
    path: Path
    card: dict[str, Any] = field(repr=False)
    fallback_reason: str | None = None

    @property
    def onnx(self) -> Path:
        """The graph's file."""
        return self.path / ONNX

    @property
    def weights(self) -> Path:
        """File of the unfolded weights, which retraining starts from; a bare graph has none."""
        return self.path / WEIGHTS

    @property
    def threshold(self) -> float:
        """Probability from which a pixel is in focus, 0..1."""
        return float(self.card.get("threshold", 0.5))

    @property
    def parent(self) -> str | None:
        """Name of the version that training started from."""
        parent = self.card.get("parent")
        return None if parent is None else str(parent)


def seal(folder: Path, card: dict[str, Any]) -> None:
    """Write `card` into `folder`, with the checksums of what lies beside it.

    Parameters
    ----------
    folder : path
        Holds graph and weights; a card that is there is replaced.
    card : dict
        What can be written as JSON.
    """
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.name != CARD}
    write_card(folder, {"format_version": FORMAT_VERSION, **card, "sha256": sums})


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `card` into `folder` as it is."""
    (folder / CARD).write_bytes(card_bytes(card))


def card_bytes(card: dict[str, Any]) -> bytes:
    """Return what a card's file holds."""
    return (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()


def listed_files(card: dict[str, Any], where: Path | str) -> list[str]:
    """Return the names of the files that belong to a card's model, the card itself left out.

    Raises
    ------
    InputError
        Naming `where`, if the card lists no graph, or anything but plain names: a card can come
        from a stranger, and its names must not lead out of the model's folder.
    """
    sums = card.get("sha256")
    if not isinstance(sums, dict) or ONNX not in sums:
        raise InputError(f"{where}: holds no checksum of {ONNX}")
    for name in sums:
        if not _PLAIN_NAME.fullmatch(name) or name == CARD:
            raise InputError(f"{where}: lists {name!r}, which cannot be a file of a model")
    return list(sums)


def read_version(folder: Path) -> ModelVersion:
    """Read the card of a model folder, without looking into the graph.

    Raises
    ------
    InputError
        If the folder, its card or its graph is missing, or the card cannot be read or is of
        another format version.
    """
    card_file = folder / CARD
    if not card_file.is_file() or not (folder / ONNX).is_file():
        raise InputError(f"{folder}: not a model; it must hold {ONNX} and {CARD}")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{card_file}: cannot be read as JSON ({error})") from error
    if not isinstance(card, dict):
        raise InputError(f"{card_file}: must hold a JSON object")
    if card.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{card_file}: format version {card.get('format_version')}, "
            f"this program reads {FORMAT_VERSION}"
        )
    return ModelVersion(str(card.get("name", folder.name)), folder, card)


def verify(version: ModelVersion, *, open_graph: bool = True) -> None:
    """Check a version's files against its card, and that its graph is one of ours.

    Parameters
    ----------
    version : ModelVersion
    open_graph : bool
        Whether the graph is opened, too, which takes longer than the checksums.

    Raises
    ------
    InputError
        If a file is missing or altered, or the graph cannot be used.
    """
    for name in listed_files(version.card, version.path / CARD):
        file = version.path / name
        if not file.is_file():
            raise InputError(f"{file}: is missing from the model {version.name}")
        if _sha256(file) != version.card["sha256"][name]:
            raise InputError(f"{file}: is damaged (its checksum is not the card's)")
    if open_graph:
        open_session(version.onnx)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
