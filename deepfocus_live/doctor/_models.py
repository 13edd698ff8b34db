"""Whether each profile has a model that can be used."""

from __future__ import annotations

from collections.abc import Iterator

from deepfocus_live.config import Config
from deepfocus_live.doctor._finding import Finding

__all__ = ["look_at_models"]


def look_at_models(config: Config) -> Iterator[Finding]:
    """Open the current version of every profile, and look for versions that cannot be read."""
    from deepfocus_live.model import Registry

    registry = Registry(config.models_dir)
    for profile in config.profiles:
        version = registry.current(profile)
        subject = f"model, {profile}"
        if version.fallback_reason:
            yield Finding(
                subject,
                "warning",
                f"{version.name}, which ships: {version.fallback_reason}",
                f"deepfocus-live models use NAME --profile {profile}, with one of `models list`",
            )
        else:
            yield Finding(subject, "ok", version.name, figures={"version": version.name})
    for line in registry.unreadable():
        yield Finding("models", "warning", line, "remove its folder, or import it again")
