"""Other libraries that do the work of `bench volume`; imported on demand, they are not ours.

Each writes the same slices, one chunk each, lz4 at level 5, and returns the seconds from the first
slice to the last one's being as safe as that library makes it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["RIVALS", "missing", "ome_writers", "tensorstore"]

RIVALS = {
    "tensorstore": "each slice's file and folder synced before it counts as written; nothing says "
    "afterwards which slices there are",
    "ome-writers": "on tensorstore; a slice counts as taken before it is written, all are synced "
    "only when the run is closed, and what is known of a slice is written then; shuffles bytes, "
    "not bits",
}
"""What each promises of a slice, in words."""


def missing(rival: str) -> bool:
    """Return whether a library of `RIVALS`, or what it writes with, is not installed."""
    needed = ("tensorstore", "ome_writers") if rival == "ome-writers" else (rival,)
    return any(find_spec(name) is None for name in needed)


def tensorstore(folder: Path, stack: Sequence[NDArray[Any]], workers: int) -> float:
    """Write a stack with tensorstore; each of `workers` threads waits for its slice."""
    import tensorstore as ts

    side = stack[0].shape
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 2, "blocksize": 0}
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(folder / "volume.zarr")},
            "metadata": {
                "shape": [1, 1, len(stack), *side],
                "data_type": "uint16",
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [1, 1, 1, *side]},
                },
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "blosc", "configuration": blosc},
                ],
            },
            "create": True,
        }
    ).result()

    def write(z: int) -> None:
        array[0, 0, z].write(stack[z]).result()

    with ThreadPoolExecutor(workers) as threads:
        begin = time.perf_counter()
        for _ in threads.map(write, range(len(stack))):
            pass
        return time.perf_counter() - begin


def ome_writers(folder: Path, stack: Sequence[NDArray[Any]], workers: int) -> float:
    """Write a stack with ome-writers, which has its own threads: `workers` says nothing to it."""
    import ome_writers as ow

    height, width = stack[0].shape
    settings = ow.AcquisitionSettings(
        root_path=str(folder / "volume.ome.zarr"),
        dimensions=(
            ow.Dimension(name="z", count=len(stack), type="space", chunk_size=1),
            ow.Dimension(name="y", count=height, type="space", chunk_size=height),
            ow.Dimension(name="x", count=width, type="space", chunk_size=width),
        ),
        dtype="uint16",
        compression="blosc-lz4",
        format=ow.OmeZarrFormat(backend="tensorstore"),
    )
    stream = ow.create_stream(settings)
    begin = time.perf_counter()
    for pixels in stack:
        stream.append(pixels)
    stream.close()
    return time.perf_counter() - begin
