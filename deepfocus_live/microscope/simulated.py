"""A simulated microscope: a real core whose camera plays focal stacks.

Design Notes
------------
The core is pymmcore-plus's own `UniMMCore` with three Python devices, so that everything above it
(the MDA runner, hardware sequencing, live mode, `attach`) runs as it does on a bench:

- ``Z``, a focus stage that is moved by software or plays a loaded sequence, one step per exposure;
- ``XY``, a stage whose position chooses the *field*: field *i* lies at x = *i* times the field
  spacing, which is many fields of view, so that a grid or a small move stays in its field;
- ``Camera``, which shows the plane nearest to the current z of the current stack, pixel for pixel.
  Exposure is honoured in time (an image never takes less) and never in brightness.

*Which stack is played.* In field *i* at time point *t* it is stack ``(i + t) % number of stacks``.
The field comes from the XY stage, which any program can move. No device moves with time, so the
time point is taken from the event itself: `PlaybackEngine`, installed on the core, notes ``t``
before each event is set up, for every frame of it if the event is a hardware-sequenced one.
Counting z-scans instead would go astray with several channels, with cancelled runs and with
one-slice scans. A signal (``eventStarted``) would come late in a Qt process, where slots are queued
for the GUI thread; the engine runs on the runner's own. An engine put in its place by someone else
leaves the time point as it was, and everything else as it is.

*A hardware-sequenced scan.* The camera's exposure end is the trigger, as with a cable between
camera and stage: starting the sequence puts the stage at the first position, each exposure moves it
to the next, and after the last it starts again.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Protocol

import numpy as np
import useq
from numpy.typing import ArrayLike, DTypeLike, NDArray
from pymmcore_plus import FocusDirection
from pymmcore_plus.experimental.unicore import (
    SimpleCameraDevice,
    StageDevice,
    UniMMCore,
    XYStageDevice,
)
from pymmcore_plus.mda import MDAEngine

from deepfocus_live.errors import InputError
from deepfocus_live.microscope._faults import CameraFaults, expose_with_faults
from deepfocus_live.microscope._quiet import quiet_at_exit, untold

__all__ = [
    "CameraFaults",
    "PlaybackEngine",
    "SimulatedMicroscope",
    "StackLike",
    "load_simulated_microscope",
]

CAMERA = "Camera"
FOCUS_STAGE = "Z"
XY_STAGE = "XY"

# Fields lie this many fields of view apart: room for a grid of tiles around each.
_FIELD_SPACING_IN_VIEWS = 20
# Where no pixel size is known, x and y still need a scale.
_FALLBACK_PIXEL_SIZE_UM = 1.0
_MAX_SEQUENCE_LENGTH = 65_536
_PIXEL_SIZE_CONFIG = "simulated"
_METADATA_KEY = "deepfocus_live_simulated"


class StackLike(Protocol):
    """What a focal stack must offer; a numpy array does, and so does a lazy reader.

    ``stack[z]`` is asked for one plane at a time, again at each visit.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Z, Y, X."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or uint16."""

    def __getitem__(self, z: int, /) -> ArrayLike:
        """(Y, X) plane number `z`."""


class _Specimen:
    """The stacks, and which of them lies under the objective now.

    The only part that knows how field, time point and z become a plane.
    """

    def __init__(
        self,
        stacks: Sequence[StackLike],
        z_um: Sequence[NDArray[np.float64]],
        field_spacing_um: float,
    ) -> None:
        self.stacks = stacks
        self.z_um = z_um
        self.field_spacing_um = field_spacing_um
        _, height, width = stacks[0].shape
        self.plane_shape = (height, width)
        self.dtype = stacks[0].dtype.newbyteorder("=")
        self._time_points: Sequence[int] = (0,)
        self._frame = 0
        self._held: tuple[tuple[int, int], NDArray[Any]] | None = None

    def expect(self, time_points: Sequence[int]) -> None:
        """Set the time point of each coming exposure; the last one then stays."""
        self._time_points = time_points
        self._frame = 0

    def advance(self) -> None:
        """Note that one exposure has ended."""
        self._frame = min(self._frame + 1, len(self._time_points) - 1)

    def plane(self, x_um: float, z_um: float) -> NDArray[Any]:
        """Return the (Y, X) plane of the current stack that is nearest to `z_um`."""
        field = max(0, round(x_um / self.field_spacing_um))
        number = (field + self._time_points[self._frame]) % len(self.stacks)
        index = int(np.argmin(np.abs(self.z_um[number] - z_um)))
        if self._held is not None and self._held[0] == (number, index):
            return self._held[1]
        plane = np.asarray(self.stacks[number][index])
        if plane.shape != self.plane_shape or plane.dtype.newbyteorder("=") != self.dtype:
            raise RuntimeError(
                f"stack {number}, plane {index} was read as {_describe(plane.shape, plane.dtype)}, "
                f"but its stack promised {_describe(self.plane_shape, self.dtype)}."
            )
        # One plane, not the stack: a lazily read stack may be larger than memory.
        self._held = ((number, index), plane)
        return plane


