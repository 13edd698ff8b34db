"""Masks and best slices as they are made, on a simulated microscope.

    python follow_masks.py [OUTPUT]

Takes two stacks. `on_mask` is called with each slice's mask, `on_stack` as soon as a stack's last
mask is there; both on a thread of their own, so neither can hold up the microscope.
"""

import sys
import threading

import deepfocus_live
from deepfocus_live.microscope import MaskResult, StackResult
from deepfocus_live.microscope.simulated import load_simulated_microscope
from deepfocus_live.simulation import demo_stack

N_STACKS = 2

stack = demo_stack(shape=(11, 256, 256))
microscope = load_simulated_microscope([stack.slices], z_um=[stack.z_um], exposure_ms=20)
all_done = threading.Semaphore(0)


def show_mask(found: MaskResult) -> None:
    """Say how much of a slice is in focus."""
    share = 100 * found.in_focus_fraction
    print(f"t {found.placement.t} z {found.placement.z:2}: {share:5.1f} % in focus")


def show_stack(found: StackResult) -> None:
    """Say where a stack is sharpest: from here the stage could be sent back there."""
    where = "nowhere" if found.best_z is None else f"at {found.z_um[found.best_z]} µm"
    print(f"stack {found.key.t} is sharpest {where} (z {found.best_z})")
    all_done.release()


output = sys.argv[1] if len(sys.argv) > 1 else "deepfocus-runs"
with deepfocus_live.attach(microscope.core, output=output) as attached:
    attached.on_mask(show_mask)
    attached.on_stack(show_stack)
    print(f"the live page: {attached.status()['page']}")
    microscope.core.run_mda(microscope.sequence(N_STACKS), block=True)
    for _ in range(N_STACKS):
        # Frames are on the disk when this block is left; masks may come later.
        if not all_done.acquire(timeout=60):
            raise SystemExit("no masks within a minute: see `deepfocus-live logs`")
    print(f"the run: {attached.status()['runs'][0]}")
