"""Train the model that ships, and write it with its card.

    nice python scripts/train_shipped_model.py STACK… --name shipped-1 \
        [--test STACK REGIONS.tif FOCUS.csv score_focus.py]

Learns from simulated stacks with true masks and from the given stacks with weak labels. The same
seed, stacks and number of threads give the same weights on the same machine. With `--test` the
finished model is scored on a stack that it never saw; the scores go into its card.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import ModelVersion
from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.stacks import open_stacks
from deepfocus_live.training import (
    BatchMaker,
    Checkpoint,
    LabelledStack,
    empty_share,
    fastest_precision,
    fit,
    held_out_slices,
    model_iou,
    network_iou,
    simulated_stacks,
    split,
    with_weak_labels,
    write_model,
)

REAL_SHARE = 0.35  # of the crops; the rest is simulated
EMPTY_SHARE = 0.2  # of the crops: noise and empty fields
JUDGED_SEED_OFFSET = 1_000_000  # held-out simulation is of other seeds


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
    card: dict[str, Any] = {
        "description": "The model that ships: in-focus masks from one slice, no annotation used.",
        "license": "BSD-3-Clause",
        "parent": None,
        "trained_on": {
            "simulated_stacks": args.simulated,
            "real_stacks": [Path(path).name for path in args.stacks],
            "labels": "true masks of the simulation; axial preset on real stacks",
        },
        "settings": {
            "command": "python scripts/train_shipped_model.py " + " ".join(_shown(sys.argv[1:])),
            "seed": args.seed,
            "steps": result.steps,
            "best_step": result.best_step,
            "batch": 8,
            "crop_px": 256,
            "learning_rate": args.learning_rate,
            "precision": precision.name,
            "minutes": round((time.monotonic() - began) / 60.0, 1),
        },
    }
    _write(args, network, card, judged)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="+", help="real stacks to learn from by weak labels")
    parser.add_argument("--name", required=True)
    parser.add_argument("--output", type=Path, default=Path("onnx_models"))
    parser.add_argument("--simulated", type=int, default=96, help="number of simulated stacks")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--looks", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--test", nargs=4, metavar=("STACK", "REGIONS", "FOCUS", "SCORER"), default=None
    )
    return parser.parse_args()


def _stacks(
    args: argparse.Namespace, reduction: int
) -> tuple[list[LabelledStack], dict[str, list[LabelledStack]]]:
    """Return what is learnt from, and what is judged by, by kind."""
    real = [
        with_weak_labels(stack, preset="axial", reduction=reduction)
        for path in args.stacks
        for stack in open_stacks(path)
    ]
    real_learn, real_judged, words = split(real)
    print("held out:", words, flush=True)
    simulated = simulated_stacks(args.simulated, seed=args.seed, reduction=reduction)
    weight = REAL_SHARE / (1.0 - REAL_SHARE) * len(simulated) / len(real_learn)
    learn = [LabelledStack(s.name, s.slices, s.target, weight) for s in real_learn]
    return [*learn, *simulated], {
        "real": real_judged,
        "simulated": simulated_stacks(12, seed=args.seed + JUDGED_SEED_OFFSET, reduction=reduction),
    }


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
    judged: dict[str, list[LabelledStack]],
) -> None:
    """Write the model twice: once to score what will really run, then with the scores."""
    sample = judged["real"][0].slices[:1].astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        trial = write_model(
            Path(folder) / "trial", network, name=args.name, card=card, slices=sample
        )
        card["metrics"] = _metrics(args, trial, judged)
        print(json.dumps(card["metrics"], indent=2))
        target = args.output / args.name
        shutil.rmtree(target, ignore_errors=True)
        write_model(target, network, name=args.name, card=card, template=trial.onnx)
    (args.output / "current").write_text(f"{args.name}\n", encoding="utf-8")


def _metrics(
    args: argparse.Namespace, trial: ModelVersion, judged: dict[str, list[LabelledStack]]
) -> dict[str, Any]:
    model = InFocusModel.load(trial, provider="cpu")
    metrics: dict[str, Any] = {
        f"iou_held_out_{kind}": round(model_iou(model, held_out_slices(stacks, 1000)), 4)
        for kind, stacks in judged.items()
    }
    metrics["iou_by_simulated_stack"] = {
        stack.name: round(model_iou(model, held_out_slices([stack])), 3)
        for stack in judged["simulated"]
    }
    metrics["largest_in_focus_share_of_64_empty_fields"] = round(empty_share(model, 64), 5)
    if args.test is not None:
        metrics[f"unseen_{Path(args.test[0]).name}"] = _score(model, args.test)
    return metrics


def _score(model: InFocusModel, test: Sequence[str]) -> dict[str, Any]:
    stack = open_stacks(test[0])[0]
    masks = np.stack([model.infer(np.asarray(stack[z])).mask for z in range(stack.shape[0])])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "masks.tif"
        tifffile.imwrite(file, masks)
        command = [sys.executable, test[3], str(file), test[1], test[2], "--json"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    scores: dict[str, Any] = json.loads(printed)
    return scores


def _shown(arguments: list[str]) -> list[str]:
    """Return the arguments with files by their names: the card tells no one's folders."""
    kept = list(arguments)
    if "--output" in kept:
        where = kept.index("--output")
        del kept[where : where + 2]
    return [Path(argument).name if "/" in argument else argument for argument in kept]


if __name__ == "__main__":
    main()