class _FocusStage(StageDevice):
    """Simulated focus stage, moved by software or stepped by the camera's exposures."""

    def __init__(self, position_um: float) -> None:
        super().__init__()
        self.position_um = position_um
        self._origin_um = 0.0
        self._sequence: tuple[float, ...] = ()
        self._step: int | None = None  # None while no sequence runs

    def home(self) -> None:
        self.position_um = 0.0

    def stop(self) -> None:
        """Do nothing: a move is over at once."""

    def set_origin(self) -> None:
        self._origin_um = self.position_um

    def set_position_um(self, val: float) -> None:
        # No stagePositionChanged is emitted: the core holds this device's lock here, and a
        # listener that asks for the position on this thread would wait for itself for ever.
        self.position_um = val + self._origin_um

    def get_position_um(self) -> float:
        return self.position_um - self._origin_um

    def get_focus_direction(self) -> FocusDirection:
        # A known direction lets the engine put the stage back after a run, as on a real stand.
        return FocusDirection.TowardSample

    def get_sequence_max_length(self) -> int:
        return _MAX_SEQUENCE_LENGTH

    def send_sequence(self, sequence: tuple[float, ...]) -> None:
        self._sequence = sequence

    def start_sequence(self) -> None:
        self._step = 0
        self.set_position_um(self._sequence[0])

    def stop_sequence(self) -> None:
        self._step = None

    def trigger(self) -> None:
        """Take one step of the running sequence, if one runs."""
        if self._step is not None:
            self._step = (self._step + 1) % len(self._sequence)
            self.set_position_um(self._sequence[self._step])


class _FieldStage(XYStageDevice):
    """Simulated XY stage, moved by software only."""

    def __init__(self) -> None:
        super().__init__()
        self.x_um = 0.0
        self.y_um = 0.0
        self._origin_um = (0.0, 0.0)

    def home(self) -> None:
        self.x_um = self.y_um = 0.0

    def stop(self) -> None:
        """Do nothing: a move is over at once."""

    def set_origin_x(self) -> None:
        self._origin_um = (self.x_um, self._origin_um[1])

    def set_origin_y(self) -> None:
        self._origin_um = (self._origin_um[0], self.y_um)

    def set_position_um(self, x: float, y: float) -> None:
        self.x_um = x + self._origin_um[0]
        self.y_um = y + self._origin_um[1]

    def get_position_um(self) -> tuple[float, float]:
        return self.x_um - self._origin_um[0], self.y_um - self._origin_um[1]


class _PlaybackCamera(SimpleCameraDevice):
    """Simulated camera that shows the plane of the specimen at the stages' position."""

    def __init__(
        self,
        specimen: _Specimen,
        focus: _FocusStage,
        field: _FieldStage,
        exposure_ms: float,
        faults: CameraFaults | None,
    ) -> None:
        super().__init__()
        self._faults = faults
        self._exposures = itertools.count()
        # The devices themselves, not their labels: a device reaches no other one through the core.
        self._specimen = specimen
        self._focus = focus
        self._field = field
        self._exposure_ms = exposure_ms

    def get_exposure(self) -> float:
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        if not (math.isfinite(exposure) and exposure >= 0):
            raise ValueError(f"exposure must be 0 ms or more, not {exposure}")
        self._exposure_ms = exposure

    def sensor_shape(self) -> tuple[int, int]:
        return self._specimen.plane_shape

    def dtype(self) -> DTypeLike:
        return self._specimen.dtype

    def set_roi(self, x: int, y: int, width: int, height: int) -> None:
        super().set_roi(x, y, width, height)
        if (height, width) == self.sensor_shape():
            # The engine restores the full frame as a ROI, which would cost a copy per image.
            self.clear_roi()

    def start_sequence(
        self,
        n: int | None,
        get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[Any]],
    ) -> Iterator[Mapping[str, Any]]:
        if self._faults is None:
            return super().start_sequence(n, get_buffer)
        return expose_with_faults(self, self._faults, self._exposures, n, get_buffer)

    def snap(self, buffer: NDArray[Any]) -> Mapping[str, Any]:
        end = time.perf_counter() + self._exposure_ms / 1000
        # The truth positions, not the displayed ones: setting an origin moves no glass.
        np.copyto(
            buffer,
            self._specimen.plane(self._field.x_um, self._focus.position_um),
            casting="equiv",
        )
        while (left := end - time.perf_counter()) > 0:
            time.sleep(left)
        self._focus.trigger()
        self._specimen.advance()
        return {}


