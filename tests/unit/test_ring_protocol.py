"""The control channel: who may speak, and that those who may not harm nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfocus_live import _platform
from deepfocus_live.errors import InputError
from deepfocus_live.ring import (
    Connection,
    ControlClient,
    DaemonAddress,
    DaemonDidNotStart,
    MemoryRing,
    Message,
    ProtocolError,
    _protocol,
    _server,
    claim_daemon_lock,
    find_daemon,
    forget_daemon,
    leftover_rings,
    log_path,
    new_key,
    new_ring_path,
    publish_daemon,
    serve_control,
    start_daemon,
)

KEY = new_key()
Send = Callable[[Message], bytes]

# -------------------------------------------------------------- a real server


class _EchoServer:
    """`serve_control` on a loop of its own; what a client says comes back after a heartbeat."""

    def __init__(self) -> None:
        self.served = 0
        self.failures: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.failures == []

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.failures.append(context))
        self._stop = asyncio.Event()
        server = await serve_control(KEY, self._serve)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, connection: Connection) -> None:
        self.served += 1
        while True:
            message = await connection.receive()
            connection.send({"type": "heartbeat"})
            connection.send({**message, "type": "echo", "re": message["type"]})
            await connection.drain()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_EchoServer]:
    monkeypatch.setattr(_server, "GREETING_S", 0.3)
    monkeypatch.setattr(_server, "MESSAGE_S", 0.3)
    with _EchoServer() as server:
        yield server


@pytest.fixture
def client(server: _EchoServer) -> Iterator[ControlClient]:
    client = ControlClient(server.port, KEY)
    yield client
    client.close()


def _is_served(client: ControlClient, said: object = "still here") -> bool:
    return bool(client.ask({"type": "say", "said": said}, timeout_s=5)["said"] == said)


def _read_message(peer: socket.socket) -> Message:
    (length,) = struct.unpack(">I", peer.recv(4, socket.MSG_WAITALL))
    return dict(json.loads(peer.recv(length, socket.MSG_WAITALL)))


def _framed(body: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">I", len(body) if length is None else length) + body


def _hello(greeting: Message, *, key: str = KEY, side: str = "client", **changes: Any) -> bytes:
    mine = "5" * 64
    hello = {
        "type": "hello",
        "protocol": _protocol.PROTOCOL_VERSION,
        "challenge": mine,
        "proof": _protocol.answer(key, side, mine, greeting["challenge"]),
    }
    return _protocol.encode({**hello, **changes})


# ------------------------------------------------------------- good clients


def test_who_knows_the_key_is_served(server: _EchoServer, client: ControlClient) -> None:
    assert _is_served(client, {"deep": [1, 2.5, None, "größer"]})
    assert server.served == 1


def test_own_hello_is_what_the_server_wants(server: _EchoServer) -> None:
    # The other tests change one thing at a time in this.
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as peer:
        peer.sendall(_hello(_read_message(peer)))
        assert _read_message(peer)["type"] == "welcome"


def test_answer_is_found_behind_announcements(client: ControlClient) -> None:
    client.send({"type": "first"})
    assert client.ask({"type": "second"})["re"] == "second"


def test_messages_sent_from_many_threads_arrive_whole(client: ControlClient) -> None:
    def send(sender: int) -> None:
        for number in range(20):
            client.send({"type": "say", "said": [sender, number], "load": "x" * 5000})

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    echoes: list[list[int]] = []
    while len(echoes) < 80:
        message = client.receive(10)
        if message["type"] == "echo":
            assert len(message["load"]) == 5000
            echoes.append(message["said"])
    for thread in threads:
        thread.join()
    for sender in range(4):
        assert [n for s, n in echoes if s == sender] == list(range(20))


def test_megabytes_go_both_ways(client: ControlClient) -> None:
    assert _is_served(client, "x" * (8 << 20))


def test_silence_is_a_timeout_and_the_end_of_the_server_is_not() -> None:
    with _EchoServer() as server:
        client = ControlClient(server.port, KEY)
        with pytest.raises(TimeoutError):
            client.receive(0.05)
    with pytest.raises(ConnectionError):
        client.receive(5)
    client.close()
    with pytest.raises(ConnectionRefusedError):
        ControlClient(server.port, KEY)


def test_closing_ends_a_receive_under_way(client: ControlClient) -> None:
    ended: list[BaseException] = []

    def receive() -> None:
        try:
            client.receive(30)
        except OSError as error:
            ended.append(error)

    waiting = threading.Thread(target=receive)
    waiting.start()
    time.sleep(0.1)
    client.close()
    waiting.join(5)
    assert len(ended) == 1
    assert not isinstance(ended[0], TimeoutError)


# -------------------------------------------------------------- bad clients

_NESTED = b'{"type":"hello","challenge":' + b"[" * 1500 + b"]" * 1500 + b"}"
_BAD_PEERS = [
    pytest.param(lambda g: _hello(g, key=new_key()), id="wrong-key"),
    pytest.param(lambda g: _hello(g, side="daemon"), id="proof-of-the-wrong-side"),
    pytest.param(lambda g: _hello(g, challenge="6" * 64), id="proof-for-another-challenge"),
    pytest.param(lambda g: _hello({"challenge": "0" * 64}), id="proof-of-an-earlier-greeting"),
    pytest.param(lambda g: _hello(g, proof=None), id="no-proof"),
    pytest.param(lambda g: _hello(g, proof=""), id="empty-proof"),
    pytest.param(lambda g: _hello(g, proof=["a"]), id="proof-that-is-no-text"),
    pytest.param(lambda g: _hello(g, proof="ä"), id="proof-that-is-not-ascii"),
    pytest.param(lambda g: _hello(g, proof="\ud800"), id="proof-that-is-no-unicode"),
    pytest.param(lambda g: _hello(g, challenge="\ud800"), id="challenge-that-is-no-unicode"),
    pytest.param(lambda g: _hello(g, challenge={"a": 1}), id="challenge-that-is-no-text"),
    pytest.param(lambda g: _hello(g, protocol=2), id="later-version"),
    pytest.param(lambda g: _hello(g, protocol="1"), id="version-that-is-no-number"),
    pytest.param(lambda g: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="web-browser"),
    pytest.param(lambda g: bytes(range(256)) * 64, id="garbage"),
    pytest.param(lambda g: _framed(b"{", length=0xFFFFFFFF), id="length-of-4-GB"),
    pytest.param(lambda g: _framed(b"x" * 4097), id="hello-over-its-limit"),
    pytest.param(lambda g: _framed(b""), id="empty-message"),
    pytest.param(lambda g: _framed(b"{not json}"), id="not-json"),
    pytest.param(lambda g: _framed(b'["hello"]'), id="not-an-object"),
    pytest.param(lambda g: _framed(b'{"protocol": 1}'), id="no-type"),
    pytest.param(lambda g: _framed(b'{"type": 1}'), id="type-that-is-no-text"),
    pytest.param(lambda g: _framed(b'{"type":' + b"9" * 4000 + b"}"), id="huge-number"),
    pytest.param(lambda g: _framed(_NESTED), id="deeply-nested"),
    pytest.param(lambda g: _framed(b"\x80\x04N."), id="pickle"),
    pytest.param(lambda g: b"", id="silent"),
    pytest.param(lambda g: b"\0", id="part-of-a-length"),
    pytest.param(lambda g: _framed(b'{"type":', length=100), id="half-a-message"),
]


def _rest(peer: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    said = b""
    with contextlib.suppress(ConnectionResetError):  # it closed with our bytes unread
        while part := peer.recv(65536):
            said += part
    return said


@pytest.mark.parametrize("bad", _BAD_PEERS)
def test_peer_that_breaks_the_rules_is_let_go_and_harms_nobody(
    server: _EchoServer, client: ControlClient, bad: Callable[[Message], bytes]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as peer:
        greeting = _read_message(peer)
        assert greeting["type"] == "greeting"
        peer.sendall(bad(greeting))
        assert _is_served(client)
        assert b"welcome" not in _rest(peer)
    assert _is_served(client)
    assert server.served == 1


def test_peer_that_hangs_up_at_once_harms_nobody(
    server: _EchoServer, client: ControlClient
) -> None:
    for _ in range(5):
        socket.create_connection(("127.0.0.1", server.port), timeout=3).close()
    assert _is_served(client)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(_framed(b"", length=(64 << 20) + 1), id="over-the-limit"),
        pytest.param(_framed(b"no json"), id="not-json"),
        pytest.param(_framed(b"[" * 100_000), id="deeply-nested"),
        pytest.param(_framed(b'{"type":', length=100), id="half-a-message"),
    ],
)
def test_known_client_that_breaks_the_rules_loses_only_its_own_connection(
    server: _EchoServer, client: ControlClient, bad: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as peer:
        peer.sendall(_hello(_read_message(peer)))
        assert _read_message(peer)["type"] == "welcome"
        peer.sendall(bad)
        _rest(peer)
    assert _is_served(client)
    assert server.served == 2


def test_flood_of_silent_peers_does_not_keep_out_a_client(
    server: _EchoServer, client: ControlClient
) -> None:
    with contextlib.ExitStack() as stack:
        flood = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            for _ in range(150)
        ]
        assert _is_served(client)
        late = ControlClient(server.port, KEY)
        assert _is_served(late)
        late.close()
        for peer in flood:
            assert b"welcome" not in _rest(peer)  # ends: each was let go
    assert server.served == 2


@pytest.mark.parametrize("key", [pytest.param(new_key(), id="wrong-key")])
def test_client_without_the_key_is_told_why(server: _EchoServer, key: str) -> None:
    with pytest.raises(ProtocolError, match="wrong key"):
        ControlClient(server.port, key)
    assert server.served == 0


def test_client_of_another_version_is_told_why(server: _EchoServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as peer:
        peer.sendall(_hello(_read_message(peer), protocol=99))
        refusal = _read_message(peer)
    assert refusal["type"] == "refused"
    assert "99" in refusal["reason"]


# ---------------------------------------------------------------- impostors

_GREETING: Message = {
    "type": "greeting",
    "protocol": _protocol.PROTOCOL_VERSION,
    "challenge": "7" * 64,
}


@contextlib.contextmanager
def _impostor(
    greeting: Message | bytes, reply: Callable[[Message], Message | bytes]
) -> Iterator[int]:
    """A server at the daemon's port that does not know the key."""

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError, struct.error):
            peer.settimeout(5)
            peer.sendall(greeting if isinstance(greeting, bytes) else _protocol.encode(greeting))
            answer = reply(_read_message(peer))
            peer.sendall(answer if isinstance(answer, bytes) else _protocol.encode(answer))
            peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def _welcome(proof: object) -> Message:
    return {"type": "welcome", "proof": proof}


