"""Reading a run directory, also while it grows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement, RunSpec
from deepfocus_live.volume._folder import JOURNAL, keeps_pixels, read_run_json, spec_of
from deepfocus_live.volume._journal import read_journal
from deepfocus_live.volume._layout import open_levels
from deepfocus_live.volume._recompute import MASKS_OF
from deepfocus_live.volume._run_layout import CORRECTED, LABELS, slice_at

__all__ = ["Run", "RunImage", "open_run"]


@dataclass(frozen=True)
class RunImage:
    """One position × tile of a run: zarr arrays (t, c, z, y, x), read when indexed.

    Of a colour camera the image has three channels, red, green and blue, for each that the labels
    have.
    """

    image: zarr.Array[Any]
    """Raw counts, uint8 or uint16, at full resolution."""
    labels: dict[str, zarr.Array[Any]]
    """By name: `in_focus`, `weak_label` and `undecided`, uint8, 0 or 1. Where a person corrected
    masks also `corrected`: 0 not in focus, 1 in focus, 2 undecided; only zeros: not corrected. And
    for each model that the whole run was segmented with again `in_focus_<version>`."""
    probability: zarr.Array[Any]
    """uint8, 0 to 255, a quarter of the image's width and height."""
    samples_per_pixel: int = 1
    """3: red, green and blue."""

    def read_slice(self, t: int, c: int, z: int) -> NDArray[Any]:
        """Return one slice of a channel, (Y, X), of a colour camera (3, Y, X); numbers from 0."""
        at = slice_at(Placement(0, t, c, z), self.samples_per_pixel)
        return np.asarray(self.image[at])

    @property
    def in_focus(self) -> zarr.Array[Any]:
        """The network's masks, uint8, 0 or 1."""
        return self.labels["in_focus"]

    def dask(self, label: str | None = None) -> Any:
        """Return the image, or one of its `labels`, as a dask array (t, c, z, y, x) of slices.

        A slice is read when it is computed: what has been stored since the call is seen then.

        Raises
        ------
        InputError
            If dask is not installed, or there is no such label.
        """
        if label is not None and label not in self.labels:
            raise InputError(f"no label {label!r}; there are: {', '.join(self.labels)}.")
        return _as_dask(self.image if label is None else self.labels[label])


class Run:
    """A run directory as lazily read arrays. Make one with `open_run`.

    Attributes
    ----------
    path : Path
        The run directory.
    record : dict
        What its `run.json` holds.
    spec : RunSpec
        What was planned: images, channels, calibration.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = read_run_json(path)
        self.spec: RunSpec = spec_of(path, self.record)

    @property
    def pixels_stored(self) -> bool:
        """Whether the slices' pixels are kept; without, `image` reads as zeros."""
        return keeps_pixels(self.record)

    @property
    def journal(self) -> list[dict[str, Any]]:
        """The lines of the journal so far, the truth of which slices exist."""
        return list(read_journal(self.path / JOURNAL))

    @property
    def state(self) -> str:
        """How the run ended, `completed`, `canceled`, `errored` or `interrupted`, or `open`."""
        ends = [line["reason"] for line in self.journal if line["kind"] == "end"]
        return ends[-1] if ends else "open"

    @cached_property
    def images(self) -> list[RunImage]:
        """The run's images, one per position × tile, in the order of their numbers."""
        store = LocalStore(self.path / "volume.ome.zarr", read_only=True)
        chance = LocalStore(self.path / "probability.ome.zarr", read_only=True)
        series = zarr.open_group(store, path="OME", mode="r").attrs["ome"]["series"]  # type: ignore[index,call-overload]
        samples = self.spec.samples_per_pixel
        # In the order of their numbers, also where they lie in the wells of a plate.
        return [_open_image(store, chance, str(path), samples) for path in series]  # type: ignore[union-attr]


def _open_image(store: LocalStore, chance: LocalStore, path: str, samples: int) -> RunImage:
    names = (*LABELS, *_later_labels(store.root / path / "labels"))
    return RunImage(
        image=open_levels(store, path)[0],
        labels={label: open_levels(store, f"{path}/labels/{label}")[0] for label in names},
        probability=open_levels(chance, path)[0],
        samples_per_pixel=samples,
    )


def _later_labels(home: Path) -> list[str]:
    """Return the labels that were added to an image after its acquisition."""
    found = sorted(path.parent.name for path in home.glob("*/zarr.json"))
    return [name for name in found if name == CORRECTED or name.startswith(MASKS_OF)]


def _as_dask(array: zarr.Array[Any]) -> Any:
    try:
        dask_array: Any = import_module("dask.array")
    except ImportError:
        raise InputError(
            "dask arrays need dask: pip install deepfocus-live[dask], or index the zarr arrays."
        ) from None
    # Not named after its contents, which grow.
    return dask_array.from_array(array, chunks=array.chunks, name=False)


def open_run(path: Path | str) -> Run:
    """Open a run directory for reading.

    Parameters
    ----------
    path : path
        The run directory, also of a run that still grows.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If `path` is no run directory, or its `run.json` cannot be read or is of another format
        version.
    """
    return Run(Path(path))
