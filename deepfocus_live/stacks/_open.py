"""From a path to its stacks."""

from __future__ import annotations

from pathlib import Path

from deepfocus_live.errors import InputError
from deepfocus_live.stacks._stack import Stack

__all__ = ["open_stack", "open_stacks"]

_FORMS = (
    "a stack is a TIFF, a folder with one image per slice or one TIFF per stack, an OME-Zarr or a "
    "run directory"
)


def open_stacks(path: str | Path) -> list[Stack]:
    """Open everything that a STACK holds: one `Stack` per position, time and channel.

    Only headers are read; slices come when they are asked for.

    Parameters
    ----------
    path : str or Path
        A TIFF, OME-TIFF or ImageJ TIFF; a folder with one image per slice (TIFF,
        PNG, BMP or JPEG, in natural order of their names), or with one TIFF per stack, each
        a position; an OME-Zarr 0.4 or 0.5 (an
        image, a bioformats2raw collection or a plate); or a run directory. A colour camera's
        slices in one are read as their luminance.

    Returns
    -------
    list of Stack
        At least one, in order of position, time and channel; each has at least
        two slices of one size, uint8, uint16 or float32.

    Raises
    ------
    InputError
        If there is nothing at `path` or it is no stack; one line that says what
        to do.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: check the path")
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path)
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}): check its rights") from error


def open_stack(path: str | Path) -> Stack:
    """Open a STACK that holds exactly one stack.

    Parameters
    ----------
    path : str or Path
        As of `open_stacks`.

    Returns
    -------
    Stack

    Raises
    ------
    InputError
        If it holds several, or as `open_stacks` does.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import tifffile
    >>> from deepfocus_live.stacks import open_stack
    >>> slices = np.arange(3 * 8 * 10, dtype=np.uint16).reshape(3, 8, 10)
    >>> about = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/beads.tif"
    ...     tifffile.imwrite(path, slices, imagej=True, metadata=about)
    ...     with open_stack(path) as stack:
    ...         stack
    ...         stack.z_step_um
    ...         bool((stack[-1] == slices[-1]).all())
    <Stack 'beads' (3, 8, 10) uint16>
    Calibration(um=2.0, source='file')
    True
    """
    stacks = open_stacks(path)
    if len(stacks) > 1:
        for stack in stacks:
            stack.close()
        names = ", ".join(stack.name for stack in stacks[:4])
        more = ", ..." if len(stacks) > 4 else ""
        raise InputError(
            f"{path}: holds {len(stacks)} stacks ({names}{more}), one is needed: "
            "export the position, time and channel you mean"
        )
    return stacks[0]


def _open_file(path: Path) -> list[Stack]:
    # Imported on use: a folder of PNGs needs no tifffile, a TIFF no zarr.
    from deepfocus_live.stacks._tiff import tiff_stacks
    from deepfocus_live.stacks._tiff_file import is_tiff

    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty: copy or export it again")
    if not is_tiff(path):
        if path.suffix.lower() in (".tif", ".tiff"):
            raise InputError(f"{path}: is not a TIFF, whatever its name: export it again")
        raise InputError(f"{path}: unsupported type {path.suffix or 'of file'}; {_FORMS}")
    return tiff_stacks(path)


def _open_folder(path: Path) -> list[Stack]:
    from deepfocus_live.stacks._folder import folder_stacks
    from deepfocus_live.stacks._zarr import is_zarr, zarr_stacks

    if is_zarr(path):
        return zarr_stacks(path)
    volume = path / "volume.ome.zarr"
    if volume.is_dir():
        stacks = zarr_stacks(volume)
        for stack in stacks:
            stack.path = path
            stack.name = stack.name.replace("volume", path.resolve().name, 1)
        return stacks
    return folder_stacks(path)
