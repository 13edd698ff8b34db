"""The trainer's process: `python -m deepfocus_live.training._trainer_main FOLDER`.

A daemon starts it, with its order in FOLDER (see `_orders`). It runs what `retrain` runs, at the
lowest priority and within the configured budget of threads and memory, hands a candidate to the
registry, and never makes one current. Its exit code is 0 whatever became of the training, as the
last line of its news says that; 2 where it has no order that it could follow.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from deepfocus_live import _platform
from deepfocus_live.config import LearningConfig
from deepfocus_live.errors import InputError
from deepfocus_live.training._orders import TrainerFolder, TrainerOrder
from deepfocus_live.training._reins import EXIT_STOPPED, Reins, TrainingStoppedError

if TYPE_CHECKING:
    from deepfocus_live.training._report import Progress, RetrainReport

__all__ = ["main", "threads_of"]

_THREADS_OF_LIBRARIES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_LEAST_TOLD = 0.01  # of the whole: less than that is no news


def main(arguments: list[str] | None = None) -> int:
    """Follow the order in a folder; return the exit code."""
    [path] = sys.argv[1:] if arguments is None else arguments
    folder = TrainerFolder(Path(path))
    try:
        order = folder.order()
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _platform.lower_priority()
    threads = threads_of(order.config.learning)
    for variable in _THREADS_OF_LIBRARIES:
        # Read when the libraries are loaded, which has not been done yet.
        os.environ[variable] = str(threads)
    # What a killed training leaves goes with the folder.
    tempfile.tempdir = str(folder.scratch())
    with Reins(folder, order.owner) as reins:
        outcome = _outcome(order, folder, reins, threads)
    if reins.owner_gone:
        folder.remove()
        return EXIT_STOPPED
    folder.tell(outcome, last=True)
    return 0


def threads_of(learning: LearningConfig) -> int:
    """Return how many threads a trainer may have: half of the cores where nobody said."""
    return learning.threads or max(1, (psutil.cpu_count() or 1) // 2)


def _outcome(
    order: TrainerOrder, folder: TrainerFolder, reins: Reins, threads: int
) -> dict[str, Any]:
    try:
        report = _train(order, _teller(folder), reins, threads)
    except TrainingStoppedError:
        return _ended("stopped", "asked to stop; the same training goes on from here")
    except (InputError, OSError) as error:
        return _ended("failed", " ".join(str(error).split()))
    except Exception as error:
        traceback.print_exc()
        said = " ".join(str(error).split())
        return _ended("failed", f"{type(error).__name__}: {said} (the rest is in trainer.log)")
    return _of_report(report)


def _train(
    order: TrainerOrder, tell: Callable[[Progress], None], reins: Reins, threads: int
) -> RetrainReport:
    from deepfocus_live.focus import Conditions
    from deepfocus_live.model import Registry
    from deepfocus_live.training._retrain import retrain_job

    job, learning = order.job, order.config.learning
    if job.profile not in order.config.profiles:
        known = ", ".join(order.config.profiles)
        raise InputError(f"profile {job.profile}: not in the configuration; there are: {known}")
    profile = order.config.profiles[job.profile]
    return retrain_job(
        job,
        registry=Registry(order.models),
        preset=profile.label_preset,
        conditions=Conditions(**profile.imaging()),
        threads=threads,
        memory_mb=learning.memory_mb,
        gpu_memory_mb=learning.gpu_memory_mb,
        progress=tell,
        hold=reins.hold,
    )


def _teller(folder: TrainerFolder) -> Callable[[Progress], None]:
    """Return what writes progress down: every look at the network, else a line per percent."""
    told = -1.0
    look: dict[str, Any] = {"step": 0, "loss": None, "iou": None}

    def tell(news: Progress) -> None:
        nonlocal told, look
        if news.iou is not None:
            look = {"step": news.step, "loss": news.loss, "iou": news.iou}
        elif 0.0 <= news.done - told < _LEAST_TOLD:
            return
        told = news.done
        folder.tell({**look, "done": round(news.done, 4), "message": news.message})

    return tell


def _ended(state: str, reason: str) -> dict[str, Any]:
    return {"state": state, "version": None, "reason": reason, "metrics": {}}


def _of_report(report: RetrainReport) -> dict[str, Any]:
    return {
        "state": "passed" if report.passed else "refused",
        "version": report.name,
        "reason": "passed the gate" if report.passed else report.reason.removeprefix("refused: "),
        "metrics": {
            "parent": report.parent,
            "iou_before": report.iou_before,
            "iou_after": report.iou_after,
            "truth": report.truth,
            "held_out": report.held_out,
            "empty_share_before": report.empty_share_before,
            "empty_share_after": report.empty_share_after,
            "steps": report.steps,
            "minutes": report.minutes,
            "stacks": len(report.learnt_from),
            "left_out": list(report.left_out),
            "checks": [asdict(check) for check in report.checks],
        },
    }


if __name__ == "__main__":
    sys.exit(main())
