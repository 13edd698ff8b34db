"""pymmcore-gui with two things more: what each stack says, and a button that goes to best focus.

    pip install pymmcore-gui
    python in_pymmcore_gui.py [CONFIG.cfg]

Without a configuration the demo adapters of Micro-Manager are the microscope. Results come on a
thread of their own: a Qt signal carries them to the window's.
"""

import sys
import threading

from pymmcore_gui import create_mmgui
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QApplication

import deepfocus_live
from deepfocus_live.errors import InputError
from deepfocus_live.microscope import StackResult

config = sys.argv[1] if len(sys.argv) > 1 else "MMConfig_demo.cfg"
window = create_mmgui(mm_config=config, exec_app=False, install_sentry=False)
attached = deepfocus_live.attach(window.mmcore, output="deepfocus-runs")


class Messages(QObject):
    """Lines for the window's status bar, from any thread."""

    line = Signal(str)


messages = Messages()
messages.line.connect(window.statusBar().showMessage)


def tell(found: StackResult) -> None:
    """Say where a stack is sharpest."""
    if found.best_z is None:
        messages.line.emit(f"nothing is in focus in {found}")
        return
    beyond = "" if found.focus_reached else ", perhaps sharper beyond"
    share = 100 * (found.in_focus_fraction[found.best_z] or 0)
    messages.line.emit(f"best focus at {found.best_z_um} µm ({share:.1f} % in focus){beyond}")


def go() -> None:
    """Wait for the acquisition's end, then go there: not on the window's thread."""
    try:
        messages.line.emit(f"at best focus: {attached.move_to_best_focus():.2f} µm")
    except InputError as error:
        messages.line.emit(str(error))


attached.on_stack(tell)
toolbar = window.addToolBar("deepfocus-live")
toolbar.addAction("Go to best focus", lambda: threading.Thread(target=go, daemon=True).start())
QApplication.instance().exec()
attached.detach()
