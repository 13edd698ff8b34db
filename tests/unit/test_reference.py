"""The references in docs/ are what the program itself says, and complete."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scripts.make_reference import commands, configuration

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "make"), [("configuration.md", configuration), ("commands.md", commands)]
)
def test_reference_is_up_to_date(name: str, make: Callable[[], str]) -> None:
    made = (DOCS / name).read_text(encoding="utf-8")
    assert made == make(), "run scripts/make_reference.py"


def _keys(tree: object, above: tuple[str, ...] = ()) -> set[str]:
    if not isinstance(tree, dict) or not tree:
        return {".".join(above)}
    return set().union(*(_keys(below, (*above, key)) for key, below in tree.items()))


def test_every_key_stands_in_the_reference_with_its_comment() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    config = DOCS.parent / "configs" / "default.yaml"
    keys = _keys(yaml.safe_load(config.read_text(encoding="utf-8")))
    assert len(keys) > 30
    for key in keys:
        heading = f"### `{key.replace('profiles.default', 'profiles.NAME')}`"
        assert text.count(heading) == 1, key
        _, _, below = text.partition(heading)
        comment = [line for line in below.partition("##")[0].splitlines() if line][1:]
        assert comment, f"{key} has no comment in configs/default.yaml"
