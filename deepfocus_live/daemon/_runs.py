"""The runs that are open: begun, gone on with after a death, ended, closed.

Design Notes
------------
A run is open from its first announcement until everything owed to it is done.
Which ones are is written down, so that the next daemon finishes them if this
one dies. Three parties may ask for one run, each from a thread of its own: its
client, who takes over what a dead client left, and the watch, which closes. A
run is opened and closed by one of them at a time: a microscope that dies while
its run is being made is found dead before the run is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from deepfocus_live import __version__, _platform
from deepfocus_live.config import Config
from deepfocus_live.daemon._intake import FrameSource, Intake
from deepfocus_live.daemon._labels import Background
from deepfocus_live.daemon._masks import MaskMaker
from deepfocus_live.daemon._missed import find_missed
from deepfocus_live.daemon._profiles import missing_calibration, profiles_used, with_profiles
from deepfocus_live.daemon._run import ActiveRun, Look, PixelBudget, SliceJob
from deepfocus_live.daemon._warnings import SayWarning
from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions
from deepfocus_live.frames import Placement, RunSpec
from deepfocus_live.ring import (
    MemoryRing,
)
from deepfocus_live.volume import RunWriter, open_run, partial_of

__all__ = ["OpenRuns", "conditions_of", "is_left_open"]

log = logging.getLogger(__name__)

_MOST_RECENT = 100


class OpenRuns:
    """Opens, finishes and closes runs, and knows where they lie.

    Parameters
    ----------
    config : Config
        Where runs go, how they are stored, and the profiles.
    conditions : Conditions by profile
        How stacks are imaged, without what each run says of its calibration.
    intake, masks, background
        Who works on a run's slices.
    budget : PixelBudget
        Memory for slices that wait.
    on_opened : callable
        Called with the run's specification.
    on_ended : callable
        Called with a run that no more frames come for, all of them stored and passed on.
    on_closed : callable
        Called with its id.
    warn : callable
        Raises a warning.
    """

    def __init__(
        self,
        config: Config,
        *,
        conditions: Mapping[str, Conditions],
        intake: Intake,
        masks: MaskMaker,
        background: Background,
        budget: PixelBudget,
        on_opened: Callable[[RunSpec], None],
        on_ended: Callable[[ActiveRun], None],
        on_closed: Callable[[str], None],
        warn: SayWarning,
    ) -> None:
        self._config = config
        self._conditions = conditions
        self._intake = intake
        self._masks = masks
        self._background = background
        self._budget = budget
        self._on_opened = on_opened
        self._on_ended = on_ended
        self._on_closed = on_closed
        self._warn = warn
        self._runs: dict[str, ActiveRun] = {}
        self._recent: dict[str, Path] = {}
        self._guard = threading.Lock()
        self._in_hand: set[str] = set()
        self._let_go = threading.Condition(self._guard)
        self._left_open: list[Path] = []
        self.chosen_profile: str | None = None
        """On the page, for the runs to come; None: each channel has what `match` gives it."""

    def reconfigure(self, config: Config, conditions: Mapping[str, Conditions]) -> None:
        """Open the runs to come with other settings."""
        self._config, self._conditions = config, conditions

    def __bool__(self) -> bool:
        return bool(self._runs)

    def all(self) -> list[ActiveRun]:
        """Return the open runs, oldest first."""
        return list(self._runs.values())

    def get(self, run_id: str) -> ActiveRun | None:
        """Return an open run."""
        return self._runs.get(run_id)

    @property
    def acquiring(self) -> bool:
        """Whether a program may still take frames for any of them."""
        return any(not (run.ended or run.orphaned) for run in self.all())

    @property
    def expecting(self) -> bool:
        """Whether a program that lives is in a run that is not open here yet; reads journals."""
        held = {run.writer.path for run in self.all()}
        return any(
            ring.folder not in held and ring.producer.alive() and is_left_open(ring.folder)
            for ring in list(self._intake.rings.values())
        )

    # ------------------------------------------------------- begin and end

    def begin(self, spec: RunSpec, ring: MemoryRing) -> ActiveRun:
        """Open the run whose frames come through `ring`, or go on with it.

        Raises
        ------
        InputError, OSError
            If it can be neither made nor gone on with.
        """
        with self._alone_with(spec.run_id):
            run = self._runs.get(spec.run_id) or self._reopen_or_create(spec, ring)
            ring.folder = run.writer.path
            run.ended = run.ending = run.orphaned = False
        return run

    @contextlib.contextmanager
    def _alone_with(self, run_id: str) -> Iterator[None]:
        """Be the only one who opens or closes the run; wait for whoever does."""
        with self._let_go:
            self._let_go.wait_for(lambda: run_id not in self._in_hand)
            self._in_hand.add(run_id)
        try:
            yield
        finally:
            with self._let_go:
                self._in_hand.discard(run_id)
                self._let_go.notify_all()

    def end(self, run: ActiveRun, reason: str) -> None:
        """Note that no more frames come; what is owed to the run is still done."""
        with self._guard:
            # Its client's last word, and who finds that client dead, may come together.
            if run.ended or run.ending:
                return
            run.ending = True
        known = ("completed", "canceled", "errored")
        if not run.writer.ended_before:
            self._note_missed(run, completed=reason == "completed")
            run.writer.end(reason if reason in known else "interrupted")  # type: ignore[arg-type]
        # Counted before `ended` is seen: the run must not be closed under its last job.
        run.owe(1)
        run.end(lambda: self._finish(run))

    def _note_missed(self, run: ActiveRun, *, completed: bool) -> None:
        """Write into the journal which frames the camera did not deliver."""
        placements = run.writer.durable_placements().values()
        run.missed = missed = find_missed(
            run.spec,
            placements,
            completed=completed,
            hardware_triggered=run.hardware_triggered,
        )
        if missed is not None:
            run.writer.note("missed", **asdict(missed))
            self._warn(missed.in_words(run.spec.name), run=run.spec.name)

    def _finish(self, run: ActiveRun) -> None:
        self._background.put(run)
        self._on_ended(run)

    def _create(self, spec: RunSpec, named: Callable[[Path], None] | None = None) -> ActiveRun:
        known = self._config.profiles
        spec, notes = with_profiles(spec, known, chosen=self.chosen_profile)
        for note in (*notes, *missing_calibration(spec, known)):
            self._warn(f"run {spec.name}: {note}", key=("profiles", note), run=spec.name)
        used = {name: known[name].model_dump(mode="json") for name in profiles_used(spec)}
        first = spec.profile_of(0)
        output = Path(spec.output) if spec.output else self._config.output_dir
        about = {
            "profile": {"name": first, **used[first]},
            "profiles": used,
            "configuration": self._config.model_dump(mode="json"),
            "model": self._masks.running(first)[0],
            "software": {"deepfocus-live": __version__, **spec.software},
        }
        writer = RunWriter.create(output, spec, self._config.storage, about=about, named=named)
        with _closed_on_failure(writer):
            run = ActiveRun(writer, *self._looks(spec))
        self._enter(run)
        return run

    def _reopen(self, path: Path) -> ActiveRun:
        """Open a run that an earlier daemon began, and owe it what that one did not finish."""
        writer = RunWriter.reopen(path, self._config.storage)
        with _closed_on_failure(writer):
            run = ActiveRun(writer, *self._looks(writer.spec))
            to_mask, to_label = self._owed(run)
            run.restore(open_run(path).journal, {job.key for job in to_mask})
        self._enter(run)
        for job in to_label:
            self._background.put(job)
        self._masks.put_old(to_mask)
        return run

    def _owed(self, run: ActiveRun) -> tuple[list[SliceJob], list[SliceJob]]:
        """Return the slices that want a mask, and those that want a label; the run owes them."""
        writer, unmasked = run.writer, 0
        to_mask, to_label = [], []
        for number, placement in writer.durable_placements().items():
            wants_mask = number not in writer.masked_before and self.segmented(run, placement)
            wants_label = placement.stack(run.spec.run_id) not in writer.labelled_before
            run.received += 1
            run.masked += number in writer.masked_before
            unmasked += wants_mask
            if (wants_mask or wants_label) and writer.pixels_stored:
                users = int(wants_mask) + int(wants_label)
                job = SliceJob(run, placement, number, budget=self._budget, users=users)
                run.owe(users)
                if wants_label:
                    to_label.append(job)
                if wants_mask:
                    to_mask.append(job)
        if unmasked and not writer.pixels_stored:
            self._warn(
                f"run {run.spec.name}: {unmasked} slices without mask: it keeps no pixels, and an "
                "earlier daemon was killed before it had made them",
                run=run.spec.name,
            )
        return to_mask, to_label

    def _enter(self, run: ActiveRun) -> None:
        """Count a run among the open ones."""
        spec, path = run.spec, run.writer.path
        with self._guard:
            self._runs[spec.run_id] = run
            self._recent[spec.run_id] = path
            while len(self._recent) > _MOST_RECENT:
                del self._recent[next(iter(self._recent))]
            if path in self._left_open:
                self._left_open.remove(path)
            self._remember_open_runs()
        self._on_opened(spec)

    def _looks(self, spec: RunSpec) -> list[Look]:
        """Return how each channel is looked at, the models for it warm."""
        found: dict[str, Look] = {}
        looks = []
        for c, channel in enumerate(spec.channels):
            name = spec.profile_of(c)
            if name not in found:
                found[name] = self._look(spec, name)
            look, wanted = found[name], self._config.profiles[found[name].profile].channels
            if wanted and channel.name not in wanted:
                look = replace(look, segmented=False)
            looks.append(look)
        return looks

    def _look(self, spec: RunSpec, name: str) -> Look:
        profile = self._config.profiles.get(name)
        if profile is None:
            # Of an earlier daemon, with another configuration.
            text = f"run {spec.name}: there is no profile {name!r} in the configuration any more"
            self._warn(f"{text}: the run goes on with `default`", run=spec.name)
            return self._look(spec, "default")
        warn = partial(self._warn, run=spec.name)
        conditions = conditions_of(spec, self._conditions[name], warn, profile=name)
        return Look(profile.label_preset, conditions, name, self._warm(spec, name))

    def _warm(self, spec: RunSpec, profile: str) -> bool:
        """Have the profile's model warm, at the size that slices will have; return whether it is.

        Before the first frame is accepted.
        """
        if not self._config.inference.enabled:
            return False
        try:
            self._masks.prepare(profile, (spec.height_px, spec.width_px))
        except InputError as error:
            self._warn(f"run {spec.name}: no masks: {error}", run=spec.name)
            return False
        except Exception as error:
            # A device or a runtime may fail in any way; an acquisition is worth more than masks.
            log.exception("run %s: no masks", spec.name)
            self._warn(f"run {spec.name}: no masks: {error}", run=spec.name)
            return False
        return True

    # ------------------------------------------------- what others left behind

    def take_over(self, spec: RunSpec, source: FrameSource) -> ActiveRun:
        """Open the run of frames that a dead program left, or go on with it; waits for the disk.

        Raises
        ------
        InputError, OSError
            If it can be neither made nor gone on with.
        """
        with self._alone_with(spec.run_id):
            run = self._runs.get(spec.run_id) or self._reopen_or_create(spec, source)
            run.ended = run.ending = False
            run.orphaned = True
        return run

    def finish_left_open(self, in_hand: Collection[Path]) -> None:
        """Finish the runs that a dead daemon left open; those `in_hand` somebody else goes on with.

        One that cannot be gone on with now is looked at again by the next daemon.
        """
        self._left_open = _open_runs_before()
        for path in list(self._left_open):
            held = path in in_hand or any(run.writer.path == path for run in self.all())
            if not held and not self._has_live_ring(path):
                self._finish_left_open(path)

    def _finish_left_open(self, path: Path) -> None:
        if not path.exists() and path.parent.exists():
            log.info("%s was open, and is not there any more", path)
            with self._guard:
                self._left_open.remove(path)
                self._remember_open_runs()
            return
        try:
            self.end(self._reopen(path), "interrupted")
        except (InputError, OSError) as error:
            # Its disk may not be there yet: it stays among those that are open.
            self._warn(f"a run that was open is not finished: {error}", key=("unfinished", path))
        except Exception as error:
            # One run must not keep the daemon from all others.
            log.exception("%s", path)
            self._warn(f"{path}: not finished: {error}", key=("unfinished", path))

    def _reopen_or_create(self, spec: RunSpec, source: FrameSource) -> ActiveRun:
        folder = source.folder
        if folder is not None and folder.exists():
            return self._reopen(folder)
        if folder is not None and partial_of(folder).exists():
            # A daemon was killed just before the run had its name: nothing is in it.
            shutil.rmtree(partial_of(folder), ignore_errors=True)
            folder = None
        if folder is None:
            return self._create_for(spec, source)
        # Its folder is gone, its last frames are not: they get a run of their own.
        return self._create(spec.model_copy(update={"name": f"{spec.name}-rest"}))

    def _create_for(self, spec: RunSpec, source: FrameSource) -> ActiveRun:
        """Make a run whose folder its ring knows before it is there: none is ever left unknown."""

        def named(path: Path) -> None:
            source.folder = path

        try:
            return self._create(spec, named)
        except BaseException:
            source.folder = None
            raise

    def _has_live_ring(self, folder: Path) -> bool:
        return any(
            ring.folder == folder and ring.producer.alive() for ring in self._intake.rings.values()
        )

    def _remember_open_runs(self) -> None:
        open_now = [run.writer.path for run in self._runs.values()]
        paths = [str(path) for path in dict.fromkeys([*self._left_open, *open_now])]
        _platform.replace_file(_open_runs_file(), json.dumps(paths).encode())

    def close_finished(self) -> None:
        """Close the runs that nothing is owed to any more; open until their folders are."""
        for run in [run for run in self.all() if run.finished]:
            run_id = run.spec.run_id
            with self._alone_with(run_id):
                if not run.finished:
                    continue  # its client is back
                try:
                    run.writer.close()
                finally:
                    with self._guard:
                        del self._runs[run_id]
                        self._remember_open_runs()
            self._on_closed(run_id)
            path, count = run.writer.path, run.writer.frames_durable
            log.info("%s closed: %d slices", path, count, extra={"run": run.spec.name})

    def segmented(self, run: ActiveRun, placement: Placement) -> bool:
        """Return whether the slice at this place gets a mask."""
        return run.look(placement.c).segmented

    def close_all(self) -> None:
        """Let every run go; what is still owed to them is made good by the next daemon."""
        for run in self.all():
            run.writer.close()

    # ---------------------------------------------------------------- for the page

    def paths(self) -> dict[str, Path]:
        """Return the folders of the last runs of this daemon's life by id, oldest first."""
        with self._guard:
            return dict(self._recent)

    def still_open(self) -> dict[str, bool]:
        """Return the ids of the open runs, and whether frames may still come for each."""
        return {run.spec.run_id: not run.ended for run in self.all()}


