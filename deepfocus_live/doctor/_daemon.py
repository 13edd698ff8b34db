"""Whether a daemon runs, and whether its page can be served."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from deepfocus_live import __version__
from deepfocus_live.config import Config
from deepfocus_live.doctor._finding import Finding
from deepfocus_live.ring import find_daemon

__all__ = ["look_at_daemon", "look_at_page"]

_USUAL_PORT = 8765


def look_at_page(config: Config) -> Iterator[Finding]:
    """Try whether the page's port is free."""
    if find_daemon() is not None:
        yield Finding("page", "ok", "served by the daemon that runs")
        return
    host, port = config.web.host, config.web.port
    wanted = _USUAL_PORT if port is None else port
    try:
        with socket.create_server((host, wanted)):
            pass
    except OSError as error:
        reason = f"{host}:{wanted}: {error.strerror or error}"
        if port is None:
            yield Finding("page", "note", f"{reason}; any free port is taken instead")
        else:
            yield Finding("page", "fault", reason, "set another web.port, or end what has it")
        return
    yield Finding("page", "ok", f"{host}:{wanted} is free", figures={"port": wanted})


def look_at_daemon(_config: Config) -> Iterator[Finding]:
    """Ask the daemon how it is."""
    address = find_daemon()
    if address is None:
        yield Finding("daemon", "ok", "none runs; `attach` starts one")
        return
    # Without the key that the page asks for: what is said here is sent to others for help.
    page = address.page.partition("?")[0]
    said = f"version {address.version}, pid {address.pid}, its page at {page}"
    try:
        with address.connect() as client:
            state = client.ask({"type": "status"})["status"]["state"]
    except (OSError, KeyError) as error:
        advice = "deepfocus-live stop --now, then start"
        yield Finding("daemon", "fault", f"{said}: does not answer ({error})", advice)
        return
    if address.version != __version__:
        advice = "deepfocus-live stop; the next start runs this version"
        yield Finding("daemon", "warning", f"{said}; this is version {__version__}", advice)
        return
    figures = {"pid": address.pid, "state": state}
    yield Finding("daemon", "ok", f"{state}: {said}", figures=figures)
