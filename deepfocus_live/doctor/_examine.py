"""Everything that is looked at, one after the other; what fails to be looked at is said, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from deepfocus_live.config import Config
from deepfocus_live.doctor._compute import look_at_inference, look_at_training
from deepfocus_live.doctor._daemon import look_at_daemon, look_at_page
from deepfocus_live.doctor._finding import Finding
from deepfocus_live.doctor._leftovers import look_at_leftovers
from deepfocus_live.doctor._microscope import look_at_adapters
from deepfocus_live.doctor._models import look_at_models
from deepfocus_live.doctor._storage import look_at_disk, look_at_ring
from deepfocus_live.doctor._versions import look_at_versions

__all__ = ["examine"]

_LOOKS: dict[str, Callable[[Config], Iterable[Finding]]] = {
    "versions": look_at_versions,
    "device adapters": look_at_adapters,
    "inference": look_at_inference,
    "training": look_at_training,
    "models": look_at_models,
    "disk": look_at_disk,
    "ring memory": look_at_ring,
    "page": look_at_page,
    "daemon": look_at_daemon,
    "leftovers": look_at_leftovers,
}


def examine(config: Config) -> Iterator[Finding]:
    """Look at this computer, with the settings that the daemon would have; takes some seconds.

    Parameters
    ----------
    config : Config

    Yields
    ------
    Finding
        As they are found. None of them changes anything: files that are written to measure the
        disk are removed.
    """
    for subject, look in _LOOKS.items():
        try:
            yield from look(config)
        except Exception as error:
            first = " ".join(str(error).split()) or type(error).__name__
            advice = "what else is said here may explain it"
            yield Finding(subject, "fault", f"could not be looked at: {first}", advice)