@pytest.mark.parametrize(
    ("greeting", "reply"),
    [
        pytest.param(_GREETING, lambda hello: _welcome("0" * 64), id="guessed-proof"),
        pytest.param(_GREETING, lambda hello: _welcome(hello["proof"]), id="our-own-proof"),
        pytest.param(_GREETING, lambda hello: {"type": "welcome"}, id="no-proof"),
        pytest.param(_GREETING, lambda hello: _welcome(True), id="proof-that-is-no-text"),
        pytest.param(_GREETING, lambda hello: _welcome("\ud800"), id="proof-that-is-no-unicode"),
        pytest.param(
            {**_GREETING, "challenge": "\ud800"},
            lambda hello: _welcome("0"),
            id="challenge-that-is-no-unicode",
        ),
        pytest.param(
            _GREETING,
            lambda h: _welcome(_protocol.answer(new_key(), "daemon", "7" * 64, h["challenge"])),
            id="proof-of-another-key",
        ),
        pytest.param(_GREETING, lambda hello: {"type": "acks"}, id="no-welcome"),
        pytest.param(_GREETING, lambda hello: b"\xff\xff\xff\xff", id="length-of-4-GB"),
        pytest.param({**_GREETING, "protocol": 2}, lambda hello: b"", id="another-version"),
        pytest.param({"type": "greeting"}, lambda hello: b"", id="no-version"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", lambda hello: b"", id="web-server"),
        pytest.param(_framed(b"[" * 4000), lambda hello: b"", id="deeply-nested"),
    ],
)
def test_daemon_that_does_not_know_the_key_is_refused(
    greeting: Message | bytes, reply: Callable[[Message], Message | bytes]
) -> None:
    with _impostor(greeting, reply) as port, pytest.raises(ProtocolError):
        ControlClient(port, KEY, timeout_s=5)


def test_daemon_that_says_nothing_is_given_up() -> None:
    with _impostor(b"", lambda hello: b"") as port:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            ControlClient(port, KEY, timeout_s=0.2)
        assert time.monotonic() - began < 3


# ----------------------------------------------------------------- messages


@given(st.binary(max_size=200) | st.recursive(st.none(), st.lists).map(json.dumps).map(str.encode))
def test_any_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    try:
        message = _protocol.decode(body)
    except ProtocolError:
        return
    assert isinstance(message["type"], str)


@given(st.binary(min_size=4, max_size=4), st.integers(0, 1 << 32))
def test_announced_length_is_within_its_limit_or_refused(prefix: bytes, limit: int) -> None:
    try:
        length = _protocol.length_of(prefix, limit=limit)
    except ProtocolError as error:
        assert str(limit) in str(error)
        return
    assert 0 <= length <= limit


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _JSON, max_size=4), st.text())
def test_message_is_decoded_as_it_was_encoded(rest: Message, kind: str) -> None:
    message = {**rest, "type": kind}
    raw = _protocol.encode(message)
    prefix, body = raw[: _protocol.LENGTH_BYTES], raw[_protocol.LENGTH_BYTES :]
    assert _protocol.length_of(prefix) == len(body)
    assert _protocol.decode(body) == message