class PlaybackEngine(MDAEngine):
    """The standard engine, which also tells the specimen the time point of each frame.

    A sequence made by `SimulatedMicroscope.sequence` is run as it asks, hardware-sequenced or moved
    by software; any other is run as `use_hardware_sequencing` says.
    """

    def __init__(self, core: UniMMCore, specimen: _Specimen) -> None:
        super().__init__(core)
        self._specimen = specimen

    def setup_event(self, event: useq.MDAEvent) -> None:
        """Note the time points of `event`'s frames, then set up the devices."""
        frames: Sequence[useq.MDAEvent] = getattr(event, "events", (event,))
        self._specimen.expect([frame.index.get("t", 0) for frame in frames])
        super().setup_event(event)

    def event_iterator(self, events: Iterable[useq.MDAEvent]) -> Iterator[useq.MDAEvent]:
        """Iterate over `events`, merged into hardware sequences unless that is not wanted."""
        if isinstance(events, useq.MDASequence):
            wish = events.metadata.get(_METADATA_KEY, {})
            if wish.get("hardware_triggered") is False:
                return iter(events)
        return super().event_iterator(events)


class SimulatedMicroscope:
    """Handle on a core that plays focal stacks; made by `load_simulated_microscope`.

    Attributes
    ----------
    core : UniMMCore
        The core, ready for `core.mda.run`, `core.snap` or live mode, standing in field 0 at the
        first plane.
    n_stacks : int
        How many stacks it plays.
    """

    def __init__(self, core: UniMMCore, specimen: _Specimen) -> None:
        self.core = core
        self.n_stacks = len(specimen.stacks)
        self._specimen = specimen

    def field_position_um(self, field: int) -> tuple[float, float]:
        """Return x and y (µm) of the centre of a field."""
        return field * self._specimen.field_spacing_um, 0.0

    def z_positions_um(self, stack: int = 0) -> NDArray[np.float64]:
        """Return the stage positions (µm) of a stack's planes, in the stack's order."""
        return self._specimen.z_um[stack % self.n_stacks].copy()

    def sequence(
        self,
        n_stacks: int | None = None,
        *,
        hardware_triggered: bool = False,
        as_: Literal["time", "position"] = "time",
        interval_s: float = 0.0,
    ) -> useq.MDASequence:
        """Return the sequence that plays the stacks one after the other, plane by plane.

        Parameters
        ----------
        n_stacks : int, optional
            How many z-scans; all stacks once by default. With more scans than stacks they begin
            again from the first.
        hardware_triggered : bool
            True: the stage steps by itself, and the run sees whole scans (with ``as_="time"`` and
            no interval, the whole run) as one hardware sequence. False: each plane is an event.
        as_ : {"time", "position"}
            Whether the next stack is the next time point or the next stage position.
        interval_s : float
            Time from the start of one scan to the next, >= 0. Time points only.

        Returns
        -------
        useq.MDASequence
            Axes t and z, or p and z. Positions carry sub-sequences if the stacks' planes differ.

        Raises
        ------
        InputError
            If stacks with different planes are to be time points, `n_stacks` is below 1, or
            `interval_s` is negative.
        """
        count = self.n_stacks if n_stacks is None else n_stacks
        if count < 1:
            raise InputError(f"number of stacks to play is {count}: give 1 or more.")
        _check_number("interval (s)", interval_s, above_zero=False)
        z_um = [self._specimen.z_um[i % self.n_stacks] for i in range(count)]
        same_planes = all(np.array_equal(z, z_um[0]) for z in z_um)
        metadata = {_METADATA_KEY: {"hardware_triggered": hardware_triggered}}
        if as_ == "time":
            if not same_planes:
                raise InputError(
                    "stacks with different z positions cannot be time points of one sequence: "
                    "play them as positions, or give them one z-step and number of slices."
                )
            return useq.MDASequence(
                axis_order=("t", "z"),
                time_plan=useq.TIntervalLoops(interval=timedelta(seconds=interval_s), loops=count),
                z_plan=_z_plan(z_um[0]),
                metadata=metadata,
            )
        positions = []
        for field, z in enumerate(z_um):
            x_um, y_um = self.field_position_um(field)
            own = None if same_planes else useq.MDASequence(z_plan=_z_plan(z))
            positions.append(useq.Position(x=x_um, y=y_um, name=f"field{field}", sequence=own))
        return useq.MDASequence(
            axis_order=("p", "z"),
            stage_positions=tuple(positions),
            z_plan=_z_plan(z_um[0]) if same_planes else None,
            metadata=metadata,
        )

    def close(self) -> None:
        """Unload the devices; the core then has no camera and no stages."""
        self.core.unloadAllDevices()


