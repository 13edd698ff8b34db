"""The configuration files that ship say what the models say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from deepfocus_live.config import Config, load_config, packaged_data
from deepfocus_live.daemon._profiles import with_profiles
from deepfocus_live.focus import PRESETS, depth_of_field_um
from tests.stored_frames import run_spec

FOLDER = packaged_data("configs")
DEFAULT, DEMO, MICROSCOPE = (
    FOLDER / name for name in ("default.yaml", "demo.yaml", "microscope.yaml")
)


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
    assert set(FOLDER.glob("*.yaml")) == {DEFAULT, DEMO, MICROSCOPE}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_file_loads(file: Path) -> None:
    assert load_config(file).output_dir.is_absolute()


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


@pytest.mark.parametrize(
    ("preset", "channel", "profile"),
    [
        pytest.param("Res10x", "BF", "brightfield-10x", id="brightfield"),
        pytest.param("Res10x", "brightfield low", "brightfield-10x", id="in-words"),
        pytest.param("Res20x", "FITC", "fluorescence-20x", id="green"),
        pytest.param("res20x", "GFP-long", "fluorescence-20x", id="begins-with-gfp"),
        pytest.param("Res20x", "DAPI", "default", id="blue"),
        pytest.param("Res20x", "BF", "default", id="brightfield-with-the-other-objective"),
        pytest.param("Res40x", "FITC", "default", id="a-third-objective"),
        pytest.param(None, "FITC", "default", id="no-preset"),
    ],
)
def test_the_example_of_a_microscope_gives_channels_the_profiles_that_it_says(
    preset: str | None, channel: str, profile: str
) -> None:
    spec = run_spec(channels=[{"name": channel}], pixel_size_preset=preset)
    found, notes = with_profiles(spec, load_config(MICROSCOPE).profiles)
    assert (found.profile_of(0), notes) == (profile, [])


@pytest.mark.parametrize(
    ("profile", "pixel_um", "depth_um"),
    [("brightfield-10x", 0.65, 8), ("fluorescence-20x", 0.325, 1.2)],
)
def test_the_example_of_a_microscope_says_its_depths_of_field(
    profile: str, pixel_um: float, depth_um: float
) -> None:
    one = load_config(MICROSCOPE).profiles[profile]
    assert one.numerical_aperture is not None
    assert one.wavelength_nm is not None
    depth = depth_of_field_um(
        numerical_aperture=one.numerical_aperture,
        immersion_index=one.immersion_index,
        wavelength_um=one.wavelength_nm / 1000,
        pixel_size_um=pixel_um,
    )
    assert depth == pytest.approx(depth_um, rel=0.05)
    assert f"pixels of {pixel_um:g} µm" in (text := MICROSCOPE.read_text(encoding="utf-8"))
    assert f"about {depth_um:g} µm" in text


def test_changes_go_over_what_the_file_says(tmp_path: Path) -> None:
    settings = load_config(DEMO, output=str(tmp_path), web__port=8123, web__host=None)
    assert settings.output_dir == tmp_path
    assert (settings.web.port, settings.web.host) == (8123, "127.0.0.1")
    assert settings.learning == load_config(DEMO).learning
