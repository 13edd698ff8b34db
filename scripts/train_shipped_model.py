"""Train the model that ships, and write it with its card.

    nice python scripts/train_shipped_model.py STACK… --name shipped-3 \
        [--test STACK REGIONS.tif FOCUS.csv score_focus.py]

Learns from simulated stacks with true masks and from the given stacks with weak labels. The same
seed, stacks and number of threads give the same weights on the same machine. The finished model is
scored as by `score_model.py`; the scores go into its card.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _model_scores import tables
from numpy.typing import NDArray
from score_model import STACKS_PER_SEED, score_version

from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.simulation import SPECIMENS
from deepfocus_live.stacks import Stack, open_stacks
from deepfocus_live.training import (
    BatchMaker,
    Checkpoint,
    LabelledStack,
    fastest_precision,
    fit,
    held_out_slices,
    network_iou,
    simulated_stack,
    split,
    with_labels,
    write_model,
)

REAL_SHARE = 0.25  # of the crops; the rest is simulated
EMPTY_SHARE = 0.15  # of the crops: noise and empty fields
JUDGED_SEED_OFFSET = 1_000_000  # held-out simulation is of other seeds
SIMULATED_SHAPE = (7, 288, 288)
IOU_TO_SPARE = 0.01
THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
LEAST_SIDE = 256  # pixels of a crop; smaller stacks are mirrored at their edges


def main() -> None:
    """Train, export, score, write."""
    args = _arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    architecture = Architecture()
    learn, judged = _stacks(args, architecture.reduction)
    network = FocusNetwork(architecture)
    precision = fastest_precision(network)
    precision.prepare(network)
    examples = {kind: held_out_slices(stacks, 54) for kind, stacks in judged.items()}

    def judge(candidate: FocusNetwork) -> float:
        return float(np.mean([network_iou(candidate, slices) for slices in examples.values()]))

    began = time.monotonic()
    result = fit(
        network,
        BatchMaker(learn, seed=args.seed, empty_share=EMPTY_SHARE),
        judge=judge,
        learning_rate=args.learning_rate,
        precision=precision,
        max_steps=args.steps,
        looks=args.looks,
        on_checkpoint=_tell,
    )
    _choose_threshold(network, judged["simulated"])
    card: dict[str, Any] = {
        "description": "The model that ships: in-focus masks from one slice, no annotation used.",
        "license": "BSD-3-Clause",
        "parent": None,
        "trained_on": {
            "simulated_stacks": args.simulated,
            "real_stacks": [Path(path).name for path in args.stacks],
            "labels": "true masks of the simulation; consensus preset on real stacks",
        },
        "evidence": "real stacks: transmitted brightfield only; phase contrast and fluorescence "
        "simulated only; DIC none",
        "settings": {
            "command": "python scripts/train_shipped_model.py " + " ".join(_shown(sys.argv[1:])),
            "seed": args.seed,
            "steps": result.steps,
            "best_step": result.best_step,
            "batch": 8,
            "crop_px": LEAST_SIDE,
            "learning_rate": args.learning_rate,
            "precision": precision.name,
            "minutes": round((time.monotonic() - began) / 60.0, 1),
        },
    }
    _write(args, network, card, judged["real"][0].slices[:1].astype(np.uint16))


def _choose_threshold(network: FocusNetwork, stacks: list[LabelledStack]) -> None:
    """Set the highest threshold that costs next to no mean IoU over held-out simulated stacks.

    The curve is flat: of what is nearly equal, the most silent is the least surprise.
    """
    scores = {}
    for threshold in THRESHOLDS:
        network.threshold.fill_(255.0 * threshold)
        scores[threshold] = float(
            np.mean([network_iou(network, held_out_slices([s])) for s in stacks if s.any_in_focus])
        )
    best = max(scores.values())
    chosen = max(threshold for threshold, iou in scores.items() if iou >= best - IOU_TO_SPARE)
    told = ", ".join(f"{threshold} {iou:.4f}" for threshold, iou in scores.items())
    print(f"threshold {chosen} of: {told}", flush=True)
    network.threshold.fill_(255.0 * chosen)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="+", help="real stacks to learn from by weak labels")
    parser.add_argument("--name", required=True)
    parser.add_argument("--output", type=Path, default=Path("onnx_models"))
    parser.add_argument("--simulated", type=int, default=2400, help="number of simulated stacks")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    # Layers this small gain little from a second one.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--test", nargs=4, metavar=("STACK", "REGIONS", "FOCUS", "SCORER"), default=None
    )
    return parser.parse_args()


def _stacks(
    args: argparse.Namespace, reduction: int
) -> tuple[list[LabelledStack], dict[str, list[LabelledStack]]]:
    """Return what is learnt from, and what is judged by, by kind."""
    real = [
        with_labels(_Mirrored(stack), preset="consensus", reduction=reduction)
        for path in args.stacks
        for stack in open_stacks(path)
    ]
    real_learn, real_judged, words = split(real[:1])
    print("held out:", words, flush=True)
    real_learn += real[1:]
    simulated = _simulated(args.simulated, args.seed)
    weight = REAL_SHARE / (1.0 - REAL_SHARE) * len(simulated) / len(real_learn)
    learn = [replace(stack, weight=weight) for stack in real_learn]
    return [*learn, *simulated], {
        "real": real_judged,
        "simulated": _simulated(27, args.seed + JUDGED_SEED_OFFSET),
    }


@dataclass(frozen=True)
class _Mirrored:
    """A stack mirrored at its right and lower edge as often as a crop needs it."""

    stack: Stack

    @property
    def name(self) -> str:
        return self.stack.name

    @property
    def shape(self) -> tuple[int, int, int]:
        slices, height, width = self.stack.shape
        return slices, max(height, LEAST_SIDE), max(width, LEAST_SIDE)

    @property
    def pixel_size_um(self) -> Any:
        return self.stack.pixel_size_um

    @property
    def z_step_um(self) -> Any:
        return self.stack.z_step_um

    def __getitem__(self, z: int, /) -> NDArray[Any]:
        plane = np.asarray(self.stack[z])
        more = [(0, max(LEAST_SIDE - side, 0)) for side in plane.shape]
        return np.pad(plane, more, mode="symmetric")


def _simulated(count: int, seed: int) -> list[LabelledStack]:
    """Return simulated stacks of every specimen in turn, made by two processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as workers:
        return workers.map(_one, [(seed, number) for number in range(count)], chunksize=9)


