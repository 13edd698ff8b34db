"""The formats: their names, file names, and who writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepfocus_live.errors import InputError
from deepfocus_live.export._products import Product

__all__ = ["FORMATS", "SUFFIXES", "format_of", "names_a_file", "write_file"]

FORMATS = ("ome-tiff", "imagej", "ome-zarr-0.4")
"""Forms of files, by the names that the command line takes."""
SUFFIXES = dict(zip(FORMATS, (".ome.tif", ".tif", ".ome.zarr"), strict=True))
_ACCEPTED = dict(zip(FORMATS, ((".tif", ".tiff"), (".tif", ".tiff"), (".zarr",)), strict=True))


def names_a_file(output: Path) -> bool:
    """Return whether OUTPUT is meant as one file (or one OME-Zarr), not as a folder of them."""
    return output.suffix.lower() in (".tif", ".tiff", ".zarr")


def format_of(output: Path, asked: str | None) -> str:
    """Return the format that is asked for, or else the one that OUTPUT's name suggests.

    Raises
    ------
    InputError
        If there is no such format, or it is not what the name says.
    """
    form = asked or ("ome-zarr-0.4" if output.suffix.lower() == ".zarr" else "ome-tiff")
    if form not in FORMATS:
        raise InputError(f"--format {form}: there is no such format; choose {', '.join(FORMATS)}.")
    if names_a_file(output) and output.suffix.lower() not in _ACCEPTED[form]:
        raise InputError(
            f"{output}: {form} ends in {SUFFIXES[form]}: choose another name, or --format."
        )
    return form


def write_file(form: str, path: Path, product: Product, labels: Sequence[Product]) -> None:
    """Write one product, in an OME-Zarr with its labels, to a path where nothing is."""
    if form == "ome-tiff":
        from deepfocus_live.export._ome_tiff import write_ome_tiff

        write_ome_tiff(path, product)
    elif form == "imagej":
        from deepfocus_live.export._imagej import write_imagej

        write_imagej(path, product)
    else:
        from deepfocus_live.export._ome_zarr import write_ome_zarr

        write_ome_zarr(path, product, labels)
