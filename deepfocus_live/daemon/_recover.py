"""Finishing a run that was left: what the next daemon would do, without one, and looking closer.

Design Notes
------------
In this order, so that each step can rely on the one before it: files (temporary ones, metadata,
the journal's tail), then every slice's checksum, then what is made of the slices that are whole:
the end in the journal, coarser levels, masks, labels. Whoever is interrupted begins again; what was
made by then is not made twice. Slices are read, and never written or removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from deepfocus_live.config import Config, ProfileConfig
from deepfocus_live.daemon._labels import store_labels
from deepfocus_live.daemon._masks import store_mask
from deepfocus_live.daemon._runs import conditions_of
from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions, StackLabeler, preset_named
from deepfocus_live.frames import Placement, luminance
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import MIN_SIDE, ModelVersion, Registry, verify
from deepfocus_live.ring import (
    MemoryRing,
    RingError,
    SpilledFrames,
    leftover_rings,
    leftover_spills,
)
from deepfocus_live.volume import (
    Ledger,
    Leftovers,
    Owed,
    RunWriter,
    Verification,
    find_leftovers,
    find_owed,
    mend_files,
    read_ledger,
    refuse_run_in_use,
    verify_run,
    write_levels,
)

__all__ = ["Recovery"]

Progress = Callable[[str], None]
"""Called with what is being done, once for each slice."""


class Recovery:
    """One run that was left, and its repair: `mend_files`, `look`, then `make`.

    Parameters
    ----------
    path : Path
        The run directory.
    config : Config or None
        None: the settings that the run was taken with.
    models : Path or None
        Folder of the models; None: the one in the configuration.

    Raises
    ------
    InputError
        If there is no run, its record is damaged, or a process has it open.
    """

    def __init__(
        self, path: Path, *, config: Config | None = None, models: Path | None = None
    ) -> None:
        self.ledger: Ledger = read_ledger(path)
        refuse_run_in_use(path)
        _refuse_waiting_frames(self.ledger)
        self._config = _config_of(self.ledger) if config is None else config
        self._registry = Registry(models or self._config.models_dir)
        self.files: Leftovers = find_leftovers(self.ledger)
        self.owed = Owed()
        self.troubles: list[str] = []
        """What could not be made, and why: one line each."""
        self.notes: list[str] = []
        """What was decided on the way: one line each."""

    def mend_files(self) -> None:
        """Remove temporary files, make metadata that are missing, cut off a torn line."""
        if self.files:
            mend_files(self.ledger, self.files)

    def look(self, progress: Progress) -> Verification:
        """Read every slice, and find out what is owed to those that are whole."""
        found = verify_run(self.ledger, on_slice=lambda _: progress("reading slices"))
        self.owed = find_owed(
            self.ledger,
            found.faults,
            masked=self._masked,
            labelled=self._config.labels.enabled,
        )
        if not self.ledger.pixels_stored:
            self._leave_what_needs_pixels()
        return found

    def _leave_what_needs_pixels(self) -> None:
        masks, labels = len(self.owed.masks), len(self.owed.labels)
        if masks or labels:
            self.notes.append(
                f"{masks} masks and the weak labels of {labels} stacks are missing for good: the "
                "run keeps no pixels to make them of (storage.mode: masks-only)"
            )
            self.owed = replace(self.owed, masks=(), labels=())

    @property
    def steps(self) -> int:
        """How often `make` reports progress."""
        return (
            len(self.owed.levels)
            + len(self.owed.masks)
            + sum(len(zs) for _, zs in self.owed.labels)
        )

    def make(self, progress: Progress) -> Owed:
        """Make what is owed; return what was made, and say in `troubles` what was not.

        Raises
        ------
        InputError
            If a process has opened the run meanwhile, or the run cannot be gone on with.
        """
        if not self.owed:
            return self.owed
        reopened = RunWriter.reopen(self.ledger.path, self._config.storage)
        with contextlib.closing(reopened) as writer:
            if self.owed.no_end:
                writer.end("interrupted")
            for of, place in self.owed.levels:
                write_levels(self.ledger, of, place)
                progress("writing pyramids")
            masks = self._make_masks(writer, progress) if self.owed.masks else 0
            labels = self._make_labels(writer, progress) if self.owed.labels else 0
        return replace(self.owed, masks=self.owed.masks[:masks], labels=self.owed.labels[:labels])

    # ---------------------------------------------------------------- inside

    def _profile(self, channel: int) -> ProfileConfig | None:
        return self._config.profiles.get(self.ledger.spec.profile_of(channel))

    def _masked(self, placement: Placement) -> bool:
        """Return whether the slice at this place gets a mask."""
        spec, profile = self.ledger.spec, self._profile(placement.c)
        # Smaller slices the network cannot take: there was never a mask to miss.
        if not self._config.inference.enabled or min(spec.height_px, spec.width_px) < MIN_SIDE:
            return False
        wanted = profile.channels if profile else ()
        return not wanted or spec.channels[placement.c].name in wanted

    def _make_masks(self, writer: RunWriter, progress: Progress) -> int:
        made = 0
        models: dict[str, InFocusModel] = {}
        try:
            for number, place in self.owed.masks:
                profile = self.ledger.spec.profile_of(place.c)
                if profile not in models:
                    models[profile] = InFocusModel.load(self._version(profile))
                store_mask(writer, models[profile], place, number, writer.read_slice(place))
                progress("making masks")
                made += 1
        except InputError as error:
            self.troubles.append(f"masks not made: {error}")
        return made

    def _version(self, profile: str) -> ModelVersion:
        """Return the model that made the profile's last mask in the run, else its current one."""
        used = self._last_model(profile)
        if used is not None:
            try:
                version = self._registry.get(used)
                verify(version, open_graph=False)
            except InputError:
                self.notes.append(f"model {used}, which the run was masked with, is not there")
            else:
                return version
        version = self._registry.current(profile)
        if version.fallback_reason:
            self.notes.append(version.fallback_reason)
        self.notes.append(f"masks by model {version.name}, the current one of profile {profile}")
        return version

    def _last_model(self, profile: str) -> str | None:
        ledger = self.ledger
        for number, model in reversed(ledger.masked.items()):
            if number in ledger.frames:
                place, _ = ledger.frames[number]
                if ledger.spec.profile_of(place.c) == profile:
                    return model
        return None

    def _make_labels(self, writer: RunWriter, progress: Progress) -> int:
        made = 0
        spec = self.ledger.spec
        rules: dict[int, tuple[str, Conditions]] = {}
        try:
            for key, zs in self.owed.labels:
                if key.c not in rules:
                    rules[key.c] = self._rule(key.c)
                preset, conditions = rules[key.c]
                shape = spec.height_px, spec.width_px
                labeler = StackLabeler(preset, shape_yx=shape, conditions=conditions)
                for z in zs:
                    labeler.add(z, luminance(writer.read_slice(key.placement(z))))
                    progress("labelling stacks")
                store_labels(writer, key, labeler.finish(), preset)
                made += 1
        except InputError as error:
            self.troubles.append(f"labels not made: {error}")
        return made

    def _rule(self, channel: int) -> tuple[str, Conditions]:
        spec, profile = self.ledger.spec, self._profile(channel)
        name = spec.profile_of(channel)
        if profile is None:
            raise InputError(
                f"there is no profile {name!r} in the configuration; give one that has it "
                "with --config."
            )
        try:
            preset_named(profile.label_preset)
        except ValueError as error:
            raise InputError(f"profile {name}: {error}") from None
        known = Conditions(**profile.imaging())
        conditions = conditions_of(spec, known, self._note_once, profile=name)
        return profile.label_preset, conditions

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _config_of(ledger: Ledger) -> Config:
    """Return the settings that a run was taken with."""
    try:
        return Config.model_validate(ledger.record.get("configuration", {}))
    except ValidationError:
        raise InputError(
            f"{ledger.path}: the settings in run.json are not of this version: give --config FILE."
        ) from None


def _refuse_waiting_frames(ledger: Ledger) -> None:
    """Leave a run alone whose frames a daemon would still store."""
    for path in leftover_rings():
        try:
            ring = MemoryRing(path)
        except (OSError, RingError, ValueError):
            # Being made right now, or no ring of this version.
            continue
        try:
            ours = ring.folder is not None and ring.folder.resolve() == ledger.path.resolve()
            acquiring = ring.producer.alive() and ledger.ended is None
            if ours and (acquiring or ring.waiting()):
                raise InputError(
                    f"{ledger.path}: slices of this run wait in memory. `deepfocus-live start` "
                    "stores them, and finishes the run."
                )
        finally:
            ring.close()
    for path in leftover_spills():
        with contextlib.suppress(OSError, RingError):
            folder = SpilledFrames(path).folder
            if folder is not None and folder.resolve() == ledger.path.resolve():
                raise InputError(
                    f"{ledger.path}: slices of this run wait in {path}. `deepfocus-live start` "
                    "stores them, and finishes the run."
                )
