"""Who may read and act through the page, and who may not."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from deepfocus_live.config import WebConfig
from deepfocus_live.daemon._page._port import page_address
from deepfocus_live.errors import InputError
from deepfocus_live.web import ACTIONS, Access, LiveHub, Outcome, VolumeServer, create_app
from deepfocus_live.web._limits import Allowance, TooManyError, Turnstile
from deepfocus_live.web._volumes import is_store_key
from tests.page import Served, Stored, next_event


@pytest.fixture(scope="module")
def idle() -> Iterator[Served]:
    """Serve for tests that only ask and leave nothing behind."""
    served = Served()
    served.start()
    yield served
    served.stop()


def test_page_may_load_nothing_from_elsewhere(idle: Served) -> None:
    page = idle.get("/")
    assert page.status_code == 200
    policy = dict(
        rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert {name for name, value in policy.items() if "unsafe" in value} == {"style-src-attr"}
    assert "*" not in str(policy) and "http" not in str(policy)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_plotly_comes_from_its_python_package_and_small(idle: Served) -> None:
    whole = idle.get("/static/plotly.min.js", accept_encoding="identity")
    small = idle.get("/static/plotly.min.js")
    assert whole.content == small.content and b"plotly.js" in whole.content[:40]
    assert int(small.headers["content-length"]) < 0.4 * len(whole.content)
    again = idle.get("/static/plotly.min.js", if_none_match=small.headers["etag"])
    assert again.status_code == 304


def test_unchanged_file_is_not_sent_again(idle: Served) -> None:
    first = idle.get("/static/main.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = idle.get("/static/main.js", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/nothing.js",
        "/static/..%2F_app.py",
        "/static/../_app.py",
        "/static/%2Fetc%2Fpasswd",
        "/static/plotly/package_data/plotly.min.js",
        "/other",
        "/volumes/0/zarr.json",
    ],
)
def test_only_the_pages_own_files_are_served(idle: Served, path: str) -> None:
    assert idle.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/status", "/api/slice?run=run-1&z=0", "/health"])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"host": "evil.example"}, id="rebound name"),
        pytest.param({"host": "127.0.0.1.evil.example:80"}, id="lookalike"),
        pytest.param({"host": ""}, id="no name"),
        pytest.param({"origin": "http://evil.example"}, id="foreign page"),
        pytest.param({"origin": "http://127.0.0.1:1"}, id="another local page"),
        pytest.param({"origin": "null"}, id="sandboxed page"),
    ],
)
def test_foreign_host_or_origin_is_refused(
    idle: Served, path: str, headers: dict[str, str]
) -> None:
    assert idle.get(path, **headers).status_code == 403


def test_other_site_may_link_here_but_not_load_from_here(idle: Served) -> None:
    assert idle.get("/", sec_fetch_site="cross-site").status_code == 200
    assert idle.get("/api/status", sec_fetch_site="cross-site").status_code == 403
    assert idle.get("/static/main.js", sec_fetch_site="same-site").status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "file://", "http://[broken"])
def test_websocket_of_another_page_is_refused(idle: Served, origin: str) -> None:
    with pytest.raises(InvalidStatus, match="403"), idle.watch(origin=origin):
        pass
    assert idle.hub.viewers == 0


def test_websocket_of_the_page_itself_is_accepted(idle: Served) -> None:
    with idle.watch(origin=f"http://127.0.0.1:{idle.port}") as viewer:
        assert next_event(viewer, "status")["status"]["state"] == "ready"


def test_host_that_was_bound_on_purpose_is_accepted() -> None:
    async def ask(host: str) -> int:
        app = create_app(LiveHub(), Stored(), status=dict, allowed_hosts=["Scope-3.lab"])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return (await client.get("/health")).status_code

    assert asyncio.run(ask("scope-3.lab:8765")) == 200
    assert asyncio.run(ask("[::1]:8765")) == 200
    assert asyncio.run(ask("scope-4.lab:8765")) == 403


# A key where others than this computer can ask --------------------------------


KEY = "k" * 43


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """Serve as to a network: with a key, at any address."""
    access = Access(("scope-3.lab",), any_address=True, key=KEY)
    served = Served(access=access)
    served.start()
    yield served
    served.stop()


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        pytest.param("/", {}, 401, id="nothing shown"),
        pytest.param("/api/status", {}, 401, id="status"),
        pytest.param("/api/session", {}, 401, id="session"),
        pytest.param("/static/main.js", {}, 401, id="script"),
        pytest.param("/health", {}, 401, id="health"),
        pytest.param(f"/api/status?key={KEY}", {}, 401, id="key where no page is"),
        pytest.param("/?key=" + "k" * 42, {}, 401, id="shorter key"),
        pytest.param("/?key=" + "a=b&key=" * 20, {}, 401, id="many keys"),
        pytest.param("/?key=%ff%fe", {}, 401, id="no text"),
        pytest.param(f"/?key={KEY}", {}, 200, id="the key"),
        pytest.param("/", {"host": "evil.example"}, 403, id="rebound name"),
        pytest.param(f"/?key={KEY}", {"host": "evil.example"}, 403, id="rebound name with key"),
        pytest.param("/health", {"authorization": f"Bearer {KEY}"}, 200, id="bearer"),
        pytest.param("/health", {"authorization": f"Basic {KEY}"}, 401, id="another scheme"),
        pytest.param("/health", {"authorization": "Bearer"}, 401, id="empty bearer"),
        pytest.param("/health", {"cookie": "deepfocus_80=\x01; ,;=="}, 401, id="broken cookie"),
        pytest.param(
            "/health",
            {"authorization": f"Bearer {KEY}", "host": "192.168.7.9:8765"},
            200,
            id="by address",
        ),
    ],
)
def test_page_in_a_network_is_for_who_knows_its_key(
    keyed: Served, path: str, headers: dict[str, str], code: int
) -> None:
    assert keyed.get(path, **headers).status_code == code


def test_key_in_the_address_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(
    keyed: Served,
) -> None:
    entrance = keyed.get(f"/?key={KEY}")
    assert KEY not in entrance.text and 'content="0;url=/"' in entrance.text
    shown = entrance.headers["set-cookie"]
    name, _, rest = shown.partition("=")
    assert name == f"deepfocus_{keyed.port}", "another daemon's cookie is not this one's"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in rest.split(";")}
    cookie = shown.partition(";")[0]
    assert keyed.get("/api/status", cookie=cookie).status_code == 200
    assert "set-cookie" not in keyed.get("/api/status", cookie=cookie).headers
    with keyed.watch(additional_headers={"Cookie": cookie}) as viewer:
        assert next_event(viewer, "status")
    with pytest.raises(InvalidStatus, match="403"), keyed.watch():
        pass


@pytest.mark.parametrize(
    ("host", "address", "key"),
    [
        pytest.param("127.0.0.1", "http://127.0.0.1:{port}/", False, id="this computer"),
        pytest.param("::1", "http://[::1]:{port}/", False, id="this computer, IPv6"),
        pytest.param("127.5.5.5", "http://127.5.5.5:{port}/", False, id="loopback"),
        pytest.param("0.0.0.0", "http://{name}:{port}/?key={key}", True, id="everywhere"),
        pytest.param("192.0.2.7", "http://192.0.2.7:{port}/?key={key}", True, id="one address"),
    ],
)
def test_address_carries_the_key_where_it_is_needed(
    host: str, address: str, key: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        web = WebConfig(host=host)
        port = listening.getsockname()[1]
        got = page_address(web, listening)
        kept = (tmp_path / "page.key").read_text() if key else ""
        assert got == address.format(port=port, name=socket.gethostname(), key=kept)
        assert page_address(web, listening) == got, "it outlives the daemon"
    assert (tmp_path / "page.key").exists() == key
    if key and os.name == "posix":
        assert (tmp_path / "page.key").stat().st_mode & 0o077 == 0


# Actions ----------------------------------------------------------------------


class Did:
    """`Actions` that writes down what it was asked for."""

    available = frozenset(ACTIONS) - {"rollback"}

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Outcome]:
        def do(**arguments: Any) -> Outcome:
            self.calls.append((name, arguments))
            if arguments.get("profile") == "nobody":
                raise InputError("there is no profile 'nobody'.")
            if arguments.get("profile") == "broken":
                raise RuntimeError("bug")
            return Outcome(name != "pause_masks", f"{name} done")

        return do


@pytest.fixture
def acting() -> Iterator[tuple[Served, Did]]:
    done = Did()
    served = Served(actions=done)
    served.start()
    yield served, done
    served.stop()


def act(served: Served, name: str, body: Any, **headers: str) -> Any:
    token = served.get("/api/session").json()["token"]
    given = {"x_deepfocus_token": token, "content_type": "application/json", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return served.post(f"/api/actions/{name}", content, **given)


def test_action_is_done_and_answered_in_words(acting: tuple[Served, Did]) -> None:
    served, done = acting
    assert set(served.get("/api/session").json()["actions"]) == set(Did.available)
    answer = act(served, "use-model", {"name": "m-2", "profile": "default"})
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "text": "use_model done"})
    assert act(served, "choose-profile", {"profile": None}).status_code == 200
    assert act(served, "pause-masks", {}).status_code == 409
    assert done.calls == [
        ("use_model", {"name": "m-2", "profile": "default"}),
        ("choose_profile", {"profile": None}),
        ("pause_masks", {}),
    ]
    nobody = act(served, "retrain", {"profile": "nobody"})
    refused = {"ok": False, "text": "there is no profile 'nobody'."}
    assert (nobody.status_code, nobody.json()) == (409, refused)


_HOSTILE = [
    pytest.param("stop-after-run", {}, {"x_deepfocus_token": ""}, 403, id="no token"),
    pytest.param("stop-after-run", {}, {"x_deepfocus_token": "x" * 43}, 403, id="wrong token"),
    pytest.param("stop-after-run", {}, {"content_type": "text/plain"}, 415, id="a form's text"),
    pytest.param(
        "stop-after-run",
        {},
        {"content_type": "application/x-www-form-urlencoded"},
        415,
        id="a form",
    ),
    pytest.param("stop-after-run", {}, {"origin": "http://evil.example"}, 403, id="another page"),
    pytest.param("stop-after-run", {}, {"host": "evil.example"}, 403, id="rebound name"),
    pytest.param("stop-after-run", {}, {"sec_fetch_site": "cross-site"}, 403, id="cross-site"),
    pytest.param("stop_after_run", {}, {}, 404, id="no such action"),
    pytest.param("__class__", {}, {}, 404, id="an attribute"),
    pytest.param("stop-after-run", b"", {}, 400, id="no body"),
    pytest.param("stop-after-run", b"[" * 4000, {}, 400, id="deep body"),
    pytest.param("stop-after-run", b" " * 5000 + b"{}", {}, 413, id="long body"),
    pytest.param("stop-after-run", [], {}, 400, id="no object"),
    pytest.param("stop-after-run", {"now": True}, {}, 400, id="unknown key"),
    pytest.param("retrain", {}, {}, 400, id="missing key"),
    pytest.param("retrain", {"profile": 3}, {}, 400, id="no text"),
    pytest.param("retrain", {"profile": None}, {}, 400, id="null"),
    pytest.param("retrain", {"profile": "a" * 101}, {}, 400, id="endless name"),
    pytest.param("rollback", {"profile": "default"}, {}, 409, id="not available"),
]


def test_nothing_is_done_for_who_asks_wrongly(
    acting: tuple[Served, Did], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, done = acting
    monkeypatch.setattr(Allowance, "take", lambda self: True)
    for case in _HOSTILE:
        name, body, headers, code = case.values
        assert act(served, name, body, **headers).status_code == code, case.id
    assert done.calls == []
    for method in ("GET", "PUT", "DELETE"):
        assert served.ask(method, "/api/actions/stop-after-run").status_code == 405


def test_action_that_fails_says_so_and_no_more(
    acting: tuple[Served, Did], caplog: pytest.LogCaptureFixture
) -> None:
    answer = act(acting[0], "retrain", {"profile": "broken"})
    assert answer.status_code == 500
    assert "bug" not in answer.text and "bug" in caplog.text


def test_many_actions_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfocus_live.web._actions._PER_SECOND", 0.0)
    served = Served(actions=Did())
    served.start()
    codes = [act(served, "resume-masks", {}).status_code for _ in range(12)]
    served.stop()
    assert codes == [200] * 10 + [429] * 2


def test_allowance_fills_up_again() -> None:
    now = [0.0]
    allowance = Allowance(2, 0.5, clock=lambda: now[0])
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now[0] = 2.0
    assert [allowance.take() for _ in range(2)] == [True, False]
    now[0] = 1000.0
    assert [allowance.take() for _ in range(3)] == [True, True, False]


def test_who_comes_to_a_full_turnstile_is_turned_away() -> None:
    async def scenario() -> None:
        turnstile, inside = Turnstile(1, 1), asyncio.Event()

        async def visit() -> None:
            async with turnstile.enter():
                await inside.wait()

        visits = [asyncio.create_task(visit()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyError):
            async with turnstile.enter():
                pass
        inside.set()
        await asyncio.gather(*visits)
        async with turnstile.enter():
            pass

    asyncio.run(scenario())


# Volumes over HTTP ------------------------------------------------------------


class Shelf(Stored):
    """A `RunSource` with one run in a folder."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.store = store

    def list_runs(self) -> list[dict[str, Any]]:
        return [{"id": "run-1", "pixels_stored": True}]

    def describe_run(self, run_id: str) -> dict[str, Any]:
        raise KeyError(run_id)

    def store_of(self, run_id: str) -> Path:
        return self.store


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    folder = tmp_path_factory.mktemp("run")
    store = folder / "volume.ome.zarr"
    for name in ("zarr.json", "0/0/zarr.json", "0/0/c/0/0/1/0/0", "0/labels/in_focus/zarr.json"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text(f"{name}")
    (folder / "frames.jsonl").write_text("secret")
    (store / "0/zarr.json").symlink_to(folder / "frames.jsonl")
    runs = Shelf(store)
    volumes = VolumeServer(runs, key=b"key", origins=["https://viewer.example"])
    served = Served(runs=runs, volumes=volumes, access=Access(key=KEY))
    served.start()
    [run] = served.get("/api/runs", authorization=f"Bearer {KEY}").json()["runs"]
    yield served, run["volume"]
    served.stop()


@pytest.mark.parametrize(
    "key",
    ["zarr.json", "0/0/zarr.json", "0/0/c/0/0/1/0/0", "0/labels/in_focus/zarr.json"],
)
def test_volume_is_read_by_who_knows_its_address(shelf: tuple[Served, str], key: str) -> None:
    served, address = shelf
    answer = served.get(address + key)
    assert (answer.status_code, answer.text) == (200, key)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "key",
    [
        "",
        "0/zarr.json",
        "0/0/c/0/0/2/0/0",
        "../frames.jsonl",
        "..%2Fframes.jsonl",
        "%2e%2e/frames.jsonl",
        "0/../../frames.jsonl",
        "0//0/zarr.json",
        "/etc/passwd",
        "C:/windows/zarr.json",
        "0\\0\\zarr.json",
        "0/0/c/0/0/1/0",
        "0/0/c/0/0/1/0/-1",
        "0/labels/secret/zarr.json",
        "nul/zarr.json",
        "A/COM1/0/zarr.json",
        ".writer.lock",
        "zarr.json%00.txt",
        "0/0/c/" + "9" * 400,
    ],
)
def test_nothing_but_a_store_s_own_names_is_read(shelf: tuple[Served, str], key: str) -> None:
    served, address = shelf
    answer = served.get(address + key)
    assert answer.status_code in (401, 404), "401: out of /volumes, and so behind the key"
    assert "secret" not in answer.text


