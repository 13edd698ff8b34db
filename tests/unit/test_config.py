"""The configuration: every mistake gets one line that says what, where, and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from pydantic import ValidationError

from deepfocus_live.config import Config, ProfileConfig, load_config, packaged_data
from deepfocus_live.errors import InputError
from deepfocus_live.focus import DEFAULT_PRESET, Conditions


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def test_defaults_are_valid_and_what_no_file_and_an_empty_file_give(file: Path) -> None:
    assert load_config() == Config() == Config.model_validate(Config().model_dump())
    file.write_text("# nothing set\n")
    assert load_config(file) == Config()


def test_file_says_what_differs_from_the_defaults(file: Path) -> None:
    file.write_text(
        "output: runs\n"
        "web: {port: 0}\n"
        "storage: {codec: zstd}\n"
        "profiles:\n"
        "  default: {modality: DIC}\n"
        "  cells: {modality: fluorescence, wavelength_nm: 520, channels: [GFP, RFP]}\n"
    )
    config = load_config(str(file))
    assert (config.web.port, config.web.host) == (0, Config().web.host)
    assert (config.storage.codec, config.storage.workers) == ("zstd", Config().storage.workers)
    assert config.profiles["default"].modality == "DIC"
    assert config.profiles["cells"].channels == ("GFP", "RFP")
    assert config.ring == Config().ring


def test_change_goes_over_the_file_and_none_leaves_it(file: Path) -> None:
    file.write_text("web: {host: 127.0.0.2, port: 1}\n")
    config = load_config(file, web__port=2, web__host=None, output=Path("x"), storage__codec="none")
    assert (config.web.host, config.web.port) == ("127.0.0.2", 2)
    assert config.output == Path("x")
    assert config.storage.codec == "none"


def test_output_folder_is_absolute_and_at_home_where_none_is_given(file: Path) -> None:
    assert Config().output_dir.is_relative_to(Path.home())
    assert load_config(output=Path("runs")).output_dir == Path.cwd() / "runs"
    file.write_text("output: ~/elsewhere\n")
    assert load_config(file).output_dir == Path.home() / "elsewhere"


def test_configuration_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().web.port = 1


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        pytest.param("wbe: {port: 1}", "wbe", "web", id="section"),
        pytest.param("web: {prot: 1}", "web.prot", "port", id="in-a-section"),
        pytest.param("storage: {colour: 1}", "storage.colour", "codec", id="far-from-all"),
        pytest.param(
            "profiles: {mine: {modalty: DIC}}", "profiles.mine.modalty", "modality", id="in-profile"
        ),
        pytest.param(
            "profiles: {modality: {chanels: []}}",
            "profiles.modality.chanels",
            "channels",
            id="in-a-profile-named-like-a-key",
        ),
    ],
)
def test_unknown_key_is_named_with_the_nearest_one(
    file: Path, text: str, key: str, nearest: str
) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        load_config(file)
    said = str(refused.value)
    assert said.startswith(f"{file}: ")
    assert f"`{key}`" in said
    assert f"`{nearest}`" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        pytest.param("web: {port: eight}", "web.port", "'eight'", id="text-for-a-number"),
        pytest.param("web: {port: 65536}", "web.port", "65536", id="out-of-range"),
        pytest.param("web: 8765", "web", "8765", id="number-for-a-section"),
        pytest.param("web:", "web", "None", id="empty-section"),
        pytest.param("output: 5", "output", "5", id="number-for-a-folder"),
        pytest.param("ring: {slots: 1}", "ring.slots", "1", id="too-few"),
        pytest.param("storage: {codec: zip}", "storage.codec", "'zip'", id="none-of-the-choices"),
        pytest.param("learning: {minutes: .nan}", "learning.minutes", "nan", id="not-a-number"),
        pytest.param("profiles: {mine: 3}", "profiles.mine", "3", id="number-for-a-profile"),
        pytest.param("1: 2", "1", "1", id="number-for-a-key"),
        pytest.param(
            "profiles: {mine: {window_um: 0}}", "profiles.mine.window_um", "0", id="no-window"
        ),
        pytest.param(
            "profiles: {mine: {dark_offset: 70000}}",
            "profiles.mine.dark_offset",
            "70000",
            id="offset-beyond-any-camera",
        ),
        pytest.param(
            "profiles: {oil: {numerical_aperture: 1.4}}",
            "profiles.oil.immersion_index",
            "1.0",
            id="aperture-without-its-immersion",
        ),
    ],
)
def test_wrong_value_is_named_with_its_key(file: Path, text: str, key: str, value: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        load_config(file)
    said = str(refused.value)
    assert said.startswith(f"{file}: `{key}` cannot be {value}: ")
    assert "\n" not in said


def test_wrong_change_is_named_too() -> None:
    with pytest.raises(InputError, match=r"^configuration: `web\.port` cannot be 70000"):
        load_config(web__port=70000)
    with pytest.raises(InputError, match=r"unknown key `web\.prot`\. Did you mean `port`"):
        load_config(web__prot=1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"web: [", "not a YAML file", id="not-yaml"),
        pytest.param(b"\xff\xfe\x00\x01", "not a YAML file", id="not-text"),
        pytest.param(b"- web\n- ring\n", "`key: value`", id="list"),
        pytest.param(b"hello", "`key: value`", id="word"),
        pytest.param(b"!!python/object/apply:os.getcwd []", "not a YAML file", id="python-object"),
    ],
)
def test_file_that_is_no_configuration_is_refused(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        load_config(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot read the configuration: No such"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot read the configuration"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["configs", "onnx_models"])
def test_what_ships_beside_the_package_is_found(name: str) -> None:
    assert packaged_data(name).is_dir()


def test_default_preset_is_the_one_of_the_labels() -> None:
    assert ProfileConfig().label_preset == DEFAULT_PRESET


def test_profile_that_says_nothing_knows_nothing_of_the_imaging() -> None:
    assert Conditions(**ProfileConfig().imaging()) == Conditions()


def test_what_a_profile_says_of_the_imaging_is_what_labels_reckon_with(tmp_path: Path) -> None:
    field = np.linspace(900, 1100, 30 * 40).reshape(30, 40).astype(np.uint16)
    tifffile.imwrite(tmp_path / "field.tif", field)
    profile = ProfileConfig(
        numerical_aperture=1.2,
        immersion_index=1.33,
        wavelength_nm=520,
        window_um=12.0,
        dark_offset=100,
        flat_field=tmp_path / "field.tif",
    )
    imaged = Conditions(**profile.imaging())
    assert (imaged.numerical_aperture, imaged.immersion_index) == (1.2, 1.33)
    assert (imaged.wavelength_um, imaged.window_um, imaged.dark_offset) == (0.52, 12.0, 100)
    assert imaged.flat_field is not None
    np.testing.assert_array_equal(imaged.flat_field, field - 100.0)


FIELD = np.full((30, 40), 500, np.uint16)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        pytest.param(None, "cannot be read: No such file", id="missing"),
        pytest.param(b"II no picture", "cannot be read", id="no-tiff"),
        pytest.param(np.stack([FIELD] * 3), "(3, 30, 40)", id="several-images"),
        pytest.param(FIELD > 0, "bool", id="not-counts"),
        pytest.param(FIELD * np.eye(30, 40, dtype=np.uint16), "1170 pixels", id="black-pixels"),
        pytest.param(np.full((30, 40), 100, np.uint16), "1200 pixels", id="as-dark-as-the-offset"),
        pytest.param(np.full((30, 40), np.nan, np.float32), "1200 pixels", id="not-a-number"),
    ],
)
def test_flat_field_that_cannot_be_used_is_refused(
    tmp_path: Path, image: NDArray[np.generic] | bytes | None, says: str
) -> None:
    path = tmp_path / "field.tif"
    if isinstance(image, bytes):
        path.write_bytes(image)
    elif image is not None:
        tifffile.imwrite(path, image, photometric="minisblack")
    with pytest.raises(InputError) as refused:
        ProfileConfig(flat_field=path, dark_offset=100).imaging()
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    assert says in said
    assert "give a TIFF of an empty, lit field" in said
    assert "\n" not in said
