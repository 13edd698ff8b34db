"""ImageJ's hyperstacks: one TIFF with axes TZCYX, as Fiji saves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.export import _ome_tiff
from deepfocus_live.export._ome_tiff import shown_plane
from deepfocus_live.export._products import Product
from deepfocus_live.export._source import Place

__all__ = ["write_imagej"]


def write_imagej(path: Path, product: Product) -> None:
    """Write a product plane by plane; above 4 GB in ImageJ's own way, all behind one page."""
    import tifffile

    t, c, z, y, x = product.shape
    pixel_size = product.image.pixel_size_um
    density = None if pixel_size is None else (1 / pixel_size.um, 1 / pixel_size.um)
    tifffile.imwrite(
        path,
        _planes(product),
        shape=(t, z, c, y, x),
        dtype=product.dtype,
        imagej=True,
        resolution=density,
        metadata=_metadata(product),
        truncate=product.nbytes > _ome_tiff.CLASSIC_LIMIT,
    )


def _order(product: Product) -> Iterator[Place]:
    times, channels, depth = product.shape[:3]
    for t in range(times):
        for z in range(depth):
            for c in range(channels):
                yield Place(t, c, z)


def _planes(product: Product) -> Iterator[NDArray[Any]]:
    return (shown_plane(product, product.read(place)) for place in _order(product))


def _metadata(product: Product) -> dict[str, Any]:
    image = product.image
    shown = 255.0 if product.label not in (None, "corrected") else 1.0
    ranges = [(low * shown, high * shown) for low, high in product.ranges]
    known: dict[str, Any] = {
        "axes": "TZCYX",
        "mode": "grayscale" if len(ranges) == 1 else "composite",
        "min": ranges[0][0],
        "max": ranges[0][1],
        "Ranges": tuple(value for pair in ranges for value in pair),
        "Info": product.description,
    }
    if any(image.channels):
        known["Labels"] = [image.channel_names[place.c] for place in _order(product)]
    if image.pixel_size_um is not None:
        known["unit"] = "micron"
    if product.z_step_um is not None:
        known["unit"] = "micron"
        known["spacing"] = product.z_step_um.um
    if image.time_step_s is not None:
        known["finterval"] = image.time_step_s
    return known
