"""napari-micromanager with one layer more: the latest in-focus mask, also in live mode.

    pip install napari-micromanager pyqt6
    python in_napari_micromanager.py [CONFIG.cfg]

Without a configuration the demo adapters of Micro-Manager are the microscope. Masks are made on
threads of their own; napari's looks twenty times a second for the newest. The layer
shows the newest slice's mask, whichever slice is scrolled to.
"""

import sys

import napari
import numpy as np
from pymmcore_plus import CMMCorePlus
from qtpy.QtCore import QTimer

import deepfocus_live

viewer = napari.Viewer()
viewer.window.add_plugin_dock_widget("napari-micromanager")
core = CMMCorePlus.instance()  # the plugin's own
core.loadSystemConfiguration(sys.argv[1] if len(sys.argv) > 1 else "MMConfig_demo.cfg")

attached = deepfocus_live.attach(core, output="deepfocus-runs", follow_live=True)
blank = np.zeros((core.getImageHeight(), core.getImageWidth()), np.uint8)
green = {0: "transparent", 1: "lime", None: "transparent"}
layer = viewer.add_labels(blank, name="in focus", opacity=0.3, colormap=green)
shown = attached.latest_mask()


def show_latest() -> None:
    """Put the newest mask into the layer, over the plugin's own picture."""
    global shown
    found = attached.latest_mask()
    if found is not None and found is not shown:
        shown = found
        layer.data = found.mask.astype(np.uint8)
        layer.scale = [core.getPixelSizeUm() or 1] * 2  # as the plugin scales its own
        if layer is not viewer.layers[-1]:
            viewer.layers.move(viewer.layers.index(layer), -1)  # above each new acquisition


timer = QTimer()
timer.timeout.connect(show_latest)
timer.start(50)
napari.run()
attached.detach()
