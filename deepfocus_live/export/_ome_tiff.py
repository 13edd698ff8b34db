"""OME-TIFF: tiled, losslessly compressed, one image a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.export._maker import made_by
from deepfocus_live.export._products import Product
from deepfocus_live.export._source import PlaneFacts

__all__ = ["CLASSIC_LIMIT", "shown_plane", "write_ome_tiff"]

CLASSIC_LIMIT = 2**32 - 2**28
"""Bytes of pixels up to which a TIFF's offsets, of 32 bits, are enough."""
_TILE = 256


def write_ome_tiff(path: Path, product: Product) -> None:
    """Write a product plane by plane; BigTIFF where it is large."""
    import tifffile

    tifffile.imwrite(
        path,
        _tiles(product),
        shape=product.shape,
        dtype=product.dtype,
        ome=True,
        bigtiff=product.nbytes > CLASSIC_LIMIT,
        photometric="minisblack",
        tile=(_TILE, _TILE),
        compression="zlib",
        # Differences of neighbours are smaller than counts; of floats few programs undo them.
        predictor=product.dtype.kind == "u",
        # Tiles wait for their turn to be compressed: no more than one plane of them.
        buffersize=product.dtype.itemsize * product.shape[3] * product.shape[4],
        metadata=_metadata(product),
        software=made_by(),
    )


def shown_plane(product: Product, plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane as TIFFs hold it: labels of 0 and 1 as 0 and 255, which every viewer shows."""
    if product.label is None or product.label == "corrected":
        return plane
    return plane * np.uint8(255)


def _tiles(product: Product) -> Iterator[NDArray[Any]]:
    height, width = product.shape[3:]
    for place in product.places:
        plane = shown_plane(product, product.read(place))
        for y in range(0, height, _TILE):
            for x in range(0, width, _TILE):
                inside = plane[y : y + _TILE, x : x + _TILE]
                tile = np.zeros((_TILE, _TILE), product.dtype)
                tile[: inside.shape[0], : inside.shape[1]] = inside
                yield tile


def _metadata(product: Product) -> dict[str, Any]:
    image = product.image
    known: dict[str, Any] = {
        "axes": "TCZYX",
        "Creator": made_by(),
        "Name": f"{image.name} {product.kind}",
        "Description": product.description,
        "Channel": [{"Name": name} if name else {} for name in image.channels],
    }
    lengths = (("X", image.pixel_size_um), ("Y", image.pixel_size_um), ("Z", product.z_step_um))
    for axis, length in lengths:
        if length is not None:
            known[f"PhysicalSize{axis}"] = length.um
            known[f"PhysicalSize{axis}Unit"] = "µm"
    if image.time_step_s is not None:
        known["TimeIncrement"] = image.time_step_s
        known["TimeIncrementUnit"] = "s"
    if product.planes:
        times = [facts.taken_at for facts in product.planes.values() if facts.taken_at is not None]
        begun = min(times, default=0.0)
        nothing = PlaneFacts()
        known["Plane"] = [
            _plane(product.planes.get(place, nothing), begun) for place in product.places
        ]
    return known


def _plane(facts: PlaneFacts, begun: float) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if facts.taken_at is not None:
        known |= {"DeltaT": round(facts.taken_at - begun, 6), "DeltaTUnit": "s"}
    if facts.exposure_ms is not None:
        known |= {"ExposureTime": facts.exposure_ms, "ExposureTimeUnit": "ms"}
    for axis, position in (("X", facts.x_um), ("Y", facts.y_um), ("Z", facts.z_um)):
        if position is not None:
            known |= {f"Position{axis}": position, f"Position{axis}Unit": "µm"}
    return known
