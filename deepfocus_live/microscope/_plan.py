"""What a useq sequence and the microscope say of a run before its first frame."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import useq

from deepfocus_live import __version__
from deepfocus_live.errors import InputError
from deepfocus_live.frames import (
    Calibration,
    ChannelSpec,
    FrameHeader,
    ImageSpec,
    PlateSpec,
    RunSpec,
)

__all__ = [
    "can_be_stored",
    "form_of",
    "frame_events",
    "frame_header",
    "plan_run",
    "planes_of",
    "said_of_form",
]

_COLORS = 3


def plan_run(
    sequence: useq.MDASequence,
    summary: Mapping[str, Any],
    *,
    output: str | None = None,
    profile: str | None = None,
) -> RunSpec:
    """Return the plan of a run.

    Parameters
    ----------
    sequence : useq.MDASequence
        For a run from an iterator this is an empty stand-in; the run then grows.
    summary : mapping
        pymmcore-plus's summary metadata, as `sequenceStarted` brings it.
    output : str or None
        Folder for the run; None: the daemon's.
    profile : str or None
        For all of its channels; None: the daemon chooses for each.

    Raises
    ------
    InputError
        If the camera's images cannot be stored.
    """
    infos = summary.get("image_infos") or ()
    if not infos:
        raise InputError("the microscope has no camera: load one before the acquisition.")
    info = infos[0]
    name = str(sequence.metadata.get("name") or sequence.metadata.get("save_name") or "run")
    cameras = _cameras(info)
    step = _z_step(sequence)
    pixel = float(info.get("pixel_size_um") or 0)
    return RunSpec(
        run_id=uuid.uuid4().hex,
        name=name,
        height_px=int(info["height"]),
        width_px=int(info["width"]),
        dtype=_checked_dtype(np.dtype(str(info["dtype"]))),
        samples_per_pixel=_samples(info),
        bits_per_sample=_bits(info),
        images=tuple(_images(sequence)),
        plate=_plate(sequence),
        channels=tuple(_channels(sequence, cameras)),
        cameras=cameras,
        # MMCore reports 0 where no pixel size is configured.
        pixel_size_um=Calibration(um=pixel, source="stage") if pixel > 0 else None,
        pixel_size_preset=str(info.get("pixel_size_config_name") or "") or None,
        z_step_um=Calibration(um=step, source="stage") if step else None,
        time_step_s=_time_step(sequence),
        output=output,
        profile=profile,
        frames_expected=_frames_expected(sequence, cameras),
        sequence=sequence.model_dump(mode="json", exclude_unset=True),
        software={
            "deepfocus-live": __version__,
            **{name: version(name) for name in ("pymmcore-plus", "useq-schema")},
        },
    )


def frame_header(
    run_id: str,
    sequence_number: int,
    image: np.ndarray[Any, Any],
    event: useq.MDAEvent,
    meta: Mapping[str, Any],
    taken_at: float,
) -> FrameHeader:
    """Return everything known of one frame but its pixels, (Y, X) or (3, Y, X) in `image`."""
    position = meta.get("position") or {}
    # Hardware-sequenced frames carry no measured position: what was asked for stands in.
    z = position.get("z")
    return FrameHeader(
        run_id=run_id,
        sequence_number=sequence_number,
        index={str(getattr(axis, "value", axis)): n for axis, n in event.index.items()},
        **form_of(image),
        z_um=event.z_pos if z is None else z,
        x_um=position.get("x", event.x_pos),
        y_um=position.get("y", event.y_pos),
        exposure_ms=meta.get("exposure_ms"),
        camera=meta.get("camera_device"),
        hardware_triggered=bool(meta.get("hardware_triggered", False)),
        taken_at=taken_at,
    )


def _checked_dtype(dtype: np.dtype[Any]) -> Literal["uint8", "uint16"]:
    if dtype == np.uint8:
        return "uint8"
    if dtype == np.uint16:
        return "uint16"
    raise InputError(f"the camera delivers {dtype} images; uint8 and uint16 can be stored.")


def _samples(info: Mapping[str, Any]) -> Literal[1, 3]:
    shape = tuple(info.get("plane_shape") or (info["height"], info["width"]))
    if len(shape) == 2:
        return 1
    if shape[2:] == (_COLORS,):
        return 3
    raise InputError(
        f"the camera delivers images of shape {shape}; grey ones and those of red, green and blue "
        "can be stored."
    )


def _bits(info: Mapping[str, Any]) -> int | None:
    """Return the number in a GenICam pixel format ("Mono12")."""
    found = re.search(r"\d+", str(info.get("pixel_format", "")))
    bits = int(found[0]) if found else 0
    return bits if 1 <= bits <= 8 * np.dtype(str(info["dtype"])).itemsize else None


def planes_of(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a camera's image, (Y, X) or (Y, X, 3), as it is stored: (Y, X) or (3, Y, X); a view.

    In the camera's buffer the colours lie behind one another already.
    """
    return image if image.ndim != 3 else np.moveaxis(image, -1, 0)