def _one(seed: tuple[int, int]) -> LabelledStack:
    specimen = list(SPECIMENS)[seed[1] % len(SPECIMENS)]
    return simulated_stack(specimen, seed=seed, shape=SIMULATED_SHAPE)


def _tell(checkpoint: Checkpoint, done: float) -> None:
    print(
        f"{done:4.0%}  step {checkpoint.step}  loss {checkpoint.loss:.3f}  "
        f"held-out IoU {checkpoint.score:.3f}",
        flush=True,
    )


def _write(
    args: argparse.Namespace,
    network: FocusNetwork,
    card: dict[str, Any],
    sample: NDArray[np.uint16],
) -> None:
    """Write the model twice: once to score what will really run, then with the scores."""
    with tempfile.TemporaryDirectory() as folder:
        trial = write_model(
            Path(folder) / "trial", network, name=args.name, card=card, slices=sample
        )
        card["metrics"] = score_version(trial, args.test, STACKS_PER_SEED)
        print(tables(card["metrics"]))
        target = args.output / args.name
        shutil.rmtree(target, ignore_errors=True)
        write_model(target, network, name=args.name, card=card, template=trial.onnx)
    (args.output / "current").write_text(f"{args.name}\n", encoding="utf-8")


def _shown(arguments: list[str]) -> list[str]:
    """Return the arguments with files by their names: the card tells no one's folders."""
    kept = list(arguments)
    if "--output" in kept:
        where = kept.index("--output")
        del kept[where : where + 2]
    return [Path(argument).name if "/" in argument else argument for argument in kept]


if __name__ == "__main__":
    main()
