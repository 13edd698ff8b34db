"""Compare networks, losses and thresholds; prints the table of `docs/model.md`.

    nice python scripts/study_model.py STACK… --test STACK REGIONS.tif FOCUS.csv score_focus.py \
        [--results FILE.jsonl] [--seeds 3] [--steps 200] [--only NAME…]

Every network learns for the same number of steps from the same simulated stacks and the weak labels
of the given real stacks (the test stack must not be among them), with three seeds of weights and
crops. With `--results` what is done already is not done again. Times of a slice are measured at the
end, all networks in turns: let nothing else run then.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _model_scores import empty_scores, hand_made_scores, simulated_scores
from numpy.typing import NDArray

from deepfocus_live.inference import InFocusModel
from deepfocus_live.model.export import export_onnx
from deepfocus_live.model.network import PUBLISHED, Architecture, FocusNetwork
from deepfocus_live.stacks import open_stacks
from deepfocus_live.training import (
    BatchMaker,
    LabelledStack,
    Precision,
    block_target,
    fit,
    focus_loss,
    simulated_stacks,
    with_labels,
)

SIMULATED_STACKS = 180
REAL_SHARE = 0.25
STACKS_PER_SEED = 9
TIMED_SHAPE = (1024, 1344)


@dataclass(frozen=True)
class Trial:
    """One row: what differs from the first."""

    name: str
    architecture: Architecture = field(default_factory=Architecture)
    loss: dict[str, Any] = field(default_factory=dict)
    thresholds: tuple[float, ...] = (0.5,)
    crop_px: int = 256


TRIALS = (
    Trial("the network as it is", thresholds=(0.5, 0.35, 0.65)),
    Trial("stem: mean and variance", Architecture(stem="variance")),
    Trial("stem: mean", Architecture(stem="mean")),
    Trial("half resolution", Architecture(reduction=2)),
    Trial("8 channels", Architecture(base_channels=8)),
    Trial("24 channels", Architecture(base_channels=24)),
    Trial("instance normalisation", Architecture(norm="instance")),
    Trial("transposed convolutions", Architecture(upsampling="transposed")),
    Trial("noise: median of all detail", Architecture(noise="median")),
    Trial("loss: without focal", loss={"focal_weight": 0.0}),
    Trial("loss: without Dice", loss={"dice_weight": 0.0}),
    Trial("loss: Dice over the batch", loss={"dice_over": "batch"}),
    # A full-resolution step costs sixteen times as much: crops of a quarter of the area.
    Trial("published: full resolution", PUBLISHED, crop_px=128),
)


def main() -> None:
    """Train and score what is missing, then print."""
    args = _arguments()
    done = _read(args.results)
    trials = [t for t in TRIALS if not args.only or t.name in args.only]
    todo = [(t, s) for t in trials for s in range(args.seeds) if (t.name, s) not in done]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.pickle"
        if todo:
            data.write_bytes(pickle.dumps(_data(args.stacks)))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, mp_context=context) as workers:
            runs = [workers.submit(_run, t, s, args.steps, data, args.test) for t, s in todo]
            for run in as_completed(runs):
                for row in run.result():
                    done[row["name"], row["seed"]] = row
                    if args.results is not None:
                        with args.results.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
                    print(f"done: {row['name']}, seed {row['seed']}", flush=True)
    print("\n".join(_table(list(done.values()), _milliseconds(trials))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="+", help="real stacks to learn from by weak labels")
    parser.add_argument(
        "--test", nargs=4, metavar=("STACK", "REGIONS", "FOCUS", "SCORER"), required=True
    )
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    return parser.parse_args()


def _read(results: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    if results is None or not results.is_file():
        return {}
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {(row["name"], row["seed"]): row for row in rows}


def _data(paths: list[str]) -> tuple[list[LabelledStack], list[LabelledStack]]:
    """Return simulated and real stacks with targets at full resolution."""
    simulated = simulated_stacks(SIMULATED_STACKS, seed=0, shape=(7, 288, 288), reduction=1)
    real = [
        with_labels(stack, preset="consensus", reduction=1)
        for path in paths
        for stack in open_stacks(path)
    ]
    return simulated, real


def _run(trial: Trial, seed: int, steps: int, data: Path, test: list[str]) -> list[dict[str, Any]]:
    """Train one network and score it; in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    simulated, real = pickle.loads(data.read_bytes())
    weight = REAL_SHARE / (1 - REAL_SHARE) * len(simulated) / len(real)
    reduction = trial.architecture.reduction
    stacks = [_reduced(stack, reduction, 1.0) for stack in simulated]
    stacks += [_reduced(stack, reduction, weight) for stack in real]
    network = FocusNetwork(trial.architecture)
    precision = Precision("float32, channels last", channels_last=True)
    precision.prepare(network)
    fit(
        network,
        BatchMaker(stacks, seed=seed, crop_px=trial.crop_px),
        judge=lambda _: 0.0,
        learning_rate=2e-3,
        precision=precision,
        max_steps=steps,
        looks=1,
        loss=partial(focus_loss, **trial.loss),
    )
    return [
        {
            "name": trial.name if threshold == 0.5 else f"threshold {threshold}",
            "seed": seed,
            **_scored(network, threshold, test),
        }
        for threshold in trial.thresholds
    ]


