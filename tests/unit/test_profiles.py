"""Which profile each channel of a run is given, and that it is what becomes of its slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from deepfocus_live.config import Config, MatchConfig, ProfileConfig, load_config
from deepfocus_live.daemon._profiles import missing_calibration, with_profiles
from deepfocus_live.daemon._recover import Recovery
from deepfocus_live.daemon._runs import OpenRuns
from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions
from deepfocus_live.frames import Calibration, Placement, RunSpec, StackKey
from deepfocus_live.microscope._attach import _check_profile
from deepfocus_live.volume import open_run
from tests.stored_frames import run_spec


def _matching(**match: list[str]) -> ProfileConfig:
    return ProfileConfig(match=MatchConfig.model_validate(match))


CHANNELS = [{"name": "DAPI"}, {"name": "BF [x]"}, {"name": "gfp long"}]
PROFILES = {
    "default": ProfileConfig(),
    "high": _matching(pixel_size=["Res40x", "Res60*"]),
    "nuclei": _matching(channels=["dapi"]),
    "high-nuclei": _matching(pixel_size=["res40X"], channels=["DAPI"]),
    "green": _matching(channels=["GFP*", "bf [X]"]),
}


@pytest.mark.parametrize(
    ("preset", "want"),
    [
        pytest.param(None, ["nuclei", "green", "green"], id="no-preset"),
        pytest.param("Res10x", ["nuclei", "green", "green"], id="preset-of-none"),
        pytest.param("RES40X", ["high-nuclei", "high", "high"], id="both-before-one"),
        pytest.param("Res60x", ["high", "high", "high"], id="first-of-the-file"),
    ],
)
def test_a_channel_has_the_profile_that_fits_most(preset: str | None, want: list[str]) -> None:
    spec = run_spec(channels=CHANNELS, pixel_size_preset=preset)
    found, notes = with_profiles(spec, PROFILES)
    assert [found.profile_of(c) for c in range(3)] == want
    tied = [note for note in notes if "alike" in note]
    # By preset and by channel fit alike: that is said for each channel where it happens.
    assert len(tied) == {None: 0, "Res10x": 0, "RES40X": 2, "Res60x": 3}[preset], notes
    assert found.profile == want[0]


def test_what_fits_nothing_has_the_default() -> None:
    found, notes = with_profiles(run_spec(channels=[{"name": "Cy5"}]), PROFILES)
    assert (found.profile_of(0), notes) == ("default", [])


@pytest.mark.parametrize(
    ("asked", "chosen", "want", "said"),
    [
        pytest.param("green", None, "green", "", id="asked"),
        pytest.param(None, "high", "high", "", id="chosen"),
        pytest.param("green", "high", "high", "and not green", id="chosen-over-asked"),
        pytest.param("gren", None, "nuclei", "no profile 'gren'", id="unknown"),
    ],
)
def test_a_profile_that_was_chosen_is_that_of_all_channels(
    asked: str | None, chosen: str | None, want: str, said: str
) -> None:
    spec = run_spec(channels=CHANNELS[:1], profile=asked)
    found, notes = with_profiles(spec, PROFILES, chosen=chosen)
    assert found.profile_of(0) == want
    assert said in " ".join(notes)
    assert bool(said) == bool(notes)


def test_a_run_of_before_has_the_one_profile_that_it_says() -> None:
    assert run_spec(profile="green", channels=CHANNELS).profile_of(2) == "green"
    assert run_spec(channels=CHANNELS).profile_of(1) == "default"


@pytest.mark.parametrize(
    ("profile", "known", "says"),
    [
        pytest.param({}, {}, [], id="nothing-asked"),
        pytest.param({"window_um": 9}, {}, ["pixel size"], id="window"),
        pytest.param({"numerical_aperture": 0.5}, {}, ["pixel size", "z-step"], id="aperture"),
        pytest.param(
            {"numerical_aperture": 0.5},
            {"pixel_size_um": Calibration(1.0, "stage"), "z_step_um": Calibration(1.0, "stage")},
            [],
            id="calibrated",
        ),
    ],
)
def test_missing_calibration_is_said_where_the_profile_reckons_with_it(
    profile: dict[str, Any], known: dict[str, Any], says: list[str]
) -> None:
    profiles = {"default": ProfileConfig(**profile)}
    said = list(missing_calibration(run_spec(**known), profiles))
    assert len(said) == len(says)
    assert all(word in line for word, line in zip(says, said, strict=True))


class _Masks:
    """Notes which models are made warm."""

    def __init__(self) -> None:
        self.warm: list[str] = []

    def prepare(self, profile: str, _shape: tuple[int, int]) -> None:
        self.warm.append(profile)

    def running(self, profile: str) -> tuple[str, str]:
        return f"model of {profile}", "CPU"


def _open_runs(config: Config, masks: _Masks, warnings: list[str]) -> OpenRuns:
    nobody = cast("Any", None)
    conditions = {
        name: Conditions(numerical_aperture=one.numerical_aperture)
        for name, one in config.profiles.items()
    }
    return OpenRuns(
        config,
        conditions=conditions,
        intake=nobody,
        masks=cast("Any", masks),
        background=nobody,
        budget=nobody,
        on_opened=lambda _: None,
        on_ended=nobody,
        on_closed=nobody,
        warn=lambda text, **_: warnings.append(text),
    )


def _config(folder: Path) -> Config:
    text = """
    profiles:
      default: {channels: [BF]}
      nuclei:
        label_preset: axial
        numerical_aperture: 0.9
        match: {channels: [dapi]}
    """
    file = folder / "own.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, output=str(folder), storage__durability="process")


def test_each_channel_is_masked_and_labelled_as_its_profile_says_and_the_run_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    masks, warnings = _Masks(), list[str]()
    runs = _open_runs(_config(tmp_path), masks, warnings)
    channels = [{"name": "BF"}, {"name": "DAPI"}, {"name": "Cy5"}]
    run = runs._create(run_spec(channels=channels))
    looks = [run.look(c) for c in range(3)]
    assert [look.profile for look in looks] == ["default", "nuclei", "default"]
    assert [look.preset for look in looks] == ["consensus", "axial", "consensus"]
    assert [runs.segmented(run, Placement(0, 0, c, 0)) for c in range(3)] == [True, True, False]
    assert [look.conditions.numerical_aperture for look in looks if look.conditions] == [
        None,
        0.9,
        None,
    ]
    assert masks.warm == ["default", "nuclei"]
    labelers = [run.stack(StackKey("abc", 0, 0, c)).labeler for c in range(3)]
    assert [labeler.preset.name for labeler in labelers] == ["consensus", "axial", "consensus"]
    assert len(warnings) == 2, "the aperture of one profile reckons with pixel size and z-step"
    run.writer.end("completed")
    run.writer.close()

    stored = open_run(run.writer.path)
    assert [stored.spec.profile_of(c) for c in range(3)] == ["default", "nuclei", "default"]
    assert stored.record["profiles"]["nuclei"]["label_preset"] == "axial"
    recovery = Recovery(run.writer.path, models=tmp_path / "models")
    assert [recovery._rule(c)[0] for c in range(3)] == ["consensus", "axial", "consensus"]
    # Another configuration later: what is not there any more costs no run.
    again = _open_runs(Config(), _Masks(), warnings)
    assert {look.profile for look in again._looks(stored.spec)} == {"default"}
    assert "no profile 'nuclei'" in warnings[-1]


def test_the_profile_chosen_on_the_page_is_that_of_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFOCUS_LIVE_RUNTIME_DIR", str(tmp_path / "runtime"))
    runs = _open_runs(_config(tmp_path), _Masks(), [])
    runs.chosen_profile = "nuclei"
    first = runs._create(run_spec(run_id="a"))
    runs.chosen_profile = None
    second = runs._create(run_spec(run_id="b"))
    assert (first.profiles, second.profiles) == (["nuclei"], ["default"])
    for run in (first, second):
        run.writer.close()


def test_spec_keeps_what_the_microscope_says() -> None:
    spec = run_spec(pixel_size_preset="Res40x")
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_attach_refuses_a_profile_that_the_daemon_has_not() -> None:
    status = {"profiles": [{"name": "default"}, {"name": "DIC"}]}
    _check_profile("DIC", status)
    _check_profile(None, status)
    with pytest.raises(InputError, match=r"no profile 'DIK' .*: default, DIC"):
        _check_profile("DIK", status)
