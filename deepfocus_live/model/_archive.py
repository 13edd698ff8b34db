"""Model files in a zip: written the same every time, read without trusting what it says."""

from __future__ import annotations

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deepfocus_live import _platform
from deepfocus_live.errors import InputError

__all__ = ["MAX_BYTES", "ModelArchive", "check_free", "new_file", "write_zip"]

MAX_BYTES = 256 * 2**20
"""Bytes, unpacked; a model that claims more is refused before anything is unpacked."""

_MAX_TEXT_BYTES = 2**20
_BLOCK_BYTES = 2**20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class ModelArchive:
    """A zip that may hold a model, perhaps in one folder; to be used as a context manager.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
        If it is no whole zip, or holds names that lead out of it, links or a name twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise self._damaged(error) from error
        try:
            self._entries = self._checked_entries()
        except InputError:
            self._zip.close()
            raise

    def __enter__(self) -> ModelArchive:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """What lies in it, folders and what macOS adds left out."""
        return list(self._entries)

    def folder_of(self, name: str) -> str | None:
        """Return the folder in the zip that holds `name`, "" for the top; None: no single one."""
        folders = [n.removesuffix(name) for n in self._entries if f"/{n}".endswith(f"/{name}")]
        shallow = [folder for folder in folders if folder.count("/") <= 1]
        return "" if "" in shallow else shallow[0] if len(shallow) == 1 else None

    def read_text(self, name: str) -> str:
        """Return a short text.

        Raises
        ------
        InputError
            If it is longer than 1 MiB, not UTF-8, or damaged.
        """
        self._check_size([name], _MAX_TEXT_BYTES)
        try:
            return self._zip.read(self._entries[name]).decode("utf-8")
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def unpack(self, names: Sequence[str], folder: Path) -> None:
        """Write files of the zip into `folder`, each under the last part of its name.

        Raises
        ------
        InputError
            If one is missing or damaged, or if together they are more than `MAX_BYTES`.
        OSError
            If `folder` cannot be written to.
        """
        for name in names:
            if name not in self._entries:
                raise InputError(f"{self.path}: holds no {name}, which its card lists")
        self._check_size(names, MAX_BYTES)
        for name in names:
            with (folder / Path(name).name).open("wb") as file:
                for block in self._blocks(name):
                    file.write(block)

    def _blocks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._entries[name]) as entry:
                # Never more comes out than the size that was checked.
                while block := entry.read(_BLOCK_BYTES):
                    yield block
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _check_size(self, names: Sequence[str], limit: int) -> None:
        size = sum(self._entries[name].file_size for name in names)
        if size > limit:
            raise InputError(
                f"{self.path}: unpacks to {size / 2**20:.0f} MiB; at most "
                f"{limit / 2**20:.0f} MiB are taken, so it is no model of ours"
            )

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            name = entry.filename
            parts = name.rstrip("/").split("/")
            if any(part in ("", ".", "..") or set(part) & set("\\:") for part in parts):
                raise InputError(f"{self.path}: holds {name!r}, a name that can lead out of it")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise InputError(f"{self.path}: holds {name!r}, a link; put the file itself in")
            if name in entries:
                raise InputError(f"{self.path}: holds {name!r} twice")
            if not entry.is_dir() and parts[0] != "__MACOSX":
                entries[name] = entry
        return entries

    def _damaged(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path}: is not a whole zip ({error or type(error).__name__}); get it again"
        )


def write_zip(path: Path, contents: Mapping[str, Path | bytes]) -> None:
    """Write a zip whose bytes follow from `contents` alone: no times, no owner, one order.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    contents : mapping
        By name in the zip, a file to copy or the bytes themselves.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)  # of 1980, the first year that a zip knows
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = 0o644 << 16
            data = content if isinstance(content, bytes) else content.read_bytes()
            archive.writestr(entry, data)


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a name beside `path` to write to; it becomes `path` when the block ends in order.

    Raises
    ------
    InputError
        If `path` exists and may not be overwritten, or if it cannot be written.
    """
    check_free(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.new")
    try:
        yield temporary
        _platform.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot or may not be written.

    Raises
    ------
    InputError
        If it is a folder, its own folder is missing, or it exists and is not to be overwritten.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; give another name, or --overwrite")