def _scored(network: FocusNetwork, threshold: float, test: list[str]) -> dict[str, Any]:
    """Return the scores of the exported graph."""
    network.threshold.fill_(255.0 * threshold)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(network, file, name="trial")
        model = InFocusModel.load(file, provider="cpu", threads=1)
    return _scores(lambda z_slice: model.infer(z_slice).mask, test)


def _reduced(stack: LabelledStack, reduction: int, weight: float) -> LabelledStack:
    target = np.stack([block_target(one == 1, one == 255, reduction) for one in stack.target])
    return replace(stack, target=target, weight=weight)


def _scores(
    mask_of: Callable[[NDArray[Any]], NDArray[np.uint8]], test: list[str]
) -> dict[str, Any]:
    simulated = simulated_scores(mask_of, STACKS_PER_SEED)
    hand_made = hand_made_scores(mask_of, test)
    empty = empty_scores(mask_of, 48)
    return {
        "iou": simulated["iou"][0],
        "iou_mixed": simulated["iou_mixed"][0],
        "strict_iou": simulated["strict_iou"][0],
        "f1": hand_made["f1"],
        "false_area": hand_made["false_area"],
        "empty": empty["mean"],
        "empty_worst": empty["worst"],
    }


def _milliseconds(trials: Sequence[Trial]) -> dict[str, float]:
    """Return how long each trial's network takes for a slice on one thread, by name."""
    z_slice = np.random.default_rng(0).integers(100, 4000, TIMED_SHAPE).astype(np.uint16)
    models: dict[Architecture, InFocusModel] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, architecture in enumerate(dict.fromkeys(t.architecture for t in trials)):
            file = Path(folder) / f"{number}.onnx"
            export_onnx(FocusNetwork(architecture), file, name="timed")
            models[architecture] = InFocusModel.load(file, provider="cpu", threads=1)
            models[architecture].warm_up(TIMED_SHAPE)
        turns = [
            {key: model.infer(z_slice).milliseconds for key, model in models.items()}
            for _ in range(9)
        ]
    medians = {key: statistics.median(turn[key] for turn in turns) for key in models}
    return {trial.name: medians[trial.architecture] for trial in trials}


def _table(rows: list[dict[str, Any]], milliseconds: dict[str, float]) -> Iterator[str]:
    yield (
        "| network | IoU | mixed slices | strict IoU | F1 on A02 | `false_area` | noise and empty, "
        "mean (worst) | ms a slice, one thread |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    order = [trial.name for trial in TRIALS]
    found = dict.fromkeys(row["name"] for row in rows)
    for name in [*(n for n in order if n in found), *(n for n in found if n not in order)]:
        own = [row for row in rows if row["name"] == name]
        cells = [
            *(_spread([row[key] for row in own], 3) for key in ("iou", "iou_mixed", "strict_iou")),
            _spread([row["f1"] for row in own], 3),
            _spread([row["false_area"] for row in own], 4),
            f"{np.mean([row['empty'] for row in own]):.3%} "
            f"({max(row['empty_worst'] for row in own):.2%})",
            # Another threshold is no other network.
            f"{milliseconds.get(name, milliseconds.get(TRIALS[0].name, float('nan'))):.0f}",
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _spread(values: list[float], digits: int) -> str:
    """Return the mean, and the lowest and highest over seeds."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
