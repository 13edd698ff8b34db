"""Run an example that opens a window, act once as its user would, and close it.

    python in_window.py EXAMPLE

Works without a screen (QT_QPA_PLATFORM=offscreen). Takes a stack of five slices, waits for its
masks, and says what was seen.
"""

from __future__ import annotations

import runpy
import sys
import time

import useq
from pymmcore_plus import CMMCorePlus
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

PATIENCE_S = 90.0


class User:
    """Looks four times a second, from the example's own event loop, whether it is time to act."""

    def __init__(self, app: QApplication) -> None:
        self._app = app
        self._masks: list[object] = []
        self._begun = False
        self._until = time.monotonic() + PATIENCE_S
        self._timer = QTimer()
        self._timer.timeout.connect(self._look)
        self._timer.start(250)

    def _look(self) -> None:
        from deepfocus_live.microscope._attach import _attachments

        if time.monotonic() > self._until:
            self._app.exit(1)
        elif _attachments and not self._begun:
            self._begun = True
            core = CMMCorePlus.instance()
            (attached,) = _attachments.values()
            attached.on_mask(self._masks.append)
            sys.stdout.write(f"signals: {type(core.mda.events).__name__}\n")
            core.run_mda(useq.MDASequence(z_plan={"range": 4, "step": 1}))
        elif len(self._masks) == 5:
            sys.stdout.write(f"masks: {len(self._masks)}\n")
            self._app.quit()


if __name__ == "__main__":
    example = sys.argv[1]
    sys.argv = [example]
    if "pymmcore_gui" in example:
        from pymmcore_gui._app import MMQApplication as Application
    else:
        Application = QApplication
    application = Application([example])
    user = User(application)
    runpy.run_path(example, run_name="__main__")
