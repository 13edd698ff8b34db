"""One daemon per user: claim the lock, run, let go."""

from __future__ import annotations

import asyncio
import logging

from deepfocus_live._platform import ProcessStamp
from deepfocus_live.config import Config
from deepfocus_live.daemon._logging import CapturedOutput, daemon_log
from deepfocus_live.daemon._service import Daemon
from deepfocus_live.errors import InputError
from deepfocus_live.ring import claim_daemon_lock, find_daemon, log_path

__all__ = ["run_daemon"]

log = logging.getLogger(__name__)

_TRIM_S = 60.0


def run_daemon(
    config: Config,
    *,
    owner_pid: int | None = None,
    arguments: tuple[str, ...] = (),
    prefer_port: int | None = None,
) -> None:
    """Run the daemon in this process until it is asked to stop.

    Parameters
    ----------
    config : Config
        What to do.
    owner_pid : int or None
        End when this process does: for a daemon that one program has for itself.
    arguments : tuple of str
        The command line that led here, for whoever has to start the next daemon.
    prefer_port : int or None
        Port of the page of the daemon that this one replaces.

    Raises
    ------
    InputError
        If one runs already, or the configuration cannot be carried out here.
    """
    lock = claim_daemon_lock()
    if lock is None:
        first = find_daemon()
        where = f" (pid {first.pid}), its page is at {first.page}" if first else " or is starting"
        raise InputError(f"a daemon is running already{where} (`deepfocus-live stop` ends it).")
    owner = None if owner_pid is None else ProcessStamp.of(owner_pid)

    async def serve(output: CapturedOutput) -> None:
        # Made inside the loop: what it holds belongs to this one.
        daemon = Daemon(config, owner=owner, arguments=arguments, prefer_port=prefer_port)
        trimming = asyncio.create_task(_keep_bounded(output))
        await daemon.run()
        trimming.cancel()

    try:
        with daemon_log(log_path()) as output:
            asyncio.run(serve(output))
    finally:
        lock.release()


async def _keep_bounded(output: CapturedOutput) -> None:
    while True:
        await asyncio.sleep(_TRIM_S)
        output.trim()
