"""Correct the masks of a run in napari, and teach the network by them.

    pip install "napari[pyqt6]"
    python correct_in_napari_and_retrain.py RUN [--image N] [--t N] [--channel N]
                                            [--minutes N] [--models FOLDER]

Opens one focal stack of the run and its in-focus masks, to paint on: 1 is in focus, 2 undecided,
and what the eraser leaves is not in focus. When the window is closed, the slices that were changed
go into the run as the label `corrected`, as by `deepfocus-live correct`; the live masks stay as
they are. Then the network learns from the run, as by `deepfocus-live retrain RUN`.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfocus_live import open_run
from deepfocus_live.errors import InputError
from deepfocus_live.frames import StackKey
from deepfocus_live.model import Registry
from deepfocus_live.stacks import open_stacks
from deepfocus_live.training import Progress, RetrainReport, retrain
from deepfocus_live.volume import correct_stack

Masks = NDArray[np.uint8]


def masks_so_far(run: Path, key: StackKey) -> Masks:
    """Return a stack's masks, (Z, Y, X): of each slice a person's, or else the network's."""
    labels = open_run(run).images[key.image].labels
    masks: Masks = np.array(labels["in_focus"][key.t, key.c])
    if "corrected" in labels:
        corrected = np.asarray(labels["corrected"][key.t, key.c])
        by_hand = corrected.any(axis=(1, 2))  # nothing but 0: nobody has corrected that slice
        masks[by_hand] = corrected[by_hand]
    return masks


def edit(run: Path, key: StackKey) -> Masks:
    """Show a stack with its masks; return them as they are when the window is closed."""
    import napari

    stack = next(s for s in open_stacks(run) if (s.position, s.time, s.channel) == key[1:])
    step, side = (known.um if known else 1.0 for known in (stack.z_step_um, stack.pixel_size_um))
    viewer = napari.Viewer(title=f"{run.name}: paint, then close this window")
    viewer.add_image(np.stack(list(stack)), name=stack.name, scale=(step, side, side))
    colors = {0: "transparent", 1: "lime", 2: "gray", None: "lime"}
    layer = viewer.add_labels(
        masks_so_far(run, key), name="in focus", scale=(step, side, side), colormap=colors
    )
    layer.opacity, layer.mode = 0.4, "paint"
    napari.run()
    return np.asarray(layer.data)


def save(run: Path, key: StackKey, masks: Masks) -> list[int]:
    """Write the slices that differ from what the run says; return which."""
    masks = np.where(masks > 2, 1, masks).astype(np.uint8)  # napari has more numbers to paint with
    changed = (masks != masks_so_far(run, key)).any(axis=(1, 2))
    frames = (line for line in open_run(run).journal if line["kind"] == "frame")
    taken = {line["z"] for line in frames if (line["image"], line["t"], line["c"]) == key[1:]}
    slices = [z for z in sorted(taken) if changed[z]]
    if slices:
        about = {"program": "napari"}
        correct_stack(run, key, lambda z: masks[z], slices, about=about, overwrite=True)
    return slices


def teach(run: Path, profile: str, registry: Registry, minutes: float) -> RetrainReport:
    """Fine-tune on a run; its corrected slices outweigh the labels by rule."""

    def tell(news: Progress) -> None:
        print(f"{100 * news.done:3.0f} % {news.message}", flush=True)

    return retrain([run], registry=registry, minutes=minutes, profile=profile, progress=tell)


def main() -> None:
    """Edit, save, teach."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    for axis in ("--image", "--t", "--channel"):
        parser.add_argument(axis, type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--models", help="by default your own, which the daemon uses")
    given = parser.parse_args()
    run = open_run(given.run)
    if run.state == "open":
        parser.error(f"{run.path} has no end yet: wait for it, or `deepfocus-live recover` it")
    key = StackKey(run.spec.run_id, given.image, given.t, given.channel)
    masks = edit(run.path, key)
    while True:
        try:
            slices = save(run.path, key, masks)
            break
        except InputError as error:  # what was painted is nowhere else
            input(f"{error}\nNot saved yet. Enter tries again. ")
    if not slices:
        print("nothing was changed")
        return
    print(f"corrected: slices {slices}")
    report = teach(run.path, run.spec.profile_of(key.c), Registry(given.models), given.minutes)
    print(f"IoU with the {report.truth}: {report.iou_before:.3f} → {report.iou_after:.3f}")
    print(report.reason)
    print(f"registered: {report.name}, with a report: {report.page}")


if __name__ == "__main__":
    main()
