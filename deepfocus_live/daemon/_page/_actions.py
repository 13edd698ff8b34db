"""What the page may have the daemon do, done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from deepfocus_live.config import Config
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._run import ActiveRun
from deepfocus_live.errors import InputError
from deepfocus_live.web import ACTIONS, Outcome

__all__ = ["ModelsByHand", "PageActions"]


class ModelsByHand(Protocol):
    """Who teaches and swaps models when a person asks; each call returns what will happen."""

    def request(self, profile: str) -> str:
        """Begin a fine-tune."""
        ...

    def use(self, name: str, profile: str) -> str:
        """Make a version current."""
        ...

    def rollback(self, profile: str) -> str:
        """Go back to the version before."""
        ...


class PageActions:
    """The page's actions; see `web.Actions`.

    Parameters
    ----------
    config : Config
        Which profiles there are.
    masks : MaskMaker
        Who is paused.
    runs : callable
        Returns the open runs.
    stop : callable
        Has the daemon end once no run is open.
    models : ModelsByHand or None
        None: models cannot be changed from the page.
    choose_profile : callable or None
        Gives runs to come a profile; None: it cannot be chosen on the page.
    """

    def __init__(
        self,
        config: Config,
        masks: MaskMaker,
        *,
        runs: Callable[[], Iterable[ActiveRun]],
        stop: Callable[[], None],
        models: ModelsByHand | None = None,
        choose_profile: Callable[[str | None], object] | None = None,
    ) -> None:
        self._config = config
        self._masks = masks
        self._runs = runs
        self._stop = stop
        self._models = models
        self._choose = choose_profile

    @property
    def available(self) -> Collection[str]:
        """Names of the actions that can be had."""
        lacking = set[str]()
        if self._models is None:
            lacking |= {"retrain", "use-model", "rollback"}
        if self._choose is None:
            lacking.add("choose-profile")
        if not self._config.inference.enabled:
            lacking |= {"pause-masks", "resume-masks"}
        return ACTIONS.keys() - lacking

    def pause_masks(self) -> Outcome:
        """Make no masks until they are resumed, unless slices wait for them in memory only."""
        if any(not run.writer.pixels_stored for run in self._runs()):
            return Outcome(
                False,
                "A run keeps masks only: its slices wait in memory, and masks cannot be paused.",
            )
        self._masks.pause()
        return Outcome(True, "Masks are paused. Slices are stored, and get their masks later.")

    def resume_masks(self) -> Outcome:
        """Make masks again."""
        waiting = self._masks.masks_waiting
        self._masks.resume()
        owed = f"{waiting} slices wait for theirs" if waiting else "none is owed"
        return Outcome(True, f"Masks are made again; {owed}.")

    def retrain(self, profile: str) -> Outcome:
        """Fine-tune a profile's model now."""
        return Outcome(True, _sentence(self._by_hand().request(profile)))

    def use_model(self, name: str, profile: str) -> Outcome:
        """Make a version the current one of a profile."""
        return Outcome(True, _sentence(self._by_hand().use(name, profile)))

    def rollback(self, profile: str) -> Outcome:
        """Go back to the version before."""
        return Outcome(True, _sentence(self._by_hand().rollback(profile)))

    def choose_profile(self, profile: str | None) -> Outcome:
        """Give runs to come a profile; None: those that match their channels."""
        if self._choose is None:
            raise InputError("profiles cannot be chosen here.")
        self._choose(profile)
        if profile is None:
            return Outcome(True, "Channels of runs to come have the profiles that match them.")
        return Outcome(True, f"Runs to come have the profile {profile}.")

    def stop_after_run(self) -> Outcome:
        """End the daemon once no run is open."""
        names = [run.spec.name for run in self._runs() if not run.ended]
        self._stop()
        after = f"when run {', '.join(names)} has ended" if names else "now"
        return Outcome(True, f"The daemon finishes what it has, and stops {after}.")

    def _by_hand(self) -> ModelsByHand:
        if self._models is None:
            raise InputError("models cannot be changed here.")
        return self._models


def _sentence(text: object) -> str:
    """Return a line as a sentence of its own."""
    line = str(text or "done")
    return line[:1].upper() + line[1:].rstrip(".") + "."