def test_guessed_address_leads_nowhere(shelf: tuple[Served, str]) -> None:
    served, address = shelf
    right = address.split("/")[2]
    for wrong in ("0" * 40, right[:-1], right.upper() + "0", "é", right[:-1] + "g"):
        assert served.get(f"/volumes/{wrong}/zarr.json").status_code == 404
    assert served.post(address + "zarr.json").status_code == 405


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("https://viewer.example", 200),
        ("https://viewer.example.evil", 403),
        ("http://viewer.example", 403),
        ("null", 403),
    ],
)
def test_web_pages_read_volumes_only_from_origins_that_are_listed(
    shelf: tuple[Served, str], origin: str, code: int
) -> None:
    served, address = shelf
    headers = {"origin": origin, "sec_fetch_site": "cross-site"}
    answer = served.get(address + "zarr.json", **headers)
    assert answer.status_code == code
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (origin if code == 200 else None)
    bearer = {"authorization": f"Bearer {KEY}"}
    assert served.get("/api/runs", **headers, **bearer).status_code == 403, "volumes only"


def test_volumes_are_off_by_default(idle: Served) -> None:
    assert WebConfig().serve_volumes is False
    assert idle.get(f"/volumes/{'0' * 40}/zarr.json").status_code == 404


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        ("zarr.json", True),
        ("OME/METADATA.ome.xml", True),
        ("A/12/zarr.json", True),
        ("B/3/0/labels/undecided/2/c/0/0/0/0/0", True),
        ("12/3/c/0/0/10/0/0", True),
        ("nul/zarr.json", False),
        ("A/COM1/0/zarr.json", False),
        ("0/0/c/0/0/1/0", False),
        ("0/labels/secret/zarr.json", False),
        ("zarr.json\n", False),
        ("", False),
    ],
)
def test_only_names_that_a_store_of_ours_has_are_keys(key: str, is_one: bool) -> None:
    assert is_store_key(key) == is_one


@given(st.text(alphabet="abz019./\\-_:%CON", max_size=30))
@example("0/0/c/0/0/0/0/0")
@example("B/3/0/labels/undecided/2/c/0/0/0/0/0")
@example("OME/METADATA.ome.xml")
def test_key_of_a_store_never_leads_out_of_it(key: str) -> None:
    if is_store_key(key):
        parts = PurePosixPath(key).parts
        assert "/".join(parts) == key
        assert ".." not in parts and not key.startswith("/") and ":" not in key
