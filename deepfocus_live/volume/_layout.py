"""OME-Zarr 0.5 as we write it: groups, arrays and their metadata.

Everything is made before the first slice arrives, so that the store is valid
at every moment. Axes are always t c z y x; one chunk is one whole slice, of a
colour camera with its red, green and blue, which are three channels here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from deepfocus_live.frames import Calibration
from deepfocus_live.volume._colors import RGB, channel_colors
from deepfocus_live.volume._pyramid import level_count

__all__ = [
    "ImageLayout",
    "create_image",
    "create_label",
    "create_series",
    "create_store",
    "list_label",
    "open_levels",
    "projection_layout",
    "resize",
    "shown_channels",
]

AXES = ("t", "c", "z", "y", "x")
_LABEL_CODEC = BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle")
_LABEL_COLORS = {
    "in_focus": {1: (0, 190, 255, 160)},
    "weak_label": {1: (255, 176, 0, 160)},
    "undecided": {1: (150, 150, 150, 160)},
    "corrected": {1: (60, 220, 90, 160), 2: (150, 150, 150, 160)},
}
_OTHER_COLORS = {1: (230, 70, 200, 160)}  # masks of one model of a whole run


@dataclass(frozen=True)
class ImageLayout:
    """What one image of a store looks like.

    `shape` is (t, c, z, y, x), where c counts what has labels of its own: the image's array has
    `samples_per_pixel` times as many. `levels` counts the full resolution too.
    Calibrations that are None are said to be missing: scale 1, no unit.
    """

    name: str
    shape: tuple[int, int, int, int, int]
    dtype: str
    channels: tuple[str, ...]
    pixel_size_um: Calibration | None = None
    z_step_um: Calibration | None = None
    labels: tuple[str, ...] = ()
    codec: str = "lz4"
    pixel_scale: int = 1
    """Image pixels per pixel of this array along y and x."""
    levels: int = 0
    """0: as many as the size asks for."""
    window: tuple[float, float] | None = None
    """Lowest and highest value worth showing; None: all that the dtype can hold."""
    samples_per_pixel: int = 1
    """3: each channel is red, green and blue."""
    corner_xy_um: tuple[float, float] | None = None
    """Where the centre of the image's first pixel lay under the stage; None: not known."""
    time_step_s: float | None = None
    """From one time point to the next, as planned."""
    pixels_stored: bool = True
    """Whether the image's own pixels are, or only its labels."""

    @property
    def level_shapes(self) -> list[tuple[int, int, int, int, int]]:
        """Shapes of all levels, full resolution first."""
        t, c, z, y, x = self.shape
        shapes = []
        for _ in range(self.levels or level_count(y, x)):
            shapes.append((t, c, z, y, x))
            y, x = (y + 1) // 2, (x + 1) // 2
        return shapes


def projection_layout(
    stack: ImageLayout, *, dtype: str, window: tuple[float, float] | None = None
) -> ImageLayout:
    """Return the layout of what is seen from above: one plane in place of each of the stacks."""
    t, c, _, y, x = stack.shape
    return replace(
        stack, shape=(t, c, 1, y, x), dtype=dtype, window=window, z_step_um=None, labels=()
    )


def create_store(
    path: Path, series: Sequence[str], *, plate: Mapping[str, Any] | None = None
) -> LocalStore:
    """Make an empty store in bioformats2raw layout that will hold the images `series`.

    `plate` says which of them are fields of wells; the wells' own groups are still to be made.
    """
    store = LocalStore(path)
    ome: dict[str, Any] = {"version": "0.5", "bioformats2raw.layout": 3}
    if plate is not None:
        ome["plate"] = dict(plate)
    zarr.create_group(store, attributes={"ome": ome})
    create_series(store, series)
    return store


def create_series(store: Store, series: Sequence[str]) -> None:
    """Write (again) the list of images that the store holds."""
    ome = {"version": "0.5", "series": list(series)}
    # In place, so that a reader finds the old list or the new one.
    zarr.open_group(store, path="OME", mode="a").update_attributes({"ome": ome})


def create_image(store: Store, path: str, layout: ImageLayout) -> None:
    """Make one image with all its levels and labels below `path` ('' is the store's root)."""
    attributes = {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(layout)],
            "omero": {"channels": list(_omero_channels(layout))},
        },
        "deepfocus_live": {
            "calibration": _sources(layout),
            "samples_per_pixel": layout.samples_per_pixel,
            "pixels_stored": layout.pixels_stored,
        },
    }
    zarr.create_group(store, path=path, attributes=attributes)
    codec, samples = _image_codec(layout.codec), layout.samples_per_pixel
    _create_arrays(store, path, layout, codec, layout.dtype, samples)
    if layout.labels:
        labels = {"ome": {"version": "0.5", "labels": list(layout.labels)}}
        zarr.create_group(store, path=_join(path, "labels"), attributes=labels)
    for label in layout.labels:
        create_label(store, _join(path, f"labels/{label}"), label, layout)


