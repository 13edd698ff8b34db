"""The microscope's side of the control channel: find, start, and if need be replace the daemon."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from deepfocus_live.ring import (
    READY_S,
    ControlClient,
    DaemonAddress,
    DaemonDidNotStart,
    Message,
    find_daemon,
    log_path,
    start_daemon,
)

__all__ = ["HUNG_AFTER_S", "DaemonDidNotStart", "DaemonLink"]

HUNG_AFTER_S = 10.0
"""A daemon that has been silent for so long is killed and replaced."""

_LISTEN_S = 1.0

log = logging.getLogger(__name__)


class DaemonLink:
    """A connection that comes back: one thread reads, whoever calls `ensure` repairs.

    Parameters
    ----------
    on_message : callable
        Called on the reading thread with everything but answers to `ask`.
    """

    def __init__(
        self,
        *,
        arguments: tuple[str, ...],
        python: Path | None,
        on_message: Callable[[Message], None],
    ) -> None:
        self._arguments = arguments
        self._python = python
        self._on_message = on_message
        self._client: ControlClient | None = None
        self._address: DaemonAddress | None = None
        self._asked: str | None = None
        self._answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._ensuring = threading.Lock()
        self._closing = False
        self.restarts = 0
        self.said_bye = False
        # Made now: at the interpreter's exit no new thread can be started any more.
        self._reader = threading.Thread(target=self._read, name="deepfocus-link", daemon=True)
        self._reader.start()

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not failed yet."""
        return self._client is not None

    @property
    def daemon(self) -> DaemonAddress | None:
        """The daemon last connected to."""
        return self._address

    def ensure(self) -> bool:
        """Connect if there is no connection, starting the daemon where none runs.

        Returns
        -------
        bool
            Whether the connection is a new one, so that the other side knows nothing.

        Raises
        ------
        DaemonDidNotStart, OSError
            If there is no daemon to be had now.
        """
        with self._ensuring:
            return self._connect()

    def _connect(self) -> bool:
        if self._client is not None:
            return False
        address = find_daemon()
        if address is None:
            arguments = self._arguments
            if self._address is not None:
                self.restarts += 1
                log.warning("the deepfocus-live daemon is gone; starting it again.")
                arguments = self._address.arguments
            address = start_daemon(arguments, python=self._python)
        client = address.connect()
        with self._changed:
            self._address, self._client, self.said_bye = address, client, False
            self._changed.notify()
        return True

    def await_ready(self) -> Message:
        """Wait until the daemon serves, and return its status.

        It says where it is before it has loaded everything.

        Raises
        ------
        DaemonDidNotStart
            If it ends before that, or takes too long.
        """
        try:
            status: Message = self.ask({"type": "status"}, timeout_s=READY_S)["status"]
        except OSError:
            raise DaemonDidNotStart(
                f"the daemon ended while it started, or was not ready after {READY_S:.0f} s; "
                f"see {log_path()}"
            ) from None
        return status

    def send(self, message: Message) -> None:
        """Send one message.

        Raises
        ------
        OSError
            If the connection is gone.
        """
        client = self._client
        if client is None:
            raise ConnectionError("not connected to the daemon.")
        client.send(message)

    def ask(self, message: Message, *, timeout_s: float = 30.0) -> Message:
        """Send one message and return the answer to it. From one thread at a time.

        Raises
        ------
        OSError
            If the connection is gone before the answer has come.
        """
        while not self._answers.empty():
            self._answers.get_nowait()
        self._asked = message["type"]
        self.send(message)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                return self._answers.get(timeout=0.05)
            except queue.Empty:
                if self._client is None:
                    raise ConnectionError("the daemon went away before it answered.") from None
        raise TimeoutError(f"no answer to {message['type']} within {timeout_s:.0f} s.")

    def close(self) -> None:
        """Close the connection for good."""
        with self._changed:
            self._closing = True
            client, self._client = self._client, None
            self._changed.notify()
        if client is not None:
            client.close()

    def _read(self) -> None:
        while True:
            with self._changed:
                while self._client is None and not self._closing:
                    self._changed.wait()
                client = self._client
            if client is None:
                return
            try:
                self._await_word(client)
                self._dispatch(client.receive(HUNG_AFTER_S))
            except TimeoutError:
                self._replace_hung()
                self._drop(client)
            except OSError:
                self._drop(client)

    @staticmethod
    def _await_word(client: ControlClient) -> None:
        """Return when the daemon says something, or is gone.

        Waits are counted, not time: on a computer that slept, or where this process stood still,
        the clock has gone on while nobody could say or hear anything (on Windows also the one that
        cannot be set). The wait that was cut off by that counts as one, and a daemon that lives
        sends a heartbeat within the next.

        Raises
        ------
        TimeoutError
            If it was silent in as many waits as make `HUNG_AFTER_S`.
        """
        for _ in range(round(HUNG_AFTER_S / _LISTEN_S)):
            if client.wait(_LISTEN_S):
                return
        raise TimeoutError

    def _dispatch(self, message: Message) -> None:
        if "re" in message and message["re"] == self._asked:
            self._answers.put(message)
        elif message["type"] == "bye":
            self.said_bye = True
        else:
            self._on_message(message)

    def _replace_hung(self) -> None:
        if self._address is not None:
            log.warning(
                "the deepfocus-live daemon (pid %d) has been silent for %.0f s; replacing it.",
                self._address.pid,
                HUNG_AFTER_S,
            )
            # Killed first: two daemons must never write one run.
            self._address.stamp.kill()

    def _drop(self, client: ControlClient) -> None:
        client.close()
        with self._changed:
            if self._client is client:
                self._client = None
