"""OME-Zarr 0.4, for programs that do not read 0.5 yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from deepfocus_live.export._products import Product
from deepfocus_live.volume import ImageLayout, halve_labels, halve_mean

__all__ = ["write_ome_zarr"]

_VERSION = "0.4"
_CHUNK_PX = 1024
_CODEC: dict[str, Any] = {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 2, "blocksize": 0}
_COLORS = {
    "in_focus": {1: (0, 190, 255, 160)},
    "corrected": {1: (60, 220, 90, 160), 2: (150, 150, 150, 160)},
    "weak_label": {1: (255, 176, 0, 160)},
    "undecided": {1: (150, 150, 150, 160)},
}


def write_ome_zarr(path: Path, product: Product, labels: Sequence[Product] = ()) -> None:
    """Write a product as one image with its pyramid, and `labels` of it within."""
    store = LocalStore(path)
    _write(store, "", product)
    if labels:
        names = [str(label.label) for label in labels]
        zarr.create_group(store, path="labels", zarr_format=2, attributes={"labels": names})
    for label in labels:
        _write(store, f"labels/{label.label}", label, inside=True)


def _write(store: LocalStore, path: str, product: Product, *, inside: bool = False) -> None:
    shapes = ImageLayout(
        name="", shape=product.shape, dtype=product.dtype.name, channels=()
    ).level_shapes
    attributes = _attributes(product, len(shapes), inside=inside)
    zarr.create_group(store, path=path, zarr_format=2, attributes=attributes)
    levels = [
        _create(store, f"{path}/{level}".lstrip("/"), shape, product.dtype)
        for level, shape in enumerate(shapes)
    ]
    for place in product.places:
        plane = product.read(place)
        for number, level in enumerate(levels):
            level[place] = plane
            if number < len(levels) - 1:
                plane = _halve(product, plane)


def _create(
    store: LocalStore, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> zarr.Array[Any]:
    return zarr.create_array(
        store,
        name=path,
        shape=shape,
        chunks=(1, 1, 1, min(shape[3], _CHUNK_PX), min(shape[4], _CHUNK_PX)),
        dtype=dtype,
        compressors=_CODEC,
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        fill_value=np.nan if dtype.kind == "f" else 0,
    )


def _halve(product: Product, plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane at half the size; only counts can be averaged."""
    if product.label is not None:
        return halve_labels(plane)
    return plane[::2, ::2] if plane.dtype.kind == "f" else halve_mean(plane)


def _attributes(product: Product, levels: int, *, inside: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "multiscales": [_multiscale(product, levels)],
        "deepfocus_live": {"description": product.description, **_positions(product)},
    }
    if product.label is None:
        attributes["omero"] = {
            "version": _VERSION,
            "channels": [
                {
                    "label": name,
                    "color": "FFFFFF",
                    "active": True,
                    "window": {"min": low, "max": high, "start": low, "end": high},
                }
                for name, (low, high) in zip(
                    product.image.channel_names, product.ranges, strict=True
                )
            ],
        }
    else:
        colors = _COLORS[product.label].items()
        attributes["image-label"] = {
            "version": _VERSION,
            "colors": [{"label-value": value, "rgba": list(rgba)} for value, rgba in colors],
        }
        if inside:
            attributes["image-label"]["source"] = {"image": "../../"}
    return attributes


def _multiscale(product: Product, levels: int) -> dict[str, Any]:
    image = product.image
    pixel_size, z_step, t_step = image.pixel_size_um, product.z_step_um, image.time_step_s
    known: list[tuple[str, str, str, float | None]] = [
        ("t", "time", "second", t_step),
        ("c", "channel", "", None),
        ("z", "space", "micrometer", z_step.um if z_step else None),
        ("y", "space", "micrometer", pixel_size.um if pixel_size else None),
        ("x", "space", "micrometer", pixel_size.um if pixel_size else None),
    ]
    axes = []
    for name, kind, unit, size in known:
        axes.append({"name": name, "type": kind} | ({"unit": unit} if size is not None else {}))
    scale = [1.0 if size is None else float(size) for *_, size in known]
    datasets = []
    for level in range(levels):
        coarser = 2**level
        # The centre of a coarse pixel lies between those of its four.
        shift = [0.0, 0.0, 0.0, *(side * (coarser - 1) / 2 for side in scale[3:])]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*scale[:3], *(coarser * s for s in scale[3:])]},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    return {
        "version": _VERSION,
        "name": product.label or f"{image.name} {product.kind}",
        "axes": axes,
        "datasets": datasets,
    }


def _positions(product: Product) -> dict[str, Any]:
    """Return where the first stack was taken: its place in x and y, and z of every slice."""
    facts = [(place.z, product.planes[place]) for place in product.planes if place[:2] == (0, 0)]
    if not facts:
        return {}
    first = facts[0][1]
    return {
        "stage_um": {"x": first.x_um, "y": first.y_um},
        "z_um": {str(z): plane.z_um for z, plane in sorted(facts)},
    }
