"""Running a useq sequence on a Micro-Manager configuration, attached."""

from __future__ import annotations

import difflib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import useq
import yaml
from pydantic import ValidationError
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.metadata import summary_metadata

from deepfocus_live._platform import available_memory_bytes
from deepfocus_live.config import Config, load_config
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration, RunSpec
from deepfocus_live.microscope._attach import attach
from deepfocus_live.microscope._plan import frame_events, plan_run
from deepfocus_live.microscope._quiet import untold
from deepfocus_live.microscope._ring_room import ring_slots
from deepfocus_live.ring import find_daemon

__all__ = [
    "Memory",
    "Plan",
    "Progress",
    "Report",
    "Room",
    "load_microscope",
    "load_sequence",
    "memory_for",
    "plan",
    "room_for",
    "run",
]

_POLL_S = 0.1
_EVENTS_READ = 100_000
"""Of a longer sequence the rest is reckoned with the shortest exposure among these."""


@dataclass(frozen=True)
class Plan:
    """What a sequence would take."""

    frames: int | None
    images: int
    width_px: int
    height_px: int
    dtype: str
    channels: tuple[str, ...]
    pixel_size: str
    z_step: str
    bytes: int
    """Before compression; 0 where the number of frames is unknown."""
    seconds: float
    """Exposures and intervals alone: stages, shutters and read-out come on top."""
    z_um: tuple[float, float] | None
    """Lowest and highest z that the stage is sent to; None: to none."""
    stage_z_um: float | None
    """Where it is now; None: there is none."""
    z_warning: str | None
    """What a person should know before the stage moves, in one line."""


@dataclass(frozen=True)
class Memory:
    """What an acquisition takes of this computer's memory."""

    ring_frames: int
    ring_bytes: int
    """Shared with the daemon, from the start."""
    most_bytes: int
    """What frames may take besides while the disk is slower than the camera."""


@dataclass(frozen=True)
class Progress:
    """How far an acquisition is."""

    taken: int
    durable: int
    acquiring: bool
    """False: all that will be is taken, and the last frames are on their way to the disk."""


@dataclass(frozen=True)
class Room:
    """What a sequence would take of the disk that it goes to."""

    folder: str
    bytes_needed: int | None
    """On the disk, with masks and labels; None where the number of frames is unknown."""
    bytes_free: int
    frames_fit: int
    warning: str | None
    """What is wrong where it does not fit, in one line."""


@dataclass(frozen=True)
class Report:
    """How an acquisition went."""

    frames: int
    durable: int
    reason: str
    """`completed`, `canceled` or `errored`."""
    paths: tuple[str, ...]
    error: str | None = None
    """What ended it, where it failed."""


