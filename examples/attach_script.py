"""Any acquisition script, with one line more: `attach`.

    python attach_script.py [CONFIG.cfg]

Without a configuration the demo adapters of Micro-Manager are the microscope. There is nothing to
wait for at the end: the interpreter stays until every frame is on the disk, and the daemon, which
`attach` starts, goes on with the masks. `deepfocus-live status` shows it, `stop` ends it.
"""

import sys

from pymmcore_plus import CMMCorePlus
from useq import MDASequence

import deepfocus_live

core = CMMCorePlus()
core.loadSystemConfiguration(sys.argv[1] if len(sys.argv) > 1 else "MMConfig_demo.cfg")
deepfocus_live.attach(core, output="deepfocus-runs")
core.run_mda(
    MDASequence(
        # Without it, the range is taken around 0 of the stage, wherever that is.
        stage_positions=[{"z": core.getZPosition()}],
        z_plan={"range": 20, "step": 2},
        time_plan={"interval": 0, "loops": 2},
    )
)
