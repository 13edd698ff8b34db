"""Judge the label presets against truth, and print the tables of docs/labels.md.

    python scripts/study_labels.py [--seeds N] [--data FOLDER] [--only CASE…]

Every figure is a mean over seeds with its 95 % interval (bootstrap over seeds), but for
the real stacks, of which there is one each. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live.focus import (
    PRESETS,
    StackLabels,
    depth_map,
    focus_score_map,
    label_stack,
)
from deepfocus_live.simulation import Camera, FocalStack, simulate_focal_stack

SHAPE = (15, 384, 448)
Z_STEP_UM = 5.0
CAMERA = Camera(bit_depth=16)  # twice the light must not saturate it
KINDS = ("organoids", "organoid_layer", "spheres", "tilted_sheet", "filaments")
DEFAULT = "consensus"
Stack = NDArray[Any]


# ------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Figure:
    """One number per seed."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        kept = np.array([value for value in self.values if np.isfinite(value)])
        if not len(kept):
            return "–"
        draws = np.random.default_rng(0).integers(0, len(kept), (2000, len(kept)))
        low, high = np.percentile(kept[draws].mean(axis=1), (2.5, 97.5))
        return f"{_short(kept.mean())} ({_short(low)}–{_short(high)})"


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 9.9995 else f"{value:.1f}"


def masks(labels: StackLabels) -> tuple[Stack, Stack]:
    """Return (in focus, undecided) at full resolution, (Z, Y, X) bool."""
    n_z = len(labels.arrived)
    in_focus = np.stack([labels.weak_label_slice(z) for z in range(n_z)]) > 0
    undecided = np.stack([labels.undecided_slice(z) for z in range(n_z)]) > 0
    return in_focus, undecided


def overlap(one: Stack, other: Stack) -> float:
    """Return the intersection over union of two masks; NaN where both are empty."""
    union = int((one | other).sum())
    return float((one & other).sum()) / union if union else float("nan")


@lru_cache(maxsize=64)
def simulated(kind: str, seed: int, contrast: str = "transmitted") -> FocalStack:
    """Return a simulated stack of the study's size."""
    return simulate_focal_stack(
        kind,
        shape=SHAPE,
        z_step_um=Z_STEP_UM,
        camera=CAMERA,
        contrast="fluorescence" if contrast == "fluorescence" else "transmitted",
        seed=1000 + seed,
    )


# --------------------------------------------------------------------------- the cases


def against_truth(seeds: int, _data: Path | None) -> Iterator[str]:
    """IoU and depth error beside simulated truth."""
    for contrast in ("transmitted", "fluorescence"):
        yield f"\n{contrast}: IoU · of what is decided · undecided share of the truth\n"
        yield table(("specimen", *PRESETS), _truth_rows(seeds, contrast))
    yield "\ntransmitted: depth error in µm, median · 95th percentile (z-step 5 µm)\n"
    yield table(("specimen", *PRESETS), _depth_rows(seeds))


def _truth_rows(seeds: int, contrast: str) -> Iterator[Sequence[object]]:
    for kind in KINDS:
        row: list[object] = [kind]
        for preset in PRESETS:
            plain, decided, left_out = [], [], []
            for seed in range(seeds):
                stack = simulated(kind, seed, contrast)
                in_focus, undecided = masks(label_stack(stack.slices, preset))
                plain.append(overlap(in_focus, stack.in_focus))
                decided.append(overlap(in_focus & ~undecided, stack.in_focus & ~undecided))
                left_out.append(float(undecided[stack.in_focus].mean()))
            row.append(f"{Figure(tuple(plain))} · {np.mean(decided):.2f} · {np.mean(left_out):.2f}")
        yield row


def _depth_rows(seeds: int) -> Iterator[Sequence[object]]:
    for kind in KINDS:
        row: list[object] = [kind]
        for preset in PRESETS:
            medians, tails = [], []
            for seed in range(seeds):
                error = _depth_error_um(simulated(kind, seed), preset)
                if len(error):
                    medians.append(float(np.median(error)))
                    tails.append(float(np.percentile(error, 95)))
            row.append(f"{Figure(tuple(medians))} · {np.mean(tails):.1f}")
        yield row


def _depth_error_um(stack: FocalStack, preset: str) -> Stack:
    labels = label_stack(stack.slices, preset)
    depth = depth_map(labels.scores, stack.z_um, labels.weak_label, labels.undecided)
    error = np.abs(depth.enlarge(labels.block_px, labels.shape_yx) - stack.depth_um)
    known: Stack = error[np.isfinite(error)]
    return known


