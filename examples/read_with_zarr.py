"""Read a run with zarr alone: it is plain OME-Zarr 0.5, beside a journal of JSON lines.

    pip install zarr
    python read_with_zarr.py RUN

Nothing of deepfocus-live is needed for that. Says of each mask how much it calls in focus, and how
bright the image is there. Works while the run grows, too.
"""

import json
import sys
from pathlib import Path

import zarr

run = Path(sys.argv[1])
volume = zarr.open_group(run / "volume.ome.zarr", mode="r")
images = []
for number, path in enumerate(volume["OME"].attrs["ome"]["series"]):
    image = volume[path]
    multiscale = image.attrs["ome"]["multiscales"][0]
    finest = multiscale["datasets"][0]
    pixels, in_focus = image[finest["path"]], image["labels/in_focus/0"]
    images.append((pixels, in_focus))
    print(f"image {number}, {multiscale['name']}: {pixels.shape} {pixels.dtype}")
    scale = finest["coordinateTransformations"][0]["scale"]
    for axis, length in zip(multiscale["axes"], scale, strict=True):
        if "unit" in axis:  # what is not known has none
            print(f"  {axis['name']}: {length:g} {axis['unit']}")

# What stands after the last end of a line is still being written.
lines = (run / "frames.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
journal = [json.loads(line) for line in lines]
frames = {line["sequence_number"]: line for line in journal if line["kind"] == "frame"}
for line in journal:
    if line["kind"] != "mask":
        continue
    frame = frames[line["sequence_number"]]
    pixels, in_focus = images[frame["image"]]
    t, c, z = frame["t"], frame["c"], frame["z"]
    mask = in_focus[t, c, z] == 1
    said = f"image {frame['image']} t {t} c {c} z {z:2}: {100 * mask.mean():5.1f} % in focus"
    if mask.any():
        colors = pixels.shape[1] // in_focus.shape[1]  # 3 of a colour camera
        there = pixels[t, c * colors : (c + 1) * colors, z][:, mask]
        said += f", {there.mean():.1f} counts there"
    print(said)
