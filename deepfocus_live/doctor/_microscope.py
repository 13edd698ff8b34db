"""Which device adapters there are, and whether this pymmcore can load them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deepfocus_live.config import Config
from deepfocus_live.doctor._finding import Finding

__all__ = ["look_at_adapters"]

_SUBJECT = "device adapters"
_TRIED = "DemoCamera"  # the one that needs no hardware, so to load it moves nothing


def look_at_adapters(_config: Config) -> Iterator[Finding]:
    """Try the demo camera of every Micro-Manager that pymmcore-plus finds."""
    from pymmcore_plus import find_micromanager

    from deepfocus_live.microscope._quiet import untold

    with untold():
        folders = [Path(folder) for folder in find_micromanager(return_first=False)]
    if not folders:
        yield Finding(
            _SUBJECT,
            "note",
            "no Micro-Manager is installed where pymmcore-plus looks",
            "needed for `acquire` and `setup` only: install Micro-Manager, run `mmcore install`, "
            "or name its folder in MICROMANAGER_PATH; a program that attaches has its own",
        )
    for folder in folders:
        yield _look_into(folder)


def _look_into(folder: Path) -> Finding:
    import pymmcore

    core = pymmcore.CMMCore()
    needed = core.getAPIVersionInfo()
    core.setDeviceAdapterSearchPaths([str(folder)])
    names = core.getDeviceAdapterNames()
    figures = {"folder": str(folder), "adapters": len(names), "needed": needed}
    if _TRIED not in names:
        return Finding(
            _SUBJECT,
            "note",
            f"{folder}: {len(names)} adapters, none of them {_TRIED}, so whether they fit this "
            f"pymmcore ({needed}) was not tried",
            "load your configuration with `deepfocus-live setup --mm-config FILE`",
            figures,
        )
    try:
        core.getAvailableDevices(_TRIED)
    except RuntimeError as error:
        first = " ".join(str(error).split())
        return Finding(
            _SUBJECT,
            "fault",
            f"{folder}: {len(names)} adapters that do not fit this pymmcore ({needed}): {first}",
            "install the Micro-Manager of that device interface (`mmcore install`), or the "
            "pymmcore that has these adapters' one",
            figures,
        )
    return Finding(
        _SUBJECT, "ok", f"{folder}: {len(names)} adapters, {_TRIED} loads ({needed})", "", figures
    )
