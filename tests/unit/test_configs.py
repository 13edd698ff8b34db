"""The configuration files that ship say what the models say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from deepfocus_live.config import Config, load_config, packaged_data
from deepfocus_live.focus import PRESETS

FOLDER = packaged_data("configs")
DEFAULT, DEMO = FOLDER / "default.yaml", FOLDER / "demo.yaml"


def leaves(tree: Any, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every value of nested mappings by its dotted key."""
    if not isinstance(tree, dict):
        return {".".join(above): tree}
    found: dict[str, Any] = {}
    for key, below in tree.items():
        found |= leaves(below, (*above, key))
    return found


def allowed_values(model: BaseModel, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the dotted key of every setting that is one of a few words, and these words."""
    for name, schema in model.model_json_schema()["properties"].items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from allowed_values(value, f"{above}{name}.")
        elif "enum" in schema:
            yield f"{above}{name}", schema["enum"]


def comment_of(key: str) -> str:
    """Return the comment above a dotted key of the default file."""
    lines = DEFAULT.read_text(encoding="utf-8").splitlines()
    at = 0
    for depth, part in enumerate(key.split(".")):
        at = next(
            n
            for n, line in enumerate(lines)
            if n >= at and line.startswith(f"{'  ' * depth}{part}:")
        )
    above = at
    while lines[above - 1].strip().startswith("#"):
        above -= 1
    return " ".join(line.strip().lstrip("# ") for line in lines[above:at])


def test_configs_are_found_in_checkout_or_wheel() -> None:
    assert {file.name for file in FOLDER.glob("*.yaml")} == {"default.yaml", "demo.yaml"}


def test_default_file_has_every_key_with_its_default_and_no_other() -> None:
    written = leaves(yaml.safe_load(DEFAULT.read_text(encoding="utf-8")))
    assert written == leaves(Config().model_dump(mode="json"))


def test_default_file_loads_to_the_defaults() -> None:
    assert load_config(DEFAULT) == Config() == load_config()


@pytest.mark.parametrize("key", leaves(Config().model_dump(mode="json")))
def test_every_key_of_the_default_file_is_explained(key: str) -> None:
    assert len(comment_of(key).split()) >= 6


@pytest.mark.parametrize(
    ("key", "words"),
    [
        *allowed_values(Config()),
        *allowed_values(Config().profiles["default"], "profiles.default."),
    ],
)
def test_every_word_that_a_setting_may_have_is_named(key: str, words: list[str]) -> None:
    assert {word for word in words if word not in comment_of(key)} == set()


def test_every_label_preset_is_explained() -> None:
    said = comment_of("profiles.default.label_preset")
    assert [name for name in PRESETS if f"{name}: " not in said] == []


def test_demo_file_loads_and_changes_something_with_every_line() -> None:
    written = leaves(yaml.safe_load(DEMO.read_text(encoding="utf-8")))
    defaults = leaves(Config().model_dump(mode="json"))
    assert written.keys() <= defaults.keys()
    assert {key for key, value in written.items() if value == defaults[key]} == set()
    assert load_config(DEMO).output_dir.parent == Path.home()


def test_changes_go_over_what_the_file_says(tmp_path: Path) -> None:
    settings = load_config(DEMO, output=str(tmp_path), web__port=8123, web__host=None)
    assert settings.output_dir == tmp_path
    assert (settings.web.port, settings.web.host) == (8123, "127.0.0.1")
    assert settings.learning == load_config(DEMO).learning
