"""A profile comes into a configuration file, and everything that stood there stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfocus_live.cli._profile_file import has_profile, write_profile
from deepfocus_live.config import ProfileConfig, load_config
from deepfocus_live.errors import InputError

PROFILE = {"modality": "DIC", "immersion_index": 1.515, "numerical_aperture": 1.3}
_COMMENTED = """\
# our microscope
web: {port: 0}  # any
profiles:
    # Monday's
    default:
        modality: phase  # of old

    # Tuesday's
    worms:
        numerical_aperture: 0.5
# the disk
storage:
    codec: zstd
"""


@pytest.mark.parametrize(
    ("before", "name", "kept"),
    [
        pytest.param(None, "default", [], id="no file"),
        pytest.param("", "default", [], id="empty file"),
        pytest.param("web: {port: 0} # any", "fly", ["web: {port: 0} # any"], id="no profiles"),
        pytest.param(
            _COMMENTED, "fly", _COMMENTED.splitlines(), id="beside others, all comments kept"
        ),
        pytest.param(
            _COMMENTED,
            "default",
            ["# our microscope", "    # Tuesday's", "# the disk", "    # Monday's", "    worms:"],
            id="in place of one of its name",
        ),
        pytest.param(
            _COMMENTED,
            "worms",
            ["    # Tuesday's", "# the disk", "        modality: phase  # of old", "storage:"],
            id="in place of the last",
        ),
        pytest.param("profiles:  # none yet\n", "fly", ["profiles:  # none yet"], id="empty block"),
    ],
)
def test_profile_is_read_back_and_all_else_stays(
    before: str | None, name: str, kept: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    others: dict[str, ProfileConfig] = {}
    if before is not None:
        file.write_text(before, encoding="utf-8")
        # An empty block is no configuration yet.
        others = {} if before.startswith("profiles:") else dict(load_config(file).profiles)
    assert write_profile(file, name, PROFILE) == file
    profiles = load_config(file).profiles
    assert profiles[name].model_dump(exclude_unset=True) == PROFILE
    assert {**others, **profiles, name: None} == {**profiles, **others, name: None}
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [line for line in kept if line not in lines] == []
    assert has_profile(file, name)
    assert not has_profile(file, "other")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        pytest.param(None, None, id="no file yet"),
        pytest.param("web: {port: 0}", None, id="no end of line"),
        pytest.param("profiles:\n  worms: {modality: phase}\n", None, id="behind the profiles"),
        pytest.param("output: elsewhere  # mine\n", "elsewhere", id="one that is there stays"),
    ],
)
def test_output_is_put_in_where_there_is_none(
    before: str | None, kept: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    if before is not None:
        file.write_text(before, encoding="utf-8")
    folder = tmp_path / "µm: runs # all"
    assert write_profile(file, "fly", PROFILE, output=folder) == file
    settings = load_config(file)
    assert str(settings.output).endswith(kept or str(folder))
    assert settings.profiles["fly"].modality == "DIC"
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [line for line in (before or "").splitlines() if line not in lines] == []
    assert sum(line.startswith("output:") for line in lines) == 1


def test_file_that_cannot_be_changed_line_by_line_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    before = "profiles: {worms: {modality: phase}}  # on one line\nstorage: {codec: zstd}\n"
    file.write_text(before, encoding="utf-8")
    written = write_profile(file, "fly", PROFILE)
    assert written.name == "mine-fly.yaml"
    assert file.read_text(encoding="utf-8") == before
    settings = load_config(written)
    assert settings.profiles["fly"].modality == "DIC"
    assert settings.profiles["worms"].modality == "phase"
    assert settings.storage.codec == "zstd"


def test_wrong_profile_or_wrong_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("web: {port: 0}\n", encoding="utf-8")
    with pytest.raises(InputError, match="numerical_aperture"):
        write_profile(file, "fly", {"numerical_aperture": 9})
    assert file.read_text(encoding="utf-8") == "web: {port: 0}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    file.write_text("wep: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="Did you mean `web`"):
        has_profile(file, "fly")