def conditions_of(
    spec: RunSpec, known: Conditions, warn: Callable[[str], None], *, profile: str
) -> Conditions:
    """Return how a run is imaged: what is known by the profile, and its own calibration."""
    conditions = replace(
        known,
        pixel_size_um=spec.pixel_size_um.um if spec.pixel_size_um else None,
        z_step_um=spec.z_step_um.um if spec.z_step_um else None,
    )
    flat = conditions.flat_field
    if flat is not None and flat.shape != (spec.height_px, spec.width_px):
        # An acquisition is worth more than a better label.
        warn(
            f"run {spec.name}: labels do without the flat field of profile {profile}: it "
            f"is {flat.shape[0]} × {flat.shape[1]}, slices are {spec.height_px} × "
            f"{spec.width_px} pixels; take one with the same camera settings"
        )
        conditions = replace(conditions, flat_field=None)
    return conditions


def is_left_open(folder: Path | None) -> bool:
    """Return whether there is a run that nobody has ended."""
    try:
        return folder is not None and open_run(folder).state == "open"
    except (InputError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _closed_on_failure(writer: RunWriter) -> Iterator[None]:
    """Let the run go where what is done inside fails: whoever asks again must find it free."""
    try:
        yield
    except BaseException:
        writer.close()
        raise


def _open_runs_before() -> list[Path]:
    try:
        found = json.loads(_open_runs_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [Path(one) for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _open_runs_file() -> Path:
    return _platform.runtime_dir() / "open_runs.json"
