"""The runs as the page knows them: open ones, and all that lie in the output folder."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deepfocus_live.daemon._page._earlier_runs import EarlierRuns, KnownRun
from deepfocus_live.daemon._page._run_history import RunHistory
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration, Placement
from deepfocus_live.volume import Run, RunImage, open_run
from deepfocus_live.web import NotPossibleError, StoredSlice

__all__ = ["KnownPaths", "RunCatalog"]

_MOST_OPENED = 4
_MOST_HISTORIES = 4
_MOST_SLICES = 2


class KnownPaths(Protocol):
    """Who knows the runs of this daemon's life."""

    def paths(self) -> dict[str, Path]:
        """Return their folders by id, oldest first."""
        ...

    def still_open(self) -> dict[str, bool]:
        """Return the ids of those that are worked on, and whether frames may still come."""
        ...


class RunCatalog:
    """Lists runs and reads their slices back. Thread-safe.

    Parameters
    ----------
    output : Path
        Folder that runs are written into.
    live : KnownPaths
        The runs of this daemon's life, wherever they lie.
    threshold : callable
        Returns the threshold of a model's version, None where that is not known.
    """

    def __init__(
        self, output: Path, live: KnownPaths, *, threshold: Callable[[str], float | None]
    ) -> None:
        self._live = live
        self._threshold = threshold
        self._earlier = EarlierRuns(output)
        self._lock = threading.Lock()
        self._opened: OrderedDict[Path, Run] = OrderedDict()
        self._histories: OrderedDict[Path, RunHistory] = OrderedDict()
        self._slices: OrderedDict[tuple[Any, ...], StoredSlice] = OrderedDict()

    def find(self, run_id: str) -> KnownRun:
        """Return a run; KeyError if there is none of that id."""
        path = self._live.paths().get(run_id)
        found = None if path is None else self._earlier.look_into(path)
        return found or self._earlier.all()[run_id]

    def history(self, run_id: str) -> RunHistory:
        """Return what a run's journal says so far; KeyError if there is no such run."""
        run = self.find(run_id)
        with self._lock:
            history = self._histories.pop(run.path, None) or RunHistory(run.path, run.spec)
            self._histories[run.path] = history
            while len(self._histories) > _MOST_HISTORIES:
                self._histories.popitem(last=False)
        return history.look()

    def acquiring(self, run_id: str) -> bool:
        """Return whether frames may still come for a run."""
        return self._live.still_open().get(run_id, False)

    # ---------------------------------------------------- what the page asks

    def list_runs(self) -> list[dict[str, Any]]:
        """Return the runs there are, newest first."""
        runs = dict(self._earlier.all())
        for run_id, path in self._live.paths().items():
            if run_id not in runs and (run := self._earlier.look_into(path)) is not None:
                runs[run_id] = run
        newest = sorted(runs.values(), key=lambda run: run.started or 0.0, reverse=True)
        return [self._described(run) for run in newest]

    def describe_run(self, run_id: str) -> dict[str, Any]:
        """Return one run with its curves; KeyError if there is none."""
        history = self.history(run_id)
        stacks = [_stack(history, *found) for found in history.stacks().items()]
        return {
            **self._described(self.find(run_id)),
            "frames": len(history.frames),
            "stacks": stacks,
            "agreement": history.agreement,
        }

    def agreements(self) -> list[dict[str, Any]]:
        """Return what was noted of how masks agree with the rule, oldest first."""
        runs = sorted(self._earlier.all().values(), key=lambda run: run.started or 0.0)
        return [line for run in runs for line in self._earlier.glance(run).agreement]

    def store_of(self, run_id: str) -> Path:
        """Return the folder of a run's volume; KeyError if there is none."""
        return self.find(run_id).path / "volume.ome.zarr"

    def read_slice(self, run_id: str, placement: Placement) -> StoredSlice:
        """Return one stored slice.

        Raises
        ------
        KeyError
            If there is no such slice.
        NotPossibleError
            If its run keeps no pixels.
        """
        run, history = self.find(run_id), self.history(run_id)
        if placement not in history.frames:
            raise KeyError(f"{run_id}: {placement}")
        if not run.pixels_stored:
            raise NotPossibleError("This run keeps masks only: there are no pictures of it.")
        label = history.labels.get(placement[:3])
        key = (run.path, placement, history.masks.get(placement), label and tuple(label))
        with self._lock:
            kept = self._slices.get(key)
        if kept is None:
            kept = self._read(run, history, placement)
            with self._lock:
                self._slices[key] = kept
                while len(self._slices) > _MOST_SLICES:
                    self._slices.popitem(last=False)
        return kept

    # ---------------------------------------------------------------- inside

    def _described(self, run: KnownRun) -> dict[str, Any]:
        spec, glance = run.spec, self._earlier.glance(run)
        working = self._live.still_open()
        acquiring = working.get(spec.run_id, False)
        return {
            "id": spec.run_id,
            "name": spec.name,
            "started": run.started,
            "state": "open" if acquiring else glance.ended or "open",
            "here": spec.run_id in working,
            "height_px": spec.height_px,
            "width_px": spec.width_px,
            "dtype": spec.dtype,
            "colour": spec.samples_per_pixel > 1,
            "images": [
                {"name": name, "size_t": size_t, "size_z": size_z}
                for name, size_t, size_z in glance.sizes
            ],
            "channels": [
                {"name": channel.name, "profile": spec.profile_of(number)}
                for number, channel in enumerate(spec.channels)
            ],
            "pixel_size_um": _length(spec.pixel_size_um),
            "z_step_um": _length(spec.z_step_um),
            "pixels_stored": run.pixels_stored,
        }

    def _read(self, run: KnownRun, history: RunHistory, placement: Placement) -> StoredSlice:
        try:
            return self._read_from(self._image(run.path, placement.image), history, placement)
        except (IndexError, InputError, OSError, ValueError):
            # It has grown since it was opened, or somebody has replaced it.
            with self._lock:
                self._opened.pop(run.path, None)
        try:
            return self._read_from(self._image(run.path, placement.image), history, placement)
        except (IndexError, InputError, OSError) as error:
            raise KeyError(str(error)) from None

    def _image(self, path: Path, number: int) -> RunImage:
        with self._lock:
            run = self._opened.pop(path, None) or open_run(path)
            self._opened[path] = run
            while len(self._opened) > _MOST_OPENED:
                self._opened.popitem(last=False)
            return run.images[number]

    def _read_from(self, image: RunImage, history: RunHistory, placement: Placement) -> StoredSlice:
        at = placement[1:]
        mask = history.masks.get(placement)
        labelled = placement[:3] in history.labels
        frame = history.frames[placement]
        return StoredSlice(
            pixels=image.read_slice(*at),
            mask=None if mask is None else np.asarray(image.in_focus[at]),
            probability=None if mask is None else np.asarray(image.probability[at]),
            threshold=None if mask is None or mask.model is None else self._threshold(mask.model),
            undecided=np.asarray(image.labels["undecided"][at]) if labelled else None,
            labelled=labelled,
            z_um=frame.z_um,
            sequence_number=frame.sequence_number,
            spec=history.spec.model_copy(update={"images": tuple(history.images)}),
        )


def _length(length: Calibration | None) -> dict[str, Any] | None:
    return None if length is None else {"um": length.um, "source": length.source}


def _stack(history: RunHistory, stack: tuple[int, int, int], zs: list[int]) -> dict[str, Any]:
    image, t, c = stack
    places = [Placement(*stack, z) for z in zs]
    masks = [history.masks.get(place) for place in places]
    label = history.labels.get(stack)
    fractions = {z: mask.in_focus_fraction for z, mask in zip(zs, masks, strict=True) if mask}
    best = max(fractions, key=fractions.__getitem__, default=None)
    return {
        "image": image,
        "t": t,
        "c": c,
        "z": zs,
        "z_um": [history.frames[place].z_um for place in places],
        "in_focus_fraction": [None if mask is None else mask.in_focus_fraction for mask in masks],
        "focus_score": [None if mask is None else mask.focus_score for mask in masks],
        "labelled_fraction": [label[z] if label and z < len(label) else None for z in zs],
        "labelled": label is not None,
        "best_z": best if best is not None and fractions[best] else None,
    }
