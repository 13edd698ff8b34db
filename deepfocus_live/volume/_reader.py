"""Reading a run directory, also while it grows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from deepfocus_live.frames import RunSpec
from deepfocus_live.volume._journal import read_journal
from deepfocus_live.volume._layout import open_levels
from deepfocus_live.volume._run import CORRECTED, LABELS, read_run_json

__all__ = ["Run", "RunImage", "open_run"]


@dataclass(frozen=True)
class RunImage:
    """One position × tile of a run: zarr arrays (t, c, z, y, x), read when indexed."""

    image: zarr.Array[Any]
    labels: dict[str, zarr.Array[Any]]
    """`in_focus`, `weak_label`, `undecided`: uint8, 0 or 1. Where a person corrected masks also
    `corrected`: 0 not in focus, 1 in focus, 2 undecided; only zeros: not corrected."""
    probability: zarr.Array[Any]
    """uint8, 0 to 255, a quarter of the image's width and height."""

    @property
    def in_focus(self) -> zarr.Array[Any]:
        """The network's masks."""
        return self.labels["in_focus"]


class Run:
    """A run directory as lazily read arrays. Make one with `open_run`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = read_run_json(path)
        self.spec = RunSpec.model_validate(self.record["spec"])

    @property
    def journal(self) -> list[dict[str, Any]]:
        """The lines of the journal so far: the truth of which slices exist."""
        return list(read_journal(self.path / "frames.jsonl"))

    @property
    def state(self) -> str:
        """How the run ended: `completed`, `canceled`, `errored`, `interrupted`, or `open`."""
        ends = [line["reason"] for line in self.journal if line["kind"] == "end"]
        return ends[-1] if ends else "open"

    @cached_property
    def images(self) -> list[RunImage]:
        """The run's images, one per position × tile."""
        store = LocalStore(self.path / "volume.ome.zarr", read_only=True)
        chance = LocalStore(self.path / "probability.ome.zarr", read_only=True)
        series = zarr.open_group(store, path="OME", mode="r").attrs["ome"]["series"]  # type: ignore[index,call-overload]
        return [_open_image(store, chance, str(number)) for number in series]  # type: ignore[union-attr]


def _open_image(store: LocalStore, chance: LocalStore, number: str) -> RunImage:
    drawn = (store.root / number / "labels" / CORRECTED / "zarr.json").is_file()
    names = (*LABELS, CORRECTED) if drawn else LABELS
    return RunImage(
        image=open_levels(store, number)[0],
        labels={label: open_levels(store, f"{number}/labels/{label}")[0] for label in names},
        probability=open_levels(chance, number)[0],
    )


def open_run(path: Path | str) -> Run:
    """Open a run directory for reading.

    Raises
    ------
    InputError
        If `path` is no run directory.
    """
    return Run(Path(path))
