"""Look at a run in napari: image and labels, lengths in µm.

    pip install "napari[pyqt6]"
    python read_in_napari.py RUN [IMAGE]

A slice is read when it is scrolled to, so that a run may be of any size. IMAGE is the number of a
position or tile, 0 where none is given.
"""

import sys

import napari

import deepfocus_live

path, *number = sys.argv[1:]
run = deepfocus_live.open_run(path)
image = run.images[int(number[0]) if number else 0]
step, side = (known.um if known else 1.0 for known in (run.spec.z_step_um, run.spec.pixel_size_um))
scale = (1.0, step, side, side)  # t, z, y, x; c becomes layers
names = [channel.name for channel in run.spec.channels]

viewer = napari.Viewer(title=f"{run.spec.name} ({run.state})")
colors = [name for name in names for _ in range(image.samples_per_pixel)]  # of a colour camera 3
viewer.add_image(image.dask(), channel_axis=1, name=colors, scale=scale)
for label in image.labels:
    masks = image.dask(label)
    for c, name in enumerate(names):
        viewer.add_labels(
            masks[:, c],
            name=f"{label} {name}",
            scale=scale,
            opacity=0.3,
            colormap={0: "transparent", 1: "lime", 2: "gray", None: "transparent"},
            visible=label == "in_focus",
        )
viewer.dims.axis_labels = ("t", "z", "y", "x")
if run.spec.pixel_size_um:
    viewer.scale_bar.visible, viewer.scale_bar.unit = True, "µm"
napari.run()
