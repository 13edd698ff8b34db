"""One daemon per user: claim the lock, say where it is, become whole, run, let go.

Design Notes
------------
What the daemon works with (Zarr, the network's runtime, the page's server) takes a second or more
to load. It is loaded after the address is published; see `Doorway`. What a user can have got wrong
is found before that, so that `start` still ends with one line: folder and port; label presets
and flat fields of the user's own profiles; the network's device where one is asked for by name.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from deepfocus_live import __version__, _platform
from deepfocus_live._platform import ProcessStamp
from deepfocus_live.config import Config, writable_folder
from deepfocus_live.daemon._doorway import Doorway
from deepfocus_live.daemon._logging import CapturedOutput, daemon_log
from deepfocus_live.daemon._page._port import listen_for_page, page_address
from deepfocus_live.errors import InputError
from deepfocus_live.ring import (
    DaemonAddress,
    claim_daemon_lock,
    find_daemon,
    forget_daemon,
    log_path,
    new_key,
    publish_daemon,
    serve_control,
)

if TYPE_CHECKING:
    from deepfocus_live.daemon._service import Daemon

__all__ = ["run_daemon"]

log = logging.getLogger(__name__)

_TRIM_S = 60.0
_THREADS = 8
"""For requests, of which one may wait for a disk, and for the watch."""


def run_daemon(
    config: Config,
    *,
    owner_pid: int | None = None,
    arguments: tuple[str, ...] = (),
    prefer_port: int | None = None,
    reread: Callable[[], Config] | None = None,
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
    reread : callable or None
        Reads the configuration again, for `deepfocus-live reload`; None: there is no file.

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
    # The microscope's own program goes first, and its threads that empty the camera's buffer.
    _platform.step_back()
    try:
        with daemon_log(log_path()) as output:
            _check_profiles(config)
            writable_folder(config.output_dir)
            with listen_for_page(config.web, prefer_port) as page:
                make = partial(_make, config, page, owner, reread)
                asyncio.run(_serve(config, page, output, arguments, make))
    finally:
        lock.release()


async def _serve(
    config: Config,
    page: socket.socket,
    output: CapturedOutput,
    arguments: tuple[str, ...],
    make: Callable[[], Daemon],
) -> None:
    asyncio.get_running_loop().set_default_executor(_whole_pool())
    key, doorway = new_key(), Doorway()
    making = asyncio.create_task(asyncio.to_thread(make))
    if config.inference.enabled and config.inference.provider != "auto":
        # Whether a device that was asked for by name can be had, only loading tells.
        await making
    server = await serve_control(key, doorway.let_in)
    trimming = asyncio.create_task(_keep_bounded(output))
    publish_daemon(_address(config, page, server, key, arguments))
    try:
        daemon = await making
        await daemon.run(server, doorway)
    finally:
        # Nobody may find us any more, wherever it ended.
        forget_daemon()
        server.close()
        trimming.cancel()


def _whole_pool() -> ThreadPoolExecutor:
    """Return a pool all of whose threads are there: one that came later would be growth."""
    pool, everyone = ThreadPoolExecutor(_THREADS, "pool"), threading.Barrier(_THREADS)
    for _ in range(_THREADS):
        pool.submit(everyone.wait)
    return pool


def _make(
    config: Config,
    page: socket.socket,
    owner: ProcessStamp | None,
    reread: Callable[[], Config] | None,
) -> Daemon:
    """Load all that the daemon works with, and make it: takes its time."""
    from deepfocus_live.daemon._service import Daemon

    daemon = Daemon(config, owner=owner, page=page, reread=reread)
    daemon.prepare()
    return daemon


def _check_profiles(config: Config) -> None:
    """Refuse profiles that cannot be carried out; there is nothing to check in those we ship."""
    if config.profiles != Config().profiles:
        from deepfocus_live.daemon._profiles import profile_conditions

        profile_conditions(config)


def _address(
    config: Config,
    page: socket.socket,
    server: asyncio.Server,
    key: str,
    arguments: tuple[str, ...],
) -> DaemonAddress:
    stamp = ProcessStamp.mine()
    return DaemonAddress(
        stamp.pid,
        stamp.started,
        server.sockets[0].getsockname()[1],
        key,
        page_address(config.web, page),
        __version__,
        # A daemon that replaces this one serves its page where browsers wait for it.
        (*arguments, "--prefer-port", str(page.getsockname()[1])),
    )


async def _keep_bounded(output: CapturedOutput) -> None:
    while True:
        await asyncio.sleep(_TRIM_S)
        output.trim()
