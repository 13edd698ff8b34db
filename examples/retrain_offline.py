"""From focal stacks to a network of your own, as `deepfocus-live retrain` makes it.

    python retrain_offline.py STACK [STACK…] [--minutes N] [--models FOLDER]

A STACK is a TIFF or OME-TIFF, a folder of per-slice images, an OME-Zarr or a run. No annotation is
needed; masks drawn by hand go in as `retrain(…, pairs=[("stack.tif", "masks.tif")])`. What files do
not say of the objective `retrain` is told by `conditions=Conditions(numerical_aperture=0.3)`, of
`deepfocus_live.focus`.
"""

import argparse

from deepfocus_live.model import Registry
from deepfocus_live.training import Progress, retrain

parser = argparse.ArgumentParser()
parser.add_argument("stacks", nargs="+")
parser.add_argument("--minutes", type=float, default=5.0)
parser.add_argument("--models", help="by default your own, which the daemon uses")
given = parser.parse_args()


def tell(news: Progress) -> None:
    """Say how far it is."""
    print(f"{100 * news.done:3.0f} % {news.message}", flush=True)


report = retrain(
    given.stacks, registry=Registry(given.models), minutes=given.minutes, progress=tell
)
for line in (*report.notes, *report.left_out, *report.learnt_from):
    print(line)
print(f"held out: {report.held_out}")
print(f"IoU with its {report.truth}: {report.iou_before:.3f} → {report.iou_after:.3f}")
for check in report.checks:
    print(f"  {check}")
print(report.reason)
print(f"registered: {report.name}, with a report: {report.page}")
if report.passed:
    print(f"to use it: deepfocus-live models use {report.name}")
