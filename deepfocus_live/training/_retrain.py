"""Fine-tuning on the user's own stacks: label, learn, export, gate, register."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from deepfocus_live.errors import InputError
from deepfocus_live.focus import DEFAULT_PRESET, Conditions
from deepfocus_live.model import ModelVersion, Registry
from deepfocus_live.model.network import Architecture
from deepfocus_live.training._account import (
    Settings,
)
from deepfocus_live.training._addressed import gather_job
from deepfocus_live.training._examples import SliceStack
from deepfocus_live.training._fit import never_held
from deepfocus_live.training._inputs import fingerprint, gather
from deepfocus_live.training._job import TrainingJob
from deepfocus_live.training._report import Progress, RetrainReport
from deepfocus_live.training._retraining import Inputs, Retraining

__all__ = ["retrain", "retrain_job"]


def _ignore(_: Progress) -> None:
    """Tell nobody."""


def retrain(
    stacks: Sequence[SliceStack | Path | str],
    *,
    registry: Registry,
    minutes: float,
    pairs: Sequence[tuple[Path | str, Path | str]] = (),
    profile: str = "default",
    preset: str = DEFAULT_PRESET,
    conditions: Conditions | None = None,
    start_from: ModelVersion | None = None,
    from_scratch: Architecture | None = None,
    activate: bool = False,
    fresh: bool = False,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] = _ignore,
) -> RetrainReport:
    """Teach the network a kind of specimen, and register what came of it.

    Labels every stack by rule, puts hand-made masks in their place where there are some, holds
    some stacks out, trains for what is left of `minutes`, exports the best weights, compares them
    with the parent's through the gate, and adds the new version with a report to the registry
    whether it passed or not. Blocking; meant for a process of its own, and works with `spawn`. If
    that is killed, the next call with the same stacks and settings goes on from where it was.

    Parameters
    ----------
    stacks : sequence of stacks or paths
        Opened stacks, or whatever `deepfocus_live.stacks.open_stacks` opens. The label `corrected`
        of an OME-Zarr or a run is used by itself.
    registry : Registry
    minutes : float
        Of the whole call, > 0; kept within a tenth. What was spent before a kill counts.
    pairs : sequence of (path, path)
        Stacks with their hand-made masks, as `deepfocus_live.stacks.open_masks` opens them.
    profile : str
        Whose current model is replaced.
    preset : str
        How stacks are labelled.
    conditions : Conditions, optional
        How they were imaged; what a stack itself says of its calibration goes before.
    start_from : ModelVersion, optional
        By default the profile's current model.
    from_scratch : Architecture, optional
        Start from random weights of this network; `start_from`, or the current model, is then only
        compared with.
    activate : bool
        Make the new version current if it passes the gate.
    fresh : bool
        Begin anew, whatever a killed training has left.
    threads : int, optional
        CPU threads for training; by default as many as torch would take, or one if others keep
        the cores busy.
    seed : int
    progress : callable
        Called from time to time with a `Progress`.

    Returns
    -------
    RetrainReport

    Raises
    ------
    InputError
        If no stack can be opened or learnt from, the specimen drifts sideways in all of them,
        nothing is in focus anywhere, masks do not fit, `minutes` is too short for a single step,
        or the parent's weights cannot be used. Nothing is registered then.
    OSError
        If the new model cannot be saved. Nothing is registered then.
    """
    if not minutes > 0:
        raise InputError(f"minutes is {minutes}; it must be above 0")
    settings = Settings(
        minutes, profile, preset, conditions, from_scratch, activate, fresh, threads, seed
    )
    inputs = Inputs(
        lambda files, _: gather(stacks, pairs, files),
        lambda depends_on: fingerprint(stacks, pairs, depends_on),
    )
    parent = start_from or registry.current(profile)
    return _retrain(settings, registry, parent, inputs, progress, never_held)


def retrain_job(
    job: TrainingJob,
    *,
    registry: Registry,
    preset: str = DEFAULT_PRESET,
    conditions: Conditions | None = None,
    threads: int | None = None,
    memory_mb: int = 1500,
    gpu_memory_mb: int | None = None,
    progress: Callable[[Progress], None] = _ignore,
    hold: Callable[[], float] = never_held,
) -> RetrainReport:
    """Do what `retrain` does with stacks of runs, new and replayed ones; nothing is activated.

    Labels that are stored in the runs are used where `preset` made them, and the label `corrected`
    in the slices that a person reviewed. Stacks that cannot be read are left out.

    Parameters
    ----------
    job : TrainingJob
    registry, preset, conditions, threads, progress
        As of `retrain`.
    memory_mb : int
        For slices and all that is made of them, in MB; libraries take 0.4 GB beside.
    gpu_memory_mb : int, optional
        That torch may take of the GPU; by default all.
    hold : callable
        Called between two steps: returns when training may go on, and how many seconds that took,
        which are not counted. What it raises ends the training; the next call with the same job
        goes on from there.

    Returns
    -------
    RetrainReport

    Raises
    ------
    InputError, OSError
        As `retrain` does.
    """
    settings = Settings(
        job.minutes,
        job.profile,
        preset,
        conditions,
        threads=threads,
        memory_mb=memory_mb,
        gpu_memory_mb=gpu_memory_mb,
        nobody_asks=True,
    )
    inputs = Inputs(
        lambda files, leave_out: gather_job(job, preset, files, leave_out),
        lambda depends_on: fingerprint((), (), {**depends_on, "job": job.as_dict()}),
    )
    parent = registry.current(job.profile) if job.parent is None else registry.get(job.parent)
    return _retrain(settings, registry, parent, inputs, progress, hold)


def _retrain(
    settings: Settings,
    registry: Registry,
    parent: ModelVersion,
    inputs: Inputs,
    progress: Callable[[Progress], None],
    hold: Callable[[], float],
) -> RetrainReport:
    with tempfile.TemporaryDirectory(prefix="deepfocus-retrain-") as folder:
        return Retraining(settings, registry, parent, Path(folder), progress, hold).run(inputs)