def nothing_there(seeds: int, data: Path | None) -> Iterator[str]:
    """Share in focus where nothing is, or nothing is sharp."""
    cases: dict[str, Callable[[int], Stack]] = {
        "white noise, 12 bit": lambda seed: _noise(seed, 1000, 30),
        "shot noise, 8 bit": lambda seed: _noise(seed, 60, 8).astype(np.uint8),
        "empty field": lambda seed: simulated("empty", seed).slices,
        "organoids blurred by σ 8 px": lambda seed: _blurred(simulated("organoids", seed), 8),
        "sheet blurred by σ 8 px": lambda seed: _blurred(simulated("tilted_sheet", seed), 8),
        "no light at all": lambda seed: _noise(seed, 100, 2),
    }
    rows: list[Sequence[object]] = []
    for name, make in cases.items():
        row: list[object] = [name]
        for preset in PRESETS:
            means, worst = [], []
            for seed in range(seeds):
                curve = label_stack(make(seed), preset).focus_curve
                means.append(100 * float(curve.mean()))
                worst.append(100 * float(curve.max()))
            row.append(f"{Figure(tuple(means))} · {max(worst):.2f}")
        rows.append(row)
    if data is not None:
        for sigma in (6, 12):
            blurred = _blurred_slices(_read(data, "organoid_A02"), sigma)
            row = [f"A02 blurred by σ {sigma} px"]
            for preset in PRESETS:
                curve = label_stack(blurred, preset).focus_curve
                row.append(f"{100 * curve.mean():.3f} · {100 * curve.max():.2f}")
            rows.append(row)
    yield "\nin focus, % of pixels: mean · worst slice of all seeds (right: 0)\n"
    yield table(("stack", *PRESETS), rows)


def _noise(seed: int, level: float, sigma: float) -> Stack:
    rng = np.random.default_rng(seed)
    return rng.normal(level, sigma, SHAPE).clip(0).round().astype(np.uint16)


def _blurred(stack: FocalStack, sigma_px: float) -> Stack:
    """Blur a stack and let the camera's noise come after it."""
    return _blurred_slices(stack.slices, sigma_px, noise=30.0)


def _blurred_slices(slices: Stack, sigma_px: float, noise: float = 0.0) -> Stack:
    rng = np.random.default_rng(0)
    blurred = np.empty_like(slices)
    highest = np.iinfo(slices.dtype).max
    for z, z_slice in enumerate(slices):
        soft = ndimage.gaussian_filter(z_slice.astype(np.float32), sigma_px)
        soft += noise * rng.standard_normal(soft.shape, dtype=np.float32)
        blurred[z] = np.clip(np.rint(soft), 0, highest)
    return blurred