def can_be_stored(image: np.ndarray[Any, Any]) -> bool:
    """Return whether an image, its colours first, is one that a run can hold."""
    grey_or_colors = image.ndim == 2 or (image.ndim == 3 and len(image) == _COLORS)
    return grey_or_colors and image.dtype in (np.uint8, np.uint16)


def form_of(image: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return size and type of an image, its colours first, as a `FrameHeader` names them.

    Raises
    ------
    InputError
        If it is of another type than runs can hold.
    """
    *colors, height, width = image.shape
    return {
        "height_px": height,
        "width_px": width,
        "dtype": _checked_dtype(image.dtype),
        "samples_per_pixel": colors[0] if colors else 1,
    }


def said_of_form(form: Mapping[str, Any]) -> str:
    """Return size and type of an image in words."""
    kind = "" if form["samples_per_pixel"] == 1 else "RGB "
    return f"{form['width_px']} × {form['height_px']} {kind}{form['dtype']}"


def _cameras(info: Mapping[str, Any]) -> tuple[str, ...]:
    count = int(info.get("num_camera_adapter_channels") or 1)
    label = str(info.get("camera_label", "camera"))
    return (label,) if count == 1 else tuple(f"{label} {n + 1}" for n in range(count))


def _channels(sequence: useq.MDASequence, cameras: tuple[str, ...]) -> Iterable[ChannelSpec]:
    # A position's own plan may have channels of its own: the image holds the most of any.
    own = [p.sequence.channels for p in sequence.stage_positions if p.sequence]
    plans = [plan for plan in (sequence.channels, *own) if plan]
    for c in range(max(map(len, plans), default=1)):
        given = [plan[c] for plan in plans if c < len(plan)]
        name = " or ".join(dict.fromkeys(channel.config for channel in given)) or "default"
        exposures = {channel.exposure for channel in given}
        exposure = exposures.pop() if len(exposures) == 1 else None
        for camera in cameras:
            shown = name if len(cameras) == 1 else f"{name} {camera}"
            yield ChannelSpec(name=shown, camera=camera, exposure_ms=exposure)


def _z_step(sequence: useq.MDASequence) -> float | None:
    own = [position.sequence.z_plan for position in sequence.stage_positions if position.sequence]
    plans = [plan for plan in (sequence.z_plan, *own) if plan is not None]
    steps = np.concatenate([[], *(np.abs(np.diff(list(plan))) for plan in plans)])
    # Uneven plans have no one step: nothing is claimed rather than a mean.
    if len(steps) and steps.max() - steps.min() < 1e-6 * max(steps.max(), 1e-9):
        return float(steps[0]) or None
    return None


def _time_step(sequence: useq.MDASequence) -> float | None:
    """Return the planned time between time points, where there is one for all of them."""
    own = [p.sequence.time_plan for p in sequence.stage_positions if p.sequence]
    # A plan of several phases has no one interval.
    interval = None if any(own) else getattr(sequence.time_plan, "interval", None)
    return interval.total_seconds() or None if isinstance(interval, timedelta) else None


def _plate(sequence: useq.MDASequence) -> PlateSpec | None:
    """Return the well plate that a sequence goes over."""
    plan = sequence.stage_positions
    if not isinstance(plan, useq.WellPlatePlan) or not len(plan):
        return None
    names = plan.all_well_names
    return PlateSpec(
        name=plan.plate.name or "plate",
        rows=tuple(_row_name(name) for name in names[:, 0]),
        columns=tuple(str(name).removeprefix(_row_name(name)) for name in names[0]),
    )


def _row_name(well: str) -> str:
    return str(well).rstrip("0123456789")


def _images(sequence: useq.MDASequence) -> list[ImageSpec]:
    """Return the images of a run; those of a plate with their wells."""
    images = list(_images_of_positions(sequence))
    plate, positions = _plate(sequence), sequence.stage_positions
    if plate is None:
        return images
    fields: Counter[str] = Counter()
    found = []
    for image in images:
        position = positions[image.position]
        if position.plate_row is None or position.plate_col is None:
            found.append(image)
            continue
        well = f"{plate.rows[position.plate_row]}/{plate.columns[position.plate_col]}"
        found.append(image.model_copy(update={"well": well, "field": fields[well]}))
        fields[well] += 1
    return found


def _images_of_positions(sequence: useq.MDASequence) -> Iterable[ImageSpec]:
    positions = sequence.stage_positions
    if any(position.sequence is not None for position in positions):
        return _images_of_events(sequence)
    sizes = {str(getattr(axis, "value", axis)): n for axis, n in sequence.sizes.items()}
    t, z, tiles = (max(sizes.get(axis, 1), 1) for axis in "tzg")
    places = list(sequence.grid_plan) if sequence.grid_plan is not None and tiles > 1 else []
    found = []
    for p in range(max(sizes.get("p", 1), 1)):
        position = positions[p] if p < len(positions) else None
        for g in range(tiles):
            x, y = _place(position, places[g] if g < len(places) else None)
            found.append(
                ImageSpec(
                    position=p,
                    tile=g,
                    name=_image_name(position.name if position else None, p, g, tiles),
                    size_t=t,
                    size_z=z,
                    x_um=x,
                    y_um=y,
                )
            )
    return found


def _place(position: useq.Position | None, tile: Any) -> tuple[float | None, float | None]:
    """Return where the stage will be, x and y; None where only the microscope knows."""
    x, y = (None, None) if position is None else (position.x, position.y)
    if tile is None:
        return x, y
    if not tile.is_relative:
        return tile.x, tile.y
    return (None, None) if x is None or y is None else (x + tile.x, y + tile.y)


def _images_of_events(sequence: useq.MDASequence) -> Iterable[ImageSpec]:
    """Positions with plans of their own differ in z and tiles: only the events know."""
    sizes: dict[tuple[int, int], dict[str, int]] = {}
    first: dict[tuple[int, int], useq.MDAEvent] = {}
    for event in frame_events(sequence):
        key = (event.index.get("p", 0), event.index.get("g", 0))
        first.setdefault(key, event)
        size = sizes.setdefault(key, {"t": 1, "z": 1})
        for axis in size:
            size[axis] = max(size[axis], event.index.get(axis, 0) + 1)
    for (p, g), size in sizes.items():
        event = first[p, g]
        tiles = sum(1 for position, _ in sizes if position == p)
        yield ImageSpec(
            position=p,
            tile=g,
            name=_image_name(event.pos_name, p, g, tiles),
            size_t=size["t"],
            size_z=size["z"],
            x_um=event.x_pos,
            y_um=event.y_pos,
        )


def frame_events(sequence: useq.MDASequence) -> Iterable[useq.MDAEvent]:
    """Return the events that bring a frame: focusing and custom actions bring none."""
    return (event for event in sequence if isinstance(event.action, useq.AcquireImage))


def _image_name(given: str | None, p: int, g: int, tiles: int) -> str:
    name = given or f"position {p}"
    return name if tiles == 1 else f"{name} tile {g}"


def _frames_expected(sequence: useq.MDASequence, cameras: tuple[str, ...]) -> int | None:
    if any(position.sequence is not None for position in sequence.stage_positions):
        return sum(1 for _ in frame_events(sequence)) * len(cameras)
    sizes = [n for n in sequence.sizes.values() if n]
    # A channel may leave out time points or z: then the product is an upper bound, not a plan.
    if not sizes or any(c.acquire_every > 1 or not c.do_stack for c in sequence.channels):
        return None
    return int(np.prod(sizes)) * len(cameras)