@given(st.text(st.characters()), st.text(st.characters()))
def test_no_text_whatever_passes_for_a_proof(proof: str, challenge: str) -> None:
    assert not _protocol.proves(proof, KEY, "client", challenge, "7" * 64)


def test_proof_holds_for_its_key_side_and_challenges_alone() -> None:
    good = (KEY, "client", "a" * 64, "b" * 64)
    proof = _protocol.answer(*good)
    assert _protocol.proves(proof, *good)
    for place, other in enumerate((new_key(), "daemon", "c" * 64, "a" * 64)):
        changed = [*good[:place], other, *good[place + 1 :]]
        assert not _protocol.proves(proof, *changed)
    assert not _protocol.proves(proof, KEY, "client", "b" * 64, "a" * 64)


def test_keys_and_challenges_never_come_twice() -> None:
    assert len({new_key() for _ in range(50)} | {_protocol.challenge() for _ in range(50)}) == 100


# -------------------------------------------------------------- runtime file


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runtime"
    monkeypatch.setenv(_platform.RUNTIME_DIR_VARIABLE, str(folder))
    return folder


def _address(stamp: _platform.ProcessStamp, port: int = 1) -> DaemonAddress:
    return DaemonAddress(stamp.pid, stamp.started, port, KEY, "http://127.0.0.1:8765", "0.0")