def cut_stacks(seeds: int, data: Path | None) -> Iterator[str]:
    """Stacks that end before focus: undecided there, not wrong."""
    yield (
        "\nthe first or last third of a stack alone. Wrong: share of its in-focus pixels that the "
        "truth (A02: the whole stack's own label) denies by more than one slice. Missed focus: "
        "share, of places that are sharp only in what was cut off, that are in focus at an end.\n"
    )
    rows: list[Sequence[object]] = []
    for kind in ("organoid_layer", "tilted_sheet", "organoids"):
        row: list[object] = [kind]
        for preset in PRESETS:
            wrong, missed = [], []
            for seed in range(seeds):
                stack = simulated(kind, seed)
                for part in (slice(0, SHAPE[0] // 3), slice(2 * SHAPE[0] // 3, SHAPE[0])):
                    in_focus, _ = masks(label_stack(stack.slices[part], preset))
                    figures = _cut_figures(in_focus, stack.in_focus, part)
                    wrong.append(figures[0])
                    missed.append(figures[1])
            row.append(f"{Figure(tuple(wrong))} · {np.nanmean(missed):.3f}")
        rows.append(row)
    if data is not None:
        slices = _read(data, "organoid_A02")
        for part in (slice(0, 5), slice(7, 11)):
            row = [f"A02, slices {part.start}–{part.stop - 1}"]
            for preset in PRESETS:
                whole, _ = masks(label_stack(slices, preset))
                in_focus, _ = masks(label_stack(slices[part], preset))
                figures = _cut_figures(in_focus, whole, part)
                row.append(f"{figures[0]:.3f} · {figures[1]:.3f}")
            rows.append(row)
    yield table(("stack", *PRESETS), rows)


def _cut_figures(in_focus: Stack, truth: Stack, part: slice) -> tuple[float, float]:
    near = ndimage.maximum_filter(truth, (3, 33, 33))[part]
    wrong = float((in_focus & ~near).sum() / in_focus.sum()) if in_focus.any() else 0.0
    # Places that are sharp only in what was cut off, none of their neighbours here.
    elsewhere = truth.any(axis=0) & ~near.any(axis=0)
    missed = float(in_focus[:, elsewhere].any(axis=0).mean()) if elsewhere.any() else float("nan")
    return wrong, missed


def brightness(seeds: int, data: Path | None) -> Iterator[str]:
    """Lamp and camera changes: agreement with the undisturbed labels."""
    changes: dict[str, NDArray[np.float64]] = {
        "ramp 0.5 → 2": np.linspace(0.5, 2, SHAPE[0]),
        "ramp 2 → 0.5": np.linspace(2, 0.5, SHAPE[0]),
        "bleaching 1 → 0.5": np.geomspace(1, 0.5, SHAPE[0]),
        "slice 7 flickers, × 1.4": np.where(np.arange(SHAPE[0]) == 7, 1.4, 1.0),
        "slice 4 flickers, × 0.7": np.where(np.arange(SHAPE[0]) == 4, 0.7, 1.0),
    }
    yield "\nIoU with the labels of the undisturbed stack (dark offset 100 counts, not told)\n"
    rows: list[Sequence[object]] = []
    for name, gain in changes.items():
        for contrast in ("transmitted", "fluorescence"):
            row: list[object] = [f"{name}, {contrast}"]
            for preset in PRESETS:
                values = [
                    _undisturbed(simulated(kind, seed, contrast).slices, gain, preset)
                    for seed in range(seeds)
                    for kind in ("organoid_layer", "organoids")
                ]
                row.append(Figure(tuple(values)))
            rows.append(row)
    if data is not None:
        for which in ("organoid_A01", "organoid_A02"):
            slices = 16 * _read(data, which).astype(np.uint16) + 100
            for name, gain in changes.items():
                here = np.interp(np.linspace(0, 1, len(slices)), np.linspace(0, 1, len(gain)), gain)
                if "flickers" in name:
                    here = np.ones(len(slices))
                    here[5] = 1.4 if "1.4" in name else 0.7
                figures = [f"{_undisturbed(slices, here, preset):.3f}" for preset in PRESETS]
                rows.append([f"{name}, {which[-3:]}", *figures])
    yield table(("change", *PRESETS), rows)


def _undisturbed(slices: Stack, gain: NDArray[np.float64], preset: str) -> float:
    offset = 100.0
    light = (slices.astype(np.float64) - offset) * gain[:, None, None] + offset
    changed = np.clip(np.rint(light), 0, 65535).astype(np.uint16)
    before, after = label_stack(slices, preset), label_stack(changed, preset)
    return overlap(before.weak_label, after.weak_label)


def dirt(seeds: int, _data: Path | None) -> Iterator[str]:
    """Hot pixels and dust on the camera: agreement with the clean labels."""
    rows: list[Sequence[object]] = []
    for name in ("hot pixels, 1 in 2000", "dust, 20 specks"):
        row: list[object] = [name]
        for preset in PRESETS:
            values = []
            for seed in range(seeds):
                slices = simulated("organoid_layer", seed).slices
                dirty = _dirty(slices, seed, hot="hot" in name)
                clean, soiled = label_stack(slices, preset), label_stack(dirty, preset)
                values.append(overlap(clean.weak_label, soiled.weak_label))
            row.append(Figure(tuple(values)))
        rows.append(row)
    yield "\nIoU with the labels of the clean stack\n"
    yield table(("dirt", *PRESETS), rows)


def _dirty(slices: Stack, seed: int, *, hot: bool) -> Stack:
    rng = np.random.default_rng(seed)
    height, width = slices.shape[1:]
    if hot:
        added = np.zeros((height, width))
        count = height * width // 2000
        added[rng.integers(0, height, count), rng.integers(0, width, count)] = rng.uniform(
            500, 4000, count
        )
        return np.clip(slices + added, 0, 65535).astype(np.uint16)
    passed = np.ones((height, width))
    y, x = np.mgrid[:height, :width]
    for _ in range(20):
        centre, radius = (rng.integers(0, height), rng.integers(0, width)), rng.uniform(2, 8)
        passed *= 1 - 0.4 * (np.hypot(y - centre[0], x - centre[1]) < radius)
    return np.rint((slices - 100.0) * passed + 100).clip(0, 65535).astype(np.uint16)


def two_layers(seeds: int, _data: Path | None) -> Iterator[str]:
    """Two layers behind one pixel: what is found of the fainter one."""
    yield (
        "\nshare of the true in-focus pixels that are in focus, first layer · second layer, "
        "where the two lie more than 20 µm apart\n"
    )
    rows = []
    for relative in (1.0, 0.8, 0.6, 0.4, 0.2):
        row: list[object] = [f"{relative:.1f}"]
        for preset in PRESETS:
            first, second = [], []
            for seed in range(seeds):
                found = _layers_found(seed, relative, preset)
                first.append(found[0])
                second.append(found[1])
            row.append(f"{Figure(tuple(first))} · {Figure(tuple(second))}")
        rows.append(row)
    yield table(("contrast of the second", *PRESETS), rows)


def _layers_found(seed: int, relative: float, preset: str) -> tuple[float, float]:
    one, other = simulated("tilted_sheet", seed), simulated("tilted_sheet", seed + 100)
    white = CAMERA.gain * CAMERA.electrons_at_white
    passed = np.clip((other.slices - CAMERA.offset) / white, 1e-3, None) ** relative
    slices = np.rint((one.slices - CAMERA.offset) * passed + CAMERA.offset).clip(0, 65535)
    in_focus, _ = masks(label_stack(slices.astype(np.uint16), preset))
    apart = np.abs(one.depth_um - other.depth_um) > 20
    return (
        float(in_focus[one.in_focus & apart].mean()),
        float(in_focus[other.in_focus & apart].mean()),
    )


def drifting(seeds: int, _data: Path | None) -> Iterator[str]:
    """Lateral drift: measured beside known."""
    rows: list[Sequence[object]] = []
    for total in (0.0, 3.0, 6.0, 12.0, 24.0):
        errors, flagged = [], []
        for seed in range(seeds):
            slices = simulated("organoid_layer", seed).slices
            moved = np.stack(
                [
                    ndimage.shift(z_slice.astype(np.float32), (total * z / (len(slices) - 1), 0))
                    for z, z_slice in enumerate(slices)
                ]
            )[:, 32:]
            labels = label_stack(np.clip(moved, 0, 65535).astype(np.uint16), DEFAULT)
            if labels.findings is not None:
                errors.append(abs(labels.findings.drift_px[-1, 0] - total))
                flagged.append(float(not labels.trainable))
        rows.append((f"{total:.0f} px", Figure(tuple(errors)), f"{np.mean(flagged):.1f}"))
    yield "\n"
    yield table(("drift over the stack", "error, px", "kept out of training"), rows)


def real_stacks(_seeds: int, data: Path | None) -> Iterator[str]:
    """Hand-made truth of A02, and yeast, whose contrast inverts."""
    if data is None:
        yield "\n(the real stacks are not there)\n"
        return
    sys.path.insert(0, str(data.parent / "eval"))
    from score_focus import score  # type: ignore[import-not-found]

    regions = tifffile.imread(data / "organoid_A02_regions.tif")
    with (data / "organoid_A02_focus.csv").open(newline="") as file:
        judged = list(csv.DictReader(file))
    slices = _read(data, "organoid_A02")
    rows: list[Sequence[object]] = []
    for preset in PRESETS:
        labels = label_stack(slices, preset)
        in_focus, undecided = masks(labels)
        figures = score(in_focus, regions, judged)
        low, high = figures["f1_95"]
        rows.append(
            (
                preset,
                f"{figures['f1']:.3f} ({low:.3f}–{high:.3f})",
                figures["recall"],
                figures["specificity"],
                figures["false_area"],
                f"{undecided.mean():.3f}",
            )
        )
    yield "\nA02, hand-made truth\n"
    heads = ("preset", "F1 (95 %)", "recall", "specificity", "`false_area`", "undecided")
    yield table(heads, rows)
    yield "\nyeast (by eye: in focus at z 14–16 only): slices with anything in focus\n"
    rows = []
    for preset in PRESETS:
        labels = label_stack(_read(data, "yeast"), preset)
        rows.append((preset, _spans(np.flatnonzero(labels.focus_curve)), labels.best_z))
    yield table(("preset", "in focus at z", "best z"), rows)
    plain = np.load(data / "zebrafish_slice_casus_std.npy")
    scores = focus_score_map(
        tifffile.imread(data / "zebrafish_slice.tif"),
        windows_px=(128,),
        strides_px=range(8, 37, 2),
        overlap="sum",
    )
    farthest = float((np.abs(scores - plain) / plain).max())
    yield f"\nzebrafish slice, the published scan computed plainly: within {farthest:.1e} of it\n"


def _spans(numbers: NDArray[np.intp]) -> str:
    """Return ascending numbers as text: 1, 3–5."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs if len(r)) or "–"


def _read(data: Path, name: str) -> Stack:
    slices: Stack = tifffile.imread(data / f"{name}.ome.tif")
    return slices


# ------------------------------------------------------------------------- the command

CASES: dict[str, Callable[[int, Path | None], Iterator[str]]] = {
    "real": real_stacks,
    "nothing": nothing_there,
    "cut": cut_stacks,
    "brightness": brightness,
    "truth": against_truth,
    "layers": two_layers,
    "dirt": dirt,
    "drift": drifting,
}


def table(heads: Sequence[object], rows: Sequence[Sequence[object]] | Iterator[Any]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(str(head) for head in heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    chosen = parser.parse_args()
    data = chosen.data if chosen.data.is_dir() else None
    for name in chosen.only:
        case = CASES[name]
        print(f"\n### {(case.__doc__ or name).strip()}")
        for text in case(chosen.seeds, data):
            print(text, flush=True)


if __name__ == "__main__":
    main()
