"""Score a model: simulated truth, noise and empty fields, and a stack with hand-made truth.

    python scripts/score_model.py [MODEL] [--card] \
        [--test STACK REGIONS.tif FOCUS.csv score_focus.py]

MODEL is a version's name or folder; by default the model that ships. Prints the tables of
`docs/model.md`; with `--card` the figures go into the model's card.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _model_scores import (
    MaskOf,
    empty_scores,
    hand_made_scores,
    simulated_scores,
    tables,
)
from numpy.typing import NDArray

from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import ModelVersion, Registry, read_version, seal

STACKS_PER_SEED = 36


def main() -> None:
    """Score, print, and write if asked to."""
    args = _arguments()
    version = _version(args.model)
    metrics = score_version(version, args.test, args.stacks_per_seed)
    print(f"{version.name}\n\n{tables(metrics)}")
    if args.card:
        seal(version.path, {**version.card, "metrics": {**version.card["metrics"], **metrics}})


def score_version(
    version: ModelVersion, test: list[str] | None, stacks_per_seed: int
) -> dict[str, Any]:
    """Return all scores of a model version, of the graph that will really run."""
    mask_of = masks_of(version)
    metrics: dict[str, Any] = {
        "simulated": simulated_scores(mask_of, stacks_per_seed),
        "empty": empty_scores(mask_of),
    }
    if test is not None:
        metrics["hand_made"] = {Path(test[0]).name: hand_made_scores(mask_of, test)}
    return metrics


def masks_of(version: ModelVersion) -> MaskOf:
    """Return what makes a mask of a slice with a version's graph, on the CPU."""
    model = InFocusModel.load(version, provider="cpu")

    def mask_of(z_slice: NDArray[Any]) -> NDArray[np.uint8]:
        return model.infer(z_slice).mask

    return mask_of


def _version(name: str | None) -> ModelVersion:
    if name is None:
        return Registry().shipped_version()
    return read_version(Path(name)) if Path(name).is_dir() else Registry().get(name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=None)
    parser.add_argument("--stacks-per-seed", type=int, default=STACKS_PER_SEED)
    parser.add_argument("--card", action="store_true", help="write the figures into the card")
    parser.add_argument(
        "--test", nargs=4, metavar=("STACK", "REGIONS", "FOCUS", "SCORER"), default=None
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