def test_published_daemon_is_found_until_it_is_forgotten(runtime: Path) -> None:
    assert find_daemon() is None
    address = _address(_platform.ProcessStamp.mine())
    publish_daemon(address)
    assert find_daemon() == address
    later = _address(_platform.ProcessStamp.mine(), port=2)
    publish_daemon(later)
    assert find_daemon() == later
    assert [path.name for path in runtime.iterdir()] == ["daemon.json"]
    forget_daemon()
    forget_daemon()
    assert find_daemon() is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows protects the profile folder itself")
def test_only_this_user_can_read_the_key(runtime: Path) -> None:
    publish_daemon(_address(_platform.ProcessStamp.mine()))
    assert (runtime / "daemon.json").stat().st_mode & 0o777 == 0o600
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_file_of_a_dead_daemon_is_passed_over(runtime: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        publish_daemon(_address(_platform.ProcessStamp.of(process.pid)))
        assert find_daemon() is not None
        process.kill()
    assert find_daemon() is None


def test_process_that_got_a_dead_daemons_number_is_not_taken_for_it(runtime: Path) -> None:
    me = _platform.ProcessStamp.mine()
    publish_daemon(_address(_platform.ProcessStamp(me.pid, me.started - 3600)))
    assert find_daemon() is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"pid": 1, "st', id="cut"),
        pytest.param("null", id="null"),
        pytest.param("[1, 2]", id="list"),
        pytest.param("{}", id="no-keys"),
        pytest.param('{"pid": 1, "colour": 2}', id="other-keys"),
        pytest.param(
            '{"pid": "me", "started": "now", "port": 1, "key": "", "page": "", "version": ""}',
            id="wrong-types",
        ),
        pytest.param(
            '{"pid": -4, "started": 0, "port": 1, "key": "", "page": "", "version": ""}',
            id="impossible-number",
        ),
        pytest.param("\udcff\udcfe", id="not-utf-8"),
    ],
)
def test_damaged_runtime_file_is_no_daemon(runtime: Path, text: str) -> None:
    runtime.mkdir()
    (runtime / "daemon.json").write_bytes(text.encode(errors="surrogateescape"))
    assert find_daemon() is None


