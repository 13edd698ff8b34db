"""The client's end of the control channel: a blocking socket with deadlines."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

from deepfocus_live.ring._protocol import (
    LENGTH_BYTES,
    MAX_GREETING_BYTES,
    PROTOCOL_VERSION,
    Message,
    ProtocolError,
    answer,
    challenge,
    decode,
    encode,
    length_of,
    proves,
)

__all__ = ["ControlClient"]


class ControlClient:
    """One authenticated connection to the daemon.

    `send` may be called from several threads; `wait` and `receive` from one.

    Raises
    ------
    ConnectionError, TimeoutError
        If nobody answers at the port, or who answers does not know the key.
    """

    def __init__(self, port: int, key: str, *, timeout_s: float = 5.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        # A deadline belongs to one socket object: reading must not shorten a send's.
        self._reading = self._socket.dup()
        self._sending = threading.Lock()
        try:
            # Acknowledgements are small and many; none may wait for the next.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._greet(key, timeout_s)
        except BaseException:
            self.close()
            raise

    def _greet(self, key: str, timeout_s: float) -> None:
        theirs = self.receive(timeout_s, limit=MAX_GREETING_BYTES)
        if theirs.get("protocol") != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the daemon speaks protocol {theirs.get('protocol')}, this program "
                f"{PROTOCOL_VERSION}: use one version of deepfocus-live for both."
            )
        mine = challenge()
        nonce = str(theirs.get("challenge"))
        proof = answer(key, "client", mine, nonce)
        self.send(
            {"type": "hello", "protocol": PROTOCOL_VERSION, "challenge": mine, "proof": proof}
        )
        welcome = self.receive(timeout_s, limit=MAX_GREETING_BYTES)
        if welcome["type"] != "welcome":
            raise ProtocolError(
                f"the daemon refused us: {welcome.get('reason', 'no reason given')}"
            )
        if not proves(welcome.get("proof"), key, "daemon", nonce, mine):
            raise ProtocolError("who answers at the daemon's port does not know its key.")

    def send(self, message: Message) -> None:
        """Send one message."""
        with self._sending:
            self._socket.sendall(encode(message))

    def wait(self, timeout_s: float) -> bool:
        """Return whether something has come, or the end, within `timeout_s`; nothing is taken."""
        self._reading.settimeout(timeout_s)
        try:
            self._reading.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        return True

    def receive(self, timeout_s: float, *, limit: int | None = None) -> Message:
        """Return the next message.

        Raises
        ------
        TimeoutError
            If none has come whole within `timeout_s`; the connection is then of no more use.
        ConnectionError
            If the other side is gone.
        """
        deadline = time.monotonic() + timeout_s
        prefix = self._exactly(LENGTH_BYTES, deadline)
        length = length_of(prefix) if limit is None else length_of(prefix, limit=limit)
        return decode(self._exactly(length, deadline))

    def ask(self, message: Message, *, timeout_s: float = 10.0) -> Message:
        """Send one message and return the answer that is meant for it.

        Heartbeats and other announcements in between are passed over.
        """
        self.send(message)
        deadline = time.monotonic() + timeout_s
        while True:
            reply = self.receive(max(deadline - time.monotonic(), 0.001))
            if reply.get("re") == message["type"]:
                return reply

    def close(self) -> None:
        """Close the connection; a `receive` under way in another thread ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._reading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exactly(self, size: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the daemon did not answer in time.")
            self._reading.settimeout(left)
            part = self._reading.recv(min(size - len(parts), 1 << 20))
            if not part:
                raise ConnectionError("the daemon closed the connection.")
            parts += part
        return bytes(parts)
