"""Where exported files go: aside first, under their names when all are done.

Design Notes
------------
Everything is written into one folder beside OUTPUT. When the last file is done the folder
becomes OUTPUT, or its files take their places in an OUTPUT that is there already. Only what
is written anew is replaced; other files in such a folder stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from deepfocus_live import _platform
from deepfocus_live.errors import InputError

__all__ = ["Destination"]


class Destination:
    """Takes the files of one export; a context manager that leaves all of them, or none.

    Parameters
    ----------
    output : Path
        A folder; or the one file's own path where `single`.
    source : Path
        What is exported: never written over.
    names : sequence of str
        Of the files; one where `single`.

    Raises
    ------
    InputError
        If OUTPUT is there and `overwrite` is not set, or what it is cannot be replaced.
    """

    def __init__(
        self, output: Path, source: Path, names: Sequence[str], *, single: bool, overwrite: bool
    ) -> None:
        self._output = output
        self._single = single
        self._partial = output.with_name(f".{output.name}.partial")
        self._targets = {name: output if single else output / name for name in names}
        refuse_existing(output, overwrite=overwrite)
        if not single and output.exists() and not output.is_dir():
            raise InputError(f"{output}: is a file; name a folder for {len(names)} files.")
        inside = output.resolve()
        if source.is_dir() and source.resolve() in (inside, *inside.parents):
            raise InputError(f"{output}: lies in what is exported; choose another OUTPUT.")
        for target in self._targets.values():
            _check_replaceable(target, source)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the files will lie."""
        return tuple(self._targets.values())

    def path(self, name: str) -> Path:
        """Return where to write a file for now."""
        return self._partial / name

    def __enter__(self) -> Self:
        try:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            # What an export that was killed had left.
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir()
        except OSError as error:
            raise InputError(
                f"{self._output}: cannot be written: {error.strerror}. Choose another OUTPUT."
            ) from None
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._place()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _place(self) -> None:
        if not self._single and not self._output.exists():
            _platform.replace(self._partial, self._output)
            return
        for name, target in self._targets.items():
            if target.is_dir():
                # A folder cannot be renamed over another: the old one goes aside first.
                _platform.replace(target, self._partial / f".old.{name}")
            _platform.replace(self._partial / name, target)


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise InputError if OUTPUT is there and may not be replaced."""
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists already. Choose another OUTPUT, or give --overwrite.")


def _check_replaceable(target: Path, source: Path) -> None:
    if not target.exists():
        return
    where = target.resolve()
    if where in (source.resolve(), *source.resolve().parents):
        raise InputError(f"{target}: is what is exported; choose another OUTPUT.")
    is_zarr = any((target / marker).is_file() for marker in (".zgroup", "zarr.json"))
    if target.is_dir() and not (target.suffix == ".zarr" and is_zarr):
        raise InputError(f"{target}: is a folder and no OME-Zarr: remove it yourself.")
    if target.is_file() and target.suffix == ".zarr":
        raise InputError(f"{target}: is a file, and no OME-Zarr is: remove it yourself.")