def test_found_daemon_can_be_talked_to(runtime: Path, server: _EchoServer) -> None:
    publish_daemon(_address(_platform.ProcessStamp.mine(), server.port))
    found = find_daemon()
    assert found is not None
    client = found.connect()
    assert _is_served(client)
    client.close()


# -------------------------------------------------------------------- lock

_HOLDS_THE_LOCK = """
from deepfocus_live.ring import claim_daemon_lock
lock = claim_daemon_lock()
print("refused" if lock is None else "held", flush=True)
input()
"""


def test_one_process_at_a_time_holds_the_daemons_lock(runtime: Path) -> None:
    command = [sys.executable, "-c", _HOLDS_THE_LOCK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        assert claim_daemon_lock() is None
        holder.kill()
    # The system lets it go for a holder that cannot any more.
    lock = claim_daemon_lock()
    assert lock is not None
    refused = subprocess.run(command, input=b"\n", stdout=subprocess.PIPE, timeout=60)
    assert refused.stdout.strip() == b"refused"
    assert claim_daemon_lock() is None
    lock.release()


# ------------------------------------------------------------- starting, rings


@pytest.mark.skipif(sys.platform == "win32", reason="needs a script as an interpreter")
def test_daemon_that_does_not_start_is_reported_with_its_last_words(
    runtime: Path, tmp_path: Path
) -> None:
    stub = tmp_path / "python"
    for script, words in (
        ("echo loading; echo the disk is on fire; exit 1", "the disk is on fire"),
        ("exit 1", "without a word"),
    ):
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
        with pytest.raises(DaemonDidNotStart, match=words):
            start_daemon(python=stub, patience_s=20)
    said = [path.read_text() for path in log_path().parent.glob("start-*.out")]
    assert sorted(said) == ["", "loading\nthe disk is on fire\n"]
    stub.write_text("#!/bin/sh\necho deepfocus-live: port 8765 is taken; exit 2\n")
    with pytest.raises(InputError, match=r"^port 8765 is taken$"):
        start_daemon(python=stub, patience_s=20)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a script as an interpreter")
def test_daemon_that_is_never_ready_is_given_up(runtime: Path, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\nexec sleep 2\n")
    stub.chmod(0o755)
    with pytest.raises(DaemonDidNotStart, match="not ready"):
        start_daemon(python=stub, patience_s=0.2)
    for child in psutil.Process().children():
        if "sleep" in child.name():
            child.kill()
            child.wait(5)


def test_rings_of_one_runtime_folder_are_not_another_ones_to_drain(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = MemoryRing.create(new_ring_path(1 << 16), slots=2, slot_bytes=64, run_room=64)
    assert leftover_rings() == [ring.path]
    monkeypatch.setenv(_platform.RUNTIME_DIR_VARIABLE, str(tmp_path / "other"))
    assert leftover_rings() == []
    monkeypatch.setenv(_platform.RUNTIME_DIR_VARIABLE, str(runtime))
    ring.close(remove=True)
    assert leftover_rings() == []


def test_ring_too_large_for_memory_goes_into_the_runtime_folder(runtime: Path) -> None:
    assert new_ring_path(1 << 60).parent == runtime
