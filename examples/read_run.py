"""Read a run: also while it grows, and after a crash.

    python read_run.py RUN

Arrays are zarr's: nothing is read before it is indexed. The journal says which slices exist; a
slice that has not come yet reads as zeros.
"""

import sys
from collections import defaultdict

import deepfocus_live

run = deepfocus_live.open_run(sys.argv[1])
print(f"{run.spec.name}: {run.state}")
for number, image in enumerate(run.images):
    print(f"image {number}: {image.image.shape} {image.image.dtype} (t, c, z, y, x)")

journal = run.journal
stored = {line["sequence_number"]: line for line in journal if line["kind"] == "frame"}
print(f"{len(stored)} of {run.spec.frames_expected or 'an unknown number'} slices stored")

stacks: dict[tuple[int, int, int], dict[int, float]] = defaultdict(dict)
for line in journal:
    if line["kind"] == "mask":
        where = stored[line["sequence_number"]]
        mask = run.images[where["image"]].in_focus[where["t"], where["c"], where["z"]]
        stacks[where["image"], where["t"], where["c"]][where["z"]] = float(mask.mean())
for (number, t, c), shares in sorted(stacks.items()):
    best_z = max(shares, key=shares.__getitem__)
    said = f"best z {best_z}" if shares[best_z] else "nothing in focus"
    print(f"image {number} t {t} c {c}: {len(shares)} masks, {said}")
