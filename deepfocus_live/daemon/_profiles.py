"""Profiles: whether they can be carried out, and which one each channel of a run is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from deepfocus_live.config import Config, MatchConfig, ProfileConfig
from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions, preset_named
from deepfocus_live.frames import RunSpec

__all__ = ["missing_calibration", "profile_conditions", "profiles_used", "with_profiles"]

_USUAL = "default"


def profile_conditions(config: Config) -> dict[str, Conditions]:
    """Return how each profile images; reads the flat fields.

    Raises
    ------
    InputError
        If a profile names no label preset or flat field that there is.
    """
    conditions = {}
    for name, profile in config.profiles.items():
        try:
            preset_named(profile.label_preset)
        except ValueError as error:
            raise InputError(f"configuration: profiles.{name}.label_preset: {error}") from None
        try:
            conditions[name] = Conditions(**profile.imaging())
        except InputError as error:
            raise InputError(f"configuration: profiles.{name}.flat_field: {error}") from None
    return conditions


def with_profiles(
    spec: RunSpec, profiles: Mapping[str, ProfileConfig], *, chosen: str | None = None
) -> tuple[RunSpec, list[str]]:
    """Return the run with a profile in each of its channels, and what its user should know.

    One that was chosen on the page goes before one that whoever takes the run asks for; without
    either each channel has the one whose `match` fits it best, else `default`.

    Parameters
    ----------
    profiles : ProfileConfig by name
        In the order of the file.
    chosen : str or None
        On the page.
    """
    wanted = chosen or spec.profile
    notes = []
    if chosen and spec.profile and chosen != spec.profile:
        notes.append(f"profile {chosen}, chosen on the page, is used and not {spec.profile}")
    if wanted is not None and wanted not in profiles:
        known = ", ".join(profiles)
        notes.append(f"there is no profile {wanted!r} in the configuration; there are: {known}")
        wanted = None
    channels = []
    for channel in spec.channels:
        name = wanted
        if name is None:
            name, *others = _fitting(channel.name, spec.pixel_size_preset, profiles)
            if others:
                notes.append(
                    f"channel {channel.name} fits the profiles {name} and {' and '.join(others)} "
                    f"alike: {name} is taken, the first of the configuration"
                )
        channels.append(channel.model_copy(update={"profile": name}))
    update = {"channels": tuple(channels), "profile": channels[0].profile}
    return spec.model_copy(update=update), notes


def _fitting(
    channel: str, pixel_size: str | None, profiles: Mapping[str, ProfileConfig]
) -> list[str]:
    """Return the profiles that fit a channel best, in their order; there is one at least."""
    fits = {name: _fit(one.match, channel, pixel_size) for name, one in profiles.items()}
    best = max(fits.values(), default=0)
    return [name for name, fit in fits.items() if fit == best] if best else [_USUAL]


def _fit(match: MatchConfig, channel: str, pixel_size: str | None) -> int:
    """Return how many lists say something, where all of them fit; else 0."""
    asked = [(match.channels, channel), (match.pixel_size, pixel_size)]
    said = [(patterns, name) for patterns, name in asked if patterns]
    return len(said) if all(_is_one_of(name, patterns) for patterns, name in said) else 0


def _is_one_of(name: str | None, patterns: Iterable[str]) -> bool:
    if name is None:
        return False
    low = name.casefold()
    # As it stands first: names may have brackets, which patterns read otherwise.
    return any(low == one.casefold() or fnmatchcase(low, one.casefold()) for one in patterns)


def profiles_used(spec: RunSpec) -> list[str]:
    """Return the profiles of a run, each once, in the order of its channels."""
    return list(dict.fromkeys(spec.profile_of(c) for c in range(len(spec.channels))))


def missing_calibration(spec: RunSpec, profiles: Mapping[str, ProfileConfig]) -> Iterator[str]:
    """Say what a run does not tell, and some of its profiles reckon with."""
    for name in profiles_used(spec):
        profile = profiles[name]
        optics = profile.numerical_aperture is not None
        if spec.pixel_size_um is None and (optics or profile.window_um is not None):
            yield (
                f"no pixel size is known, so profile {name} looks at windows of 16 pixels: "
                "calibrate Micro-Manager's pixel size"
            )
        stacks = any(image.size_z > 1 for image in spec.images)
        if spec.z_step_um is None and optics and stacks:
            yield (
                f"no z-step is known, so profile {name} cannot tell whether it is fine enough for "
                "the objective: take an even z-plan"
            )
