"""One export: from a run or stack to files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepfocus_live.errors import InputError
from deepfocus_live.export._destination import Destination, refuse_existing
from deepfocus_live.export._maker import made_by
from deepfocus_live.export._products import EVERYTHING, KINDS, Product, products_of
from deepfocus_live.export._source import Source
from deepfocus_live.export._write import SUFFIXES, format_of, names_a_file, write_file

__all__ = ["Export"]


@dataclass(frozen=True)
class _File:
    name: str
    product: Product
    labels: tuple[Product, ...] = ()


class Export:
    """What a run or STACK holds, or what can be made of it, as files for other programs.

    Everything is looked at first, so that nothing is begun that cannot be finished; `write`
    does it. Slices are read and written one at a time.

    Parameters
    ----------
    path : Path
        A run directory, or anything that `open_stacks` opens.
    output : Path
        A folder for the files; or, by its name (``.tif``, ``.tiff``, ``.zarr``), the one file.
    what : str
        One of `KINDS`, or `EVERYTHING`: all of them that there are.
    form : str or None
        One of `FORMATS`; None: what the name of `output` suggests, or OME-TIFF.
    overwrite : bool
        Whether existing files may be replaced.

    Attributes
    ----------
    notes : tuple of str
        What is missing, assumed or left out, a line each.
    steps : int
        How many slices there are to work on.

    Raises
    ------
    InputError
        If there is nothing of what is asked for, or it cannot go to `output`.
    """

    def __init__(
        self,
        path: Path,
        output: Path,
        *,
        what: str = "images",
        form: str | None = None,
        overwrite: bool = False,
    ) -> None:
        if what not in (*KINDS, EVERYTHING):
            known = ", ".join((*KINDS, EVERYTHING))
            raise InputError(f"--what {what}: there is no such kind; choose {known}.")
        self._form = format_of(output, form)
        refuse_existing(output, overwrite=overwrite)
        self._advance: Callable[[str], None] = lambda _: None
        self._doing = ""
        self.steps = 0
        self._source = _open(path)
        try:
            self._files, self.notes = self._plan(what)
            self._destination = Destination(
                output,
                path,
                self._names(output),
                single=names_a_file(output),
                overwrite=overwrite,
            )
        except BaseException:
            self._source.close()
            raise

    def write(self, advance: Callable[[str], None] = lambda _: None) -> tuple[Path, ...]:
        """Write all files and return where they are; nothing is left of them if it fails.

        Parameters
        ----------
        advance : callable
            Called with a word on what is done, once for each of `steps`.

        Raises
        ------
        InputError
            If a slice cannot be scored, or read from its file, or no folder for the files can be
            made.
        OSError
            If the disk refuses a file.
        """
        self._advance = advance
        try:
            with self._destination as destination:
                for file in self._files:
                    self._doing = f"writing {file.name}"
                    path = destination.path(file.name)
                    write_file(self._form, path, file.product, file.labels)
        finally:
            self._source.close()
        return self._destination.paths

    def _step(self) -> None:
        self._advance(self._doing)

    def _plan(self, what: str) -> tuple[list[_File], tuple[str, ...]]:
        files, notes, lacking = [], list(self._source.notes), []
        about = (*self._source.about, f"exported by {made_by()}")
        for image in self._source.images:
            found = products_of(image, what, about, self._step)
            self.steps += found.steps
            lacking += found.lacking
            notes += [note for product in found.products for note in product.notes]
            files += self._files_of(found.products)
        if not files:
            raise InputError(f"{self._source.path}: {lacking[0]}.")
        left_out = (f"left out: {reason}" for reason in lacking)
        return files, tuple(dict.fromkeys((*notes, *left_out)))

    def _files_of(self, products: list[Product]) -> list[_File]:
        """Return a file for each; an OME-Zarr's images hold their labels."""
        image = [product for product in products if product.kind == "images"]
        inside: tuple[Product, ...] = ()
        if self._form == "ome-zarr-0.4" and image:
            inside = tuple(product for product in products if product.label is not None)
        return [
            _File(self._name(product), product, inside if product.kind == "images" else ())
            for product in products
            if product not in inside
        ]

    def _name(self, product: Product) -> str:
        parts = [self._source.name, product.image.tag, product.kind]
        plain = re.sub(r"[^\w.-]+", "-", "_".join(part for part in parts if part))
        return plain + SUFFIXES[self._form]

    def _names(self, output: Path) -> list[str]:
        names = [file.name for file in self._files]
        if names_a_file(output) and len(names) > 1:
            some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            raise InputError(f"{output}: there are {len(names)} files ({some}): name a folder.")
        return names


def _open(path: Path) -> Source:
    if (path / "run.json").is_file():
        from deepfocus_live.export._from_run import source_of_run

        return source_of_run(path)
    from deepfocus_live.export._from_stacks import source_of_stacks

    return source_of_stacks(path)
