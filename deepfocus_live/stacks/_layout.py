"""Which planes of a TIFF make which stack: from OME-XML, from ImageJ, or just in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepfocus_live.frames import Calibration
from deepfocus_live.stacks._calibration import Geometry, length_um, z_geometry
from deepfocus_live.stacks._ome_xml import OmeImage, parse_ome_xml
from deepfocus_live.stacks._tiff_file import TiffPlanes

__all__ = ["StackLayout", "stack_layouts"]

_AS_SLICES = "they are read as slices"


@dataclass(frozen=True)
class StackLayout:
    """Planes of one stack in z order, and what is known of it."""

    planes: tuple[int, ...]
    position: int
    time: int
    channel: int
    channel_name: str | None
    geometry: Geometry


def stack_layouts(planes: TiffPlanes) -> list[StackLayout]:
    """Return the stacks that a TIFF holds, in order of position, time and channel."""
    text = planes.description
    if "<OME" in text[:4096]:
        return _from_ome(text, planes)
    if planes.imagej is not None:
        return _from_imagej(planes)
    return [_in_order(len(planes), Geometry())]


def _in_order(n_planes: int, geometry: Geometry) -> StackLayout:
    return StackLayout(tuple(range(n_planes)), 0, 0, 0, None, geometry)


def _from_ome(text: str, planes: TiffPlanes) -> list[StackLayout]:
    try:
        images = parse_ome_xml(text, planes.path.name)
    except ValueError as error:
        note = f"{error}: pages are read in file order, without calibration"
        return [_in_order(len(planes), Geometry(notes=(note,)))]
    listed = [page for image in images for page in image.pages.values()]
    if sorted(listed) != list(range(len(planes))):
        return [_contradicted(images, listed, len(planes))]
    layouts = []
    for position, image in enumerate(images):
        image.find_slices()
        for time, channel in sorted({(t, c) for t, c, _ in image.pages}):
            layouts.append(_ome_layout(image, position, time, channel))
    return layouts


def _contradicted(images: list[OmeImage], listed: list[int], n_planes: int) -> StackLayout:
    """Return the pages in file order, where the XML is about other pages than these."""
    note = (
        f"its OME-XML places {len(listed)} planes in this file, which has {n_planes} pages: "
        "they are read in file order as one stack"
    )
    if not images:
        return _in_order(n_planes, Geometry(notes=(note,)))
    return _in_order(
        n_planes, _geometry(images[0].pixel_size, images[0].z_step, range(n_planes), notes=[note])
    )


def _ome_layout(image: OmeImage, position: int, time: int, channel: int) -> StackLayout:
    keys = sorted(key for key in image.pages if key[:2] == (time, channel))
    z_indices = [z for _, _, z in keys]
    notes = []
    if image.slices_called:
        notes.append(
            f"its OME-XML calls the {len(keys)} planes {image.slices_called}: {_AS_SLICES}"
        )
    if len(keys) < image.sizes["Z"]:
        notes.append(f"its OME-XML lists {image.sizes['Z']} slices, this file holds {len(keys)}")
    positions = [image.z_um[key] for key in keys if key in image.z_um]
    geometry = _geometry(
        image.pixel_size,
        image.z_step,
        z_indices,
        positions if len(positions) == len(keys) else None,
        notes,
    )
    names = image.channel_names
    name = names[channel] if channel < len(names) else None
    return StackLayout(tuple(image.pages[k] for k in keys), position, time, channel, name, geometry)


def _geometry(
    pixel_size: tuple[Calibration | None, Calibration | None],
    z_step: Calibration | None,
    z_indices: Sequence[int],
    positions: list[Calibration] | None = None,
    notes: Sequence[str] = (),
) -> Geometry:
    size_x, size_y = pixel_size
    z_step, z_um, z_notes = z_geometry(
        z_indices,
        z_step,
        None if positions is None else [p.um for p in positions],
        positions[0].source if positions else "file",
    )
    said = [*notes, *z_notes]
    if size_x is not None and size_y is not None and abs(size_x.um / size_y.um - 1) > 0.01:
        said.append(f"pixels are {size_x.um:g} x {size_y.um:g} µm: the first is used")
    if any(found is not None and found.source == "assumed" for found in (size_x, z_step)):
        said.append("lengths are given without a unit: µm is assumed")
    return Geometry(size_x or size_y, z_step, z_um, tuple(said))


def _from_imagej(planes: TiffPlanes) -> list[StackLayout]:
    """Lay an ImageJ hyperstack out: channels fastest, then slices, then frames."""
    header = planes.imagej or {}
    channels, slices, frames = (
        max(1, int(header.get(key, 1))) for key in ("channels", "slices", "frames")
    )
    unit = str(header.get("unit", ""))
    density = planes.pixels_per_unit()
    # Without a unit the resolution tag is a printer's.
    pixel_size = length_um(1 / density, unit) if density and unit else None
    z_step = length_um(_spacing(header.get("spacing")), unit)
    notes: list[str] = []
    if channels * slices * frames != len(planes):
        notes.append(
            f"ImageJ says {channels} channels x {slices} slices x {frames} frames, the file has "
            f"{len(planes)} planes: they are read in file order as one stack"
        )
        channels, slices, frames = 1, len(planes), 1
    elif slices == 1 and frames > 1:
        # ImageJ opens any sequence as frames; a stack saved that way is still a stack.
        slices, frames = frames, 1
        notes.append(f"ImageJ calls its {slices} planes frames: {_AS_SLICES}")
    elif slices == 1 and channels > 1 and header.get("mode", "grayscale") == "grayscale":
        slices, channels = channels, 1
        notes.append(f"ImageJ calls its {slices} planes channels: {_AS_SLICES}")
    geometry = _geometry((pixel_size, pixel_size), z_step, range(slices), notes=notes)
    return [
        StackLayout(
            tuple((t * slices + z) * channels + c for z in range(slices)), 0, t, c, None, geometry
        )
        for t in range(frames)
        for c in range(channels)
    ]


def _spacing(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
