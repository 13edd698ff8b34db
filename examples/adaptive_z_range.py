"""Look for the specimen coarsely, then scan finely where it was in focus.

    python adaptive_z_range.py [OUTPUT]

Each scan is a run of its own. The next one's range is where at least half as much was in focus as
in the best slice, and one step beyond at either end; a scan whose best slice is its first or last
is widened instead.
"""

import queue
import sys

import useq

import deepfocus_live
from deepfocus_live.microscope import StackResult
from deepfocus_live.microscope.simulated import load_simulated_microscope
from deepfocus_live.simulation import demo_stack

specimen = demo_stack(shape=(11, 256, 256))
microscope = load_simulated_microscope([specimen.slices], z_um=[specimen.z_um], exposure_ms=5)
core = microscope.core


def next_range(found: StackResult, low: float, high: float, step: float) -> tuple[float, float]:
    """Return the lowest and highest z, in µm, of what to scan next."""
    if not found.focus_reached:
        return low - (high - low) / 2, high + (high - low) / 2
    shares = [share or 0.0 for share in found.in_focus_fraction]
    sharp = [z for z, share in zip(found.z_um, shares, strict=True) if share > max(shares) / 2]
    return min(sharp) - step, max(sharp) + step


stacks: queue.Queue[StackResult] = queue.Queue()
output = sys.argv[1] if len(sys.argv) > 1 else "deepfocus-runs"
with deepfocus_live.attach(core, output=output) as attached:
    attached.on_stack(stacks.put)
    low, high = -100.0, 150.0
    for step in (25.0, 10.0, 5.0):
        core.mda.run(useq.MDASequence(z_plan={"bottom": low, "top": high, "step": step}))
        found = stacks.get(timeout=60)
        print(f"{low:.1f} to {high:.1f} µm by {step} µm: best at {found.best_z_um} µm")
        low, high = next_range(found, low, high, step)
    print(f"the stage is at {attached.move_to_best_focus()} µm")