def create_label(store: Store, path: str, label: str, image: ImageLayout) -> None:
    """Make a label of `image` at `path` with all its levels; `list_label` makes it known."""
    attributes = {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(image, name=label)],
            "image-label": {
                "colors": [
                    {"label-value": value, "rgba": list(rgba)}
                    for value, rgba in _LABEL_COLORS.get(label, _OTHER_COLORS).items()
                ],
                "source": {"image": "../../"},
            },
        }
    }
    zarr.create_group(store, path=path, attributes=attributes)
    _create_arrays(store, path, image, _LABEL_CODEC, "uint8")


def list_label(store: Store, path: str, label: str) -> None:
    """Add a label to the list of the group `path` of labels, where it is not in it."""
    group = zarr.open_group(store, path=path, mode="r+")
    ome: Any = group.attrs["ome"]
    if label not in ome["labels"]:
        group.update_attributes({"ome": {**ome, "labels": [*ome["labels"], label]}})


def open_levels(store: Store, path: str) -> list[zarr.Array[Any]]:
    """Return the arrays of all levels of the image or label at `path`, full resolution first."""
    group = zarr.open_group(store, path=path, mode="r+" if not store.read_only else "r")
    ome = group.attrs["ome"]
    if not isinstance(ome, Mapping):
        raise ValueError(f"{store}/{path}: not an OME-Zarr image.")
    datasets = ome["multiscales"][0]["datasets"]  # type: ignore[index,call-overload]
    return [_array(group, str(dataset["path"])) for dataset in datasets]  # type: ignore[index,union-attr,call-overload]


def resize(levels: Sequence[zarr.Array[Any]], *, t: int, z: int) -> None:
    """Let the arrays hold at least `t` time points and `z` slices."""
    for array in levels:
        shape = (max(array.shape[0], t), array.shape[1], max(array.shape[2], z), *array.shape[3:])
        if shape != array.shape:
            array.resize(shape)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{group.name}/{name}: expected an array, found a group.")
    # A black slice is a slice: without its chunk it would read as never taken. (How chunks
    # are written is not part of a stored array: it is said each time that one is opened.)
    return array.with_config({"write_empty_chunks": True})


def _create_arrays(
    store: Store,
    path: str,
    layout: ImageLayout,
    codec: BytesBytesCodec | None,
    dtype: str,
    samples: int = 1,
) -> None:
    for level, (t, c, z, y, x) in enumerate(layout.level_shapes):
        zarr.create_array(
            store,
            name=_join(path, str(level)),
            shape=(t, c * samples, z, y, x),
            chunks=(1, samples, 1, y, x),
            dtype=dtype,
            compressors=None if codec is None else [codec],
            dimension_names=AXES,
            fill_value=np.nan if np.dtype(dtype).kind == "f" else 0,
        )


def _image_codec(name: str) -> BytesBytesCodec | None:
    if name == "none":
        return None
    return BloscCodec(cname=name, clevel=1 if name == "zstd" else 5, shuffle="bitshuffle")  # type: ignore[arg-type]


def _multiscale(layout: ImageLayout, *, name: str | None = None) -> dict[str, Any]:
    pixel = layout.pixel_size_um.um if layout.pixel_size_um else 1.0
    step = layout.z_step_um.um if layout.z_step_um else 1.0
    axes: list[dict[str, str]] = [
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        {"name": "z", "type": "space"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    if layout.time_step_s is not None:
        axes[0]["unit"] = "second"
    for axis, known in zip(axes[2:], (layout.z_step_um, *2 * (layout.pixel_size_um,)), strict=True):
        if known is not None:
            axis["unit"] = "micrometer"
    corner_x, corner_y = layout.corner_xy_um or (0.0, 0.0)
    datasets = []
    for level in range(len(layout.level_shapes)):
        coarser = layout.pixel_scale * 2**level
        side, shift = pixel * coarser, pixel * (coarser - 1) / 2
        scale = [layout.time_step_s or 1.0, 1.0, step, side, side]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    # The centre of a coarse pixel lies between those of its four.
                    {
                        "type": "translation",
                        "translation": [0.0, 0.0, 0.0, corner_y + shift, corner_x + shift],
                    },
                ],
            }
        )
    return {"name": name or layout.name, "axes": axes, "datasets": datasets}


def _omero_channels(layout: ImageLayout) -> Iterator[dict[str, Any]]:
    low, high = layout.window or (0, 255 if layout.dtype == "uint8" else 65535)
    window = {"min": low, "max": high, "start": low, "end": high}
    for label, rgb in shown_channels(layout):
        yield {"label": label, "color": rgb, "active": True, "window": window}


def shown_channels(layout: ImageLayout) -> Iterator[tuple[str, str]]:
    """Return name and colour ("RRGGBB") of each channel as stored: three for one in colours."""
    colors = channel_colors(layout.channels)
    for name, color in zip(layout.channels, colors, strict=True):
        if layout.samples_per_pixel == len(RGB):
            yield from ((f"{name} {part}", rgb) for part, rgb in RGB.items())
        else:
            yield name, color


def _sources(layout: ImageLayout) -> dict[str, Any]:
    return {
        key: None if value is None else {"um": value.um, "source": value.source}
        for key, value in (("pixel_size", layout.pixel_size_um), ("z_step", layout.z_step_um))
    }


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
