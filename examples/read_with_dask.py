"""Compute with a run of any size: dask reads a slice when its turn comes.

    pip install "deepfocus-live[dask]"
    python read_with_dask.py RUN OUTPUT.ome.tif [IMAGE]

Writes what each stack has in focus, seen from above: the maximum over z, all else left black. IMAGE
is the number of a position or tile, 0 where none is given.
"""

import sys

import dask.array as da
import numpy as np
import tifffile

import deepfocus_live

path, output, *number = sys.argv[1:]
run = deepfocus_live.open_run(path)
image = run.images[int(number[0]) if number else 0]
pixels, masks = image.dask(), image.dask("in_focus")  # (t, c, z, y, x)
masks = da.repeat(masks, image.samples_per_pixel, axis=1)  # 3 colours share a mask
from_above = (pixels * masks).max(axis=2)  # nothing has been read yet

planes = (from_above[stack].compute() for stack in np.ndindex(from_above.shape[:2]))
metadata = {"axes": "TCYX"}
if run.spec.pixel_size_um:
    for axis in "XY":
        metadata[f"PhysicalSize{axis}"] = run.spec.pixel_size_um.um
        metadata[f"PhysicalSize{axis}Unit"] = "µm"
tifffile.imwrite(
    output,
    planes,
    shape=from_above.shape,
    dtype=from_above.dtype,
    photometric="minisblack",
    ome=True,
    metadata=metadata,
)
print(f"{output}: {from_above.shape} {from_above.dtype} (t, c, y, x)")