def load_sequence(path: Path) -> useq.MDASequence:
    """Read a useq sequence from YAML or JSON.

    Raises
    ------
    InputError
        If the file cannot be read or is no sequence.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the sequence: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: not a useq sequence: it needs lines like "
            "`z_plan: {range: 20, step: 1}`; useq-schema's MDASequence lists what can stand there."
        )
    # `uid` stands in files of older versions.
    known = [*useq.MDASequence.model_fields, "uid"]
    for key in tree:
        # useq-schema passes over keys it does not know: channels, misspelt, would not be taken.
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown key `{key}`. Did you mean `{near}`?")
    try:
        sequence = useq.MDASequence.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: not a useq sequence: {_explain(error)}") from None
    except ValueError as error:
        first = " ".join(str(error).split())
        raise InputError(f"{path}: not a useq sequence: {first}") from None
    if next(iter(sequence), None) is None:
        raise InputError(f"{path}: takes no frame: give it a z_plan, channels or positions.")
    if not sequence.metadata.get("name"):
        metadata = {**sequence.metadata, "name": path.stem}
        sequence = sequence.model_copy(update={"metadata": metadata})
    return sequence


def load_microscope(mm_config: Path) -> CMMCorePlus:
    """Return a core with a Micro-Manager configuration loaded.

    A relative path is looked for in Micro-Manager's own folder too, where MMConfig_demo.cfg lies.

    Raises
    ------
    InputError
        If there are no device adapters, or the configuration does not load.
    """
    with untold():
        core = CMMCorePlus()
    searched = core.getDeviceAdapterSearchPaths()
    folders = ", ".join(searched)
    # An absolute path stays itself behind any folder.
    places = [mm_config, *(Path(folder) / mm_config for folder in searched)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{mm_config}: no such Micro-Manager configuration.")
    # That there is a folder says nothing: MICROMANAGER_PATH is taken unseen.
    if not core.getDeviceAdapterNames():
        raise InputError(
            f"no Micro-Manager device adapters found in {folders or 'any folder'} for "
            f"{core.getAPIVersionInfo()}: install Micro-Manager (`mmcore install`), or set "
            "MICROMANAGER_PATH to its folder."
        )
    try:
        core.loadSystemConfiguration(str(found))
    except Exception as error:
        first = " ".join(str(error).split())
        raise InputError(
            f"{mm_config}: cannot be loaded with the device adapters in {folders}: {first}"
        ) from None
    return core


def plan(core: CMMCorePlus, sequence: useq.MDASequence) -> Plan:
    """Return what `sequence` would take on this microscope.

    Raises
    ------
    InputError
        If the camera's images cannot be stored.
    """
    spec = plan_run(sequence, summary_metadata(core, mda_sequence=sequence))
    events = itertools.islice(frame_events(sequence), _EVENTS_READ)
    heights = [event.z_pos for event in events if event.z_pos is not None]
    stage_z_um = core.getZPosition() if core.getFocusDevice() else None
    return Plan(
        frames=spec.frames_expected,
        images=len(spec.images),
        width_px=spec.width_px,
        height_px=spec.height_px,
        dtype=spec.dtype,
        channels=tuple(channel.name for channel in spec.channels),
        pixel_size=_in_words(spec.pixel_size_um),
        z_step=_in_words(spec.z_step_um),
        bytes=(spec.frames_expected or 0) * spec.frame_bytes,
        seconds=_least_seconds(core, sequence, spec),
        z_um=(min(heights), max(heights)) if heights else None,
        stage_z_um=stage_z_um,
        z_warning=_z_warning(sequence, stage_z_um),
    )


def _z_warning(sequence: useq.MDASequence, stage_z_um: float | None) -> str | None:
    """Return a line where a range of z lies around no position: useq takes it around 0 µm."""
    z_plan, positions = sequence.z_plan, sequence.stage_positions
    if z_plan is None or not z_plan.is_relative or stage_z_um is None:
        return None
    if positions and all(position.z is not None for position in positions):
        return None
    return (
        "the z range is relative, and no z position is given: it is taken around 0 µm, and the "
        f"stage is at {stage_z_um:g} µm; give stage_positions with z, or top and bottom"
    )


def _least_seconds(core: CMMCorePlus, sequence: useq.MDASequence, spec: RunSpec) -> float:
    """Return how long `sequence` takes at least: exposures one after the other, and intervals."""
    usual_ms = core.getExposure()
    # Times are counted from the start, or from where the sequence sets its clock anew.
    now = start = 0.0
    exposures: list[float] = []
    for event in itertools.islice(frame_events(sequence), _EVENTS_READ):
        start = now if event.reset_event_timer else start
        exposures.append((event.exposure or usual_ms) / 1000)
        now = max(now, start + (event.min_start_time or 0.0)) + exposures[-1]
    # Several cameras expose together.
    left = (spec.frames_expected or 0) // max(len(spec.cameras), 1) - len(exposures)
    return now + max(left, 0) * min(exposures, default=0.0)


def memory_for(core: CMMCorePlus, settings: Config) -> Memory:
    """Return what frames of this microscope would take of the memory, by what is free now."""
    frame_bytes = core.getImageWidth() * core.getImageHeight() * core.getBytesPerPixel()
    slots = ring_slots(settings.ring, frame_bytes)
    return Memory(slots, slots * frame_bytes, available_memory_bytes() // 2)


def room_for(
    core: CMMCorePlus, sequence: useq.MDASequence, settings: Config, *, output: Path | None = None
) -> Room:
    """Return whether `sequence` fits on the disk: the daemon's word; without one, our own.

    Raises
    ------
    InputError
        If the camera's images cannot be stored.
    """
    folder = None if output is None else str(output.expanduser().absolute())
    summary = summary_metadata(core, mda_sequence=sequence)
    spec = plan_run(sequence, summary, output=folder)
    found, warning = _forecast_of_daemon(spec) or _forecast_of_ours(spec, settings)
    return Room(
        folder=str(found["folder"]),
        bytes_needed=found["bytes_needed"],
        bytes_free=found["bytes_free"],
        frames_fit=found["frames_fit"],
        warning=warning,
    )


def _forecast_of_daemon(spec: RunSpec) -> tuple[dict[str, Any], str | None] | None:
    address = find_daemon()
    if address is None:
        return None
    try:
        with address.connect() as client:
            answer = client.ask({"type": "forecast", "spec": spec.model_dump(mode="json")})
    except OSError:
        return None
    return (answer["forecast"], answer["space"]) if answer.get("ok") else None


def _forecast_of_ours(spec: RunSpec, settings: Config) -> tuple[dict[str, Any], str | None]:
    # On use: a process that acquires has a daemon, and need not load what writes volumes.
    from deepfocus_live.volume import SpaceGauge

    gauge = SpaceGauge(
        spec,
        codec=settings.storage.codec,
        masks=settings.inference.enabled,
        labels=settings.labels.enabled,
    )
    folder = Path(spec.output) if spec.output else settings.output_dir
    forecast = gauge.forecast(folder, bytes_kept=settings.storage.reserve_mb << 20)
    return forecast.as_json(), None if forecast.fits() else forecast.warning(spec.name)


def _explain(error: ValidationError) -> str:
    """Return the first thing that is wrong."""
    errors = error.errors()
    # A union tells what each of its members would want: the key that was given is what counts.
    where = str(errors[0]["loc"][0]) if errors[0]["loc"] else "the whole"
    alike = [found for found in errors if found["loc"][:1] == errors[0]["loc"][:1]]
    words = errors[0]["msg"] if len(alike) == 1 else "that is no form that useq-schema knows"
    return f"`{where}` cannot be {alike[0]['input']!r}: {words}."


def _in_words(size: Calibration | None) -> str:
    return "not calibrated" if size is None else f"{size.um:g} µm"


def run(
    core: CMMCorePlus,
    sequence: useq.MDASequence,
    *,
    output: Path | None = None,
    config: Path | None = None,
    ignore_space: bool = False,
    profile: str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Report:
    """Run `sequence`, attached; returns when every frame is on the disk.

    Ctrl-C cancels the acquisition and closes the run in order.

    Parameters
    ----------
    profile : str or None
        As `attach` takes it.
    on_progress : callable or None
        Called a few times a second on the calling thread.

    Raises
    ------
    InputError
        If it does not fit on the disk, before anything is exposed; `ignore_space`: never.
    """
    settings = load_config(config)
    with attach(core, output=output, config=config, profile=profile) as attached:
        if not ignore_space:
            warning = room_for(core, sequence, settings, output=output).warning
            if warning is not None:
                raise InputError(
                    f"{warning} Nothing was taken: choose another --output, or add --ignore-space."
                )

        def tell(acquiring: bool) -> None:
            if on_progress is not None:
                said = attached.status()
                on_progress(Progress(said["frames_taken"], said["frames_durable"], acquiring))

        with _interrupts() as interrupted:
            error = _acquire(core, sequence, interrupted, tell)
            reason = core.mda.status.finish_reason
            while not attached.wait(_POLL_S):
                tell(False)
            tell(False)
        said = attached.status()
    return Report(
        said["frames_taken"],
        said["frames_durable"],
        str(getattr(reason, "value", None) or "interrupted"),
        tuple(said["runs"]),
        None if error is None else " ".join(str(error).split()) or type(error).__name__,
    )


def _acquire(
    core: CMMCorePlus,
    sequence: useq.MDASequence,
    interrupted: threading.Event,
    tell: Callable[[bool], None],
) -> Exception | None:
    """Run the sequence until its end, or until interrupted; return what made it fail."""
    failed: list[Exception] = []

    def work() -> None:
        try:
            core.mda.run(sequence)
        except Exception as error:
            failed.append(error)

    # On a thread of its own: on Windows no Ctrl-C reaches a main thread that waits for ever.
    thread = threading.Thread(target=work, name="deepfocus-acquire")
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        tell(True)
        if interrupted.is_set():
            # Again and again: asked before the runner has begun it does nothing.
            core.mda.cancel()
    return failed[0] if failed else None


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Within this context Ctrl-C sets the event instead of ending the program."""
    interrupted = threading.Event()
    # Signals belong to the main thread; elsewhere the caller keeps its own ways.
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
