"""One daemon per user: claim the lock, run, let go."""

from __future__ import annotations

import asyncio
import logging

from deepfocus_live.config import Config
from deepfocus_live.daemon._service import Daemon
from deepfocus_live.errors import InputError
from deepfocus_live.ring import claim_daemon_lock, find_daemon

__all__ = ["run_daemon"]


def run_daemon(config: Config) -> None:
    """Run the daemon in this process until it is asked to stop.

    Raises
    ------
    InputError
        If one runs already, or the configuration cannot be carried out here.
    """
    lock = claim_daemon_lock()
    if lock is None:
        first = find_daemon()
        where = f" (pid {first.pid}), its page is at {first.page}" if first else " or is starting"
        raise InputError(f"a daemon is running already{where}. `deepfocus-live stop` ends it.")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    try:
        asyncio.run(_run(config))
    finally:
        lock.release()


async def _run(config: Config) -> None:
    # Made inside the loop: what it holds belongs to this one.
    await Daemon(config).run()