def load_simulated_microscope(
    stacks: Sequence[StackLike],
    *,
    z_step_um: float | None = None,
    z_um: Sequence[ArrayLike] | None = None,
    pixel_size_um: float | None = None,
    exposure_ms: float = 10.0,
    core: UniMMCore | None = None,
    faults: CameraFaults | None = None,
) -> SimulatedMicroscope:
    """Load a simulated microscope that plays focal stacks.

    Parameters
    ----------
    stacks : sequence of (Z, Y, X) uint8 or uint16
        Arrays, or lazily read objects (see `StackLike`): one plane is held at a time. All of one
        (Y, X) and one dtype; Z may differ.
    z_step_um : float, optional
        Distance between the planes of every stack, > 0; plane 0 then lies at 0 µm.
    z_um : sequence of (Z,) float, optional
        Stage position (µm) of each plane, one list per stack, instead of `z_step_um`.
    pixel_size_um : float, optional
        Size of a pixel at the specimen, > 0, which the core then reports. Unknown by default: the
        core reports 0, as Micro-Manager does without a calibration.
    exposure_ms : float
        The camera's exposure at first, >= 0.
    core : UniMMCore, optional
        A core to load the devices into, emptied first. A new one by default.
    faults : CameraFaults, optional
        What goes wrong with the camera. Nothing by default.

    Returns
    -------
    SimulatedMicroscope
        Its `core` runs sequences; its `sequence` makes one that plays the stacks.

    Raises
    ------
    InputError
        If there is no stack, a stack is not 3-D, not uint8 or uint16, empty or unlike the first, or
        a calibration is missing or not a usable number.
    """
    checked = _check_stacks(stacks)
    z_positions = _check_z(checked, z_step_um, z_um)
    if pixel_size_um is not None:
        _check_number("pixel size (µm)", pixel_size_um, above_zero=True)
    _check_number("exposure (ms)", exposure_ms, above_zero=False)

    view_um = max(checked[0].shape[1:]) * (pixel_size_um or _FALLBACK_PIXEL_SIZE_UM)
    specimen = _Specimen(checked, z_positions, _FIELD_SPACING_IN_VIEWS * view_um)
    focus = _FocusStage(float(z_positions[0][0]))
    field = _FieldStage()
    camera = _PlaybackCamera(specimen, focus, field, exposure_ms, faults)

    if core is None:
        with untold():
            core = UniMMCore()
    else:
        core.unloadAllDevices()
        if _PIXEL_SIZE_CONFIG in core.getAvailablePixelSizeConfigs():
            core.deletePixelSizeConfig(_PIXEL_SIZE_CONFIG)
    core.loadPyDevice(CAMERA, camera)
    core.loadPyDevice(FOCUS_STAGE, focus)
    core.loadPyDevice(XY_STAGE, field)
    for label in (CAMERA, FOCUS_STAGE, XY_STAGE):
        core.initializeDevice(label)
    core.setCameraDevice(CAMERA)
    core.setFocusDevice(FOCUS_STAGE)
    core.setXYStageDevice(XY_STAGE)
    # There is no shutter: with automatic shutters on, the first frame fails for want of one.
    core.setAutoShutter(False)
    if pixel_size_um is not None:
        core.definePixelSizeConfig(_PIXEL_SIZE_CONFIG)
        core.setPixelSizeUm(_PIXEL_SIZE_CONFIG, pixel_size_um)
        # Not derived from the size by the core: left alone it says 1 µm.
        core.setPixelSizeAffine(
            _PIXEL_SIZE_CONFIG, (pixel_size_um, 0.0, 0.0, 0.0, pixel_size_um, 0.0)
        )
    core.mda.set_engine(PlaybackEngine(core, specimen))
    quiet_at_exit(core)
    return SimulatedMicroscope(core, specimen)


