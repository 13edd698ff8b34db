"""Trainers for tests: the real one made small, and ones that only pretend.

`python -m tests.other_trainers FOLDER`, in the place of the real one; what it does the job's
profile says.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

from deepfocus_live import _platform
from deepfocus_live.training import TrainerFolder
from deepfocus_live.training._trainer_main import main

__all__: list[str] = []


def _train_small() -> int:
    from deepfocus_live.training import _gate, _retraining, fit
    from tests.system.test_retrain import make_all_small

    make_all_small()
    # Beside other tests it would wait for ever; that it yields, another test sees.
    _platform.lower_priority = lambda: None
    # As many steps on a busy machine as on an idle one.
    retraining: Any = _retraining
    retraining.fit, retraining.BATCH = functools.partial(fit, max_steps=20), 2
    # Nothing calls less than nothing in focus: every candidate is refused.
    _gate.MAX_EMPTY_SHARE = -1.0
    return main()


def _pretend(folder: TrainerFolder, how: str) -> int:
    folder.tell({"step": 3, "loss": 0.5, "iou": 0.25, "done": 0.5, "message": "half way"})
    if how == "crashes":
        sys.stderr.write("out of memory\n")
        return 7
    if how == "hangs":
        time.sleep(60)
    while how == "waits" and not folder.stop_asked:
        time.sleep(0.01)
    news = {"state": "passed", "version": "made-up", "reason": "passed the gate"}
    folder.tell({**news, "metrics": {"iou_after": 0.5}}, last=True)
    return 0


def _run() -> int:
    folder = TrainerFolder(Path(sys.argv[1]))
    profile = folder.order().job.profile
    return _train_small() if profile == "default" else _pretend(folder, profile)


if __name__ == "__main__":
    code = _run()
    sys.stderr.flush()
    os._exit(code)
