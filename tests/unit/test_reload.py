"""Reading the configuration again: what changes, when, and that a bad file changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from deepfocus_live.config import Config, ProfileConfig, load_config
from deepfocus_live.daemon import Daemon
from deepfocus_live.daemon._reload import APPLIES, Applies, applies, changes, with_changes
from deepfocus_live.errors import InputError

_DOCS = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")


def _keys(model: type[BaseModel], *above: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting; those of the usual profile stand for all profiles."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if name == "profiles":
            yield from _keys(ProfileConfig, *above, name, "default")
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, *above, name)
        else:
            yield (*above, name)


def test_of_every_setting_it_is_said_when_it_counts() -> None:
    paths = list(_keys(Config))
    assert len(paths) > 30
    said = {applies(path) for path in paths}
    assert said == set(Applies)
    heads = {".".join(path) for path in paths} | {path[0] for path in paths}
    assert APPLIES.keys() <= heads, "a setting that is gone"
    # A section for which some keys stand alone must name all of them.
    for section in {key.partition(".")[0] for key in APPLIES if "." in key}:
        assert section not in APPLIES


def test_documentation_says_the_same() -> None:
    below = _DOCS.partition("\n## Change settings\n")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|$", below, flags=re.MULTILINE))
    assert table == {key: str(value) for key, value in APPLIES.items()}


def test_only_what_can_change_while_the_daemon_runs_does() -> None:
    now = load_config(None)
    wanted = load_config(
        None,
        learning__minutes=7.0,
        ring__slots=9,
        ring__spill="/elsewhere",
        inference__threads=1,
        storage__codec="zstd",
        profiles={"default": {"channels": ["BF"]}, "a.b": {}},
    )
    found = changes(now, wanted)
    assert {change.key: str(change.applies) for change in found} == {
        "storage.codec": "with the next run",
        "ring.slots": "when a program attaches",
        "ring.spill": "after a restart",
        "inference.threads": "after a restart",
        "learning.minutes": "at once",
        "profiles.default.channels": "with the next run",
        "profiles.a.b": "after a restart",
    }
    config = with_changes(now, found)
    assert (config.learning.minutes, config.storage.codec) == (7.0, "zstd")
    assert config.profiles["default"].channels == ("BF",)
    assert (config.inference, config.ring.spill, [*config.profiles]) == (
        now.inference,
        None,
        ["default"],
    )
    # What must wait is said again the next time, and nothing else.
    assert {change.applies for change in changes(config, wanted)} == {Applies.RESTART}


Reload = Callable[[str], list[str]]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Daemon, Reload]]:
    """Return a daemon, and what has it read a file with such words again."""
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    file = tmp_path / "own.yaml"
    always = "web: {port: 0}\ninference: {enabled: false}\nlabels: {enabled: false}\n"

    def read() -> Config:
        folders = {"output": str(tmp_path / "runs"), "models": str(tmp_path / "models")}
        return load_config(file, **folders)

    file.write_text(always, encoding="utf-8")
    made = Daemon(read(), reread=read)

    def reload(text: str) -> list[str]:
        file.write_text(always + text, encoding="utf-8")
        return [change.in_words for change in made.reload()]

    yield made, reload
    made._close_all()


def test_daemon_goes_on_with_the_new_file_and_without_a_bad_one(
    daemon: tuple[Daemon, Reload],
) -> None:
    made, reload = daemon
    text = """
storage: {reserve_mb: 5, codec: zstd}
learning: {minutes: 3}
profiles: {default: {label_preset: axial}}
"""
    assert reload(text) == [
        "storage.codec: lz4 → zstd, with the next run",
        "storage.reserve_mb: 1024 → 5, at once",
        "learning.minutes: 2.0 → 3.0, at once",
        "profiles.default.label_preset: consensus → axial, with the next run",
    ]
    assert made._space._reserve == 5 << 20
    assert made._learner._settings.minutes == 3
    assert made._runs._config.profiles["default"].label_preset == "axial"
    assert reload(text) == []
    for bad in ("storage: {codec: zip}", "profiles: {default: {flat_field: no.tif}}", "web: ["):
        with pytest.raises(InputError):
            reload(bad)
        assert made._runs._config.storage.codec == "zstd"
        assert made._runs._config.profiles["default"].label_preset == "axial"


def test_a_choice_on_the_page_stands_in_status_until_it_is_taken_back(
    daemon: tuple[Daemon, Reload],
) -> None:
    made, _ = daemon
    assert made.status()["profile_chosen"] is None
    made.choose_profile("default")
    assert made.status()["profile_chosen"] == made._runs.chosen_profile == "default"
    with pytest.raises(InputError, match="no profile 'DIC'; there are: default"):
        made.choose_profile("DIC")
    assert made.status()["profile_chosen"] == "default", "nothing has changed"
    made.choose_profile(None)
    assert made.status()["profile_chosen"] is None