def _check_stacks(stacks: Sequence[StackLike]) -> list[StackLike]:
    """Return the stacks as a list, or say which cannot be played with the others, and why."""
    checked = list(stacks)
    if not checked:
        raise InputError("no stack to play: give at least one (Z, Y, X) stack.")
    for number, stack in enumerate(checked):
        shape, dtype = tuple(stack.shape), np.dtype(stack.dtype)
        if len(shape) != 3 or 0 in shape:
            raise InputError(
                f"stack {number} is {_describe(shape, dtype)}: a stack needs three axes (Z, Y, X), "
                "none of them empty."
            )
        if dtype.kind != "u" or dtype.itemsize > 2:
            raise InputError(
                f"stack {number} is {_describe(shape, dtype)}: the simulated camera takes uint8 or "
                "uint16; convert it."
            )
        first = checked[0]
        same_dtype = dtype.itemsize == np.dtype(first.dtype).itemsize
        if shape[1:] != tuple(first.shape[1:]) or not same_dtype:
            raise InputError(
                f"stack {number} is {_describe(shape, dtype)}, stack 0 is "
                f"{_describe(first.shape, first.dtype)}: one camera plays stacks of one slice size "
                "and pixel type; crop or convert it."
            )
    return checked


def _check_z(
    stacks: Sequence[StackLike], z_step_um: float | None, z_um: Sequence[ArrayLike] | None
) -> list[NDArray[np.float64]]:
    """Return the stage position of every plane of every stack."""
    if (z_step_um is None) == (z_um is None):
        raise InputError("give either the z-step (z_step_um) or the z positions (z_um), not both.")
    if z_step_um is not None:
        _check_number("z-step (µm)", z_step_um, above_zero=True)
        return [np.arange(stack.shape[0], dtype=np.float64) * z_step_um for stack in stacks]
    lists: list[NDArray[np.float64]] = [np.asarray(z).astype(np.float64) for z in z_um or ()]
    if len(lists) != len(stacks):
        raise InputError(
            f"z positions (z_um) are given for {len(lists)} stacks, but there are {len(stacks)}: "
            "give one list per stack."
        )
    for number, (stack, z) in enumerate(zip(stacks, lists, strict=True)):
        if z.shape != (stack.shape[0],) or not np.isfinite(z).all():
            raise InputError(
                f"stack {number} has {stack.shape[0]} slices, its z positions have the shape "
                f"{z.shape}: give one finite position (µm) per slice."
            )
    return lists


def _check_number(what: str, value: float, *, above_zero: bool) -> None:
    """Raise InputError unless `value` is finite and positive (or at least not negative)."""
    if not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        raise InputError(
            f"{what} is {value}: give a number {'above 0' if above_zero else 'of 0 or more'}."
        )


def _describe(shape: Sequence[int], dtype: DTypeLike) -> str:
    return f"{' x '.join(map(str, shape)) or 'a single number'} {np.dtype(dtype).name}"


def _z_plan(z_um: NDArray[np.float64]) -> useq.ZTopBottom | useq.ZAbsolutePositions:
    """Return the plan a microscopist would make for these positions.

    Evenly spaced ones become a range, so that whoever reads the sequence finds a z-step in it.
    """
    if len(z_um) > 1:
        step = float(z_um[-1] - z_um[0]) / (len(z_um) - 1)
        if step > 0:
            plan = useq.ZTopBottom(bottom=float(z_um[0]), top=float(z_um[-1]), step=step)
            made = np.fromiter(plan, dtype=np.float64)
            if made.shape == z_um.shape and np.allclose(made, z_um, rtol=0, atol=1e-3 * step):
                return plan
    return useq.ZAbsolutePositions(absolute=[float(z) for z in z_um])
