"""The versions of the model, and which of them each profile uses.

Design Notes
------------
::

    <root>/versions/<name>/     model.onnx, card.json, weights.npz; written once, never changed
    <root>/profiles/<profile>/  current: one name; history: the names before it, newest last

A version comes into being by one rename of a complete folder, a profile's choice by one
replacement of its `current` file: a reader sees the old or the new, never a half. Writers of
several processes take turns through a lock file. What ships lies elsewhere and is only read;
whatever happens to the root, there is a model to fall back to.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from deepfocus_live import _platform
from deepfocus_live.config import packaged_data
from deepfocus_live.errors import InputError
from deepfocus_live.model._version import (
    CARD,
    ModelVersion,
    listed_files,
    read_version,
    verify,
)

__all__ = ["Registry", "default_root", "shipped_folder"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOCK_TIMEOUT_S = 10.0


def default_root() -> Path:
    """Return the folder of the user's own models."""
    return _platform.user_data_dir() / "models"


def shipped_folder() -> Path:
    """Return the folder of the models that ship, in a checkout or in an installed wheel."""
    return packaged_data("onnx_models")


class Registry:
    """The user's model versions, and the shipped ones behind them.

    Names of versions and profiles are letters, digits, '.', '_' and '-', 100 at most; any other is
    refused with an `InputError`.

    Parameters
    ----------
    root : path, optional
        The user's models; by default in the user's data folder. Made when first written to.
    shipped : path, optional
        Read-only folder of the models that ship: model folders, and a text file `current` that
        names one of them.
    """

    def __init__(self, root: Path | str | None = None, shipped: Path | str | None = None) -> None:
        self.root = default_root() if root is None else Path(root)
        self.shipped = shipped_folder() if shipped is None else Path(shipped)

    def versions(self) -> list[ModelVersion]:
        """Return every version that can be read: the shipped ones, then the user's by age."""
        found = [v for folder in _subfolders(self.shipped) if (v := _readable(folder))]
        own = [v for folder in _subfolders(self._versions) if (v := _readable(folder))]
        return found + sorted(own, key=lambda v: (str(v.card.get("created", "")), v.name))

    def unreadable(self) -> list[str]:
        """Return, of each folder that should be a version and cannot be read, the reason."""
        reasons = []
        for folder in [*_subfolders(self.shipped), *_subfolders(self._versions)]:
            try:
                read_version(folder)
            except InputError as error:
                reasons.append(str(error))
        return reasons

    def profiles(self) -> dict[str, str]:
        """Return, by profile, the name of the version it chose; those that chose none left out."""
        folders = _subfolders(self.root / "profiles")
        profiles = [folder.name for folder in folders if _NAME.fullmatch(folder.name)]
        return {profile: name for profile in profiles if (name := self._read_current(profile))}

    def get(self, name: str) -> ModelVersion:
        """Return the version called `name`.

        Raises
        ------
        InputError
            If there is none, naming those there are, or if its card cannot be read.
        """
        _check_name(name)
        for parent in (self._versions, self.shipped):
            if (parent / name / CARD).is_file():
                return read_version(parent / name)
        known = ", ".join(v.name for v in self.versions()) or "none"
        raise InputError(f"no model is called {name!r}; there are: {known}")

    def current(self, profile: str = "default") -> ModelVersion:
        """Return the version a profile uses, or the shipped one, with the reason.

        A version whose files do not match its card's checksums is not used.

        Raises
        ------
        InputError
            If not even the shipped model can be used.
        """
        name = self._read_current(profile)
        if name is None:
            return self.shipped_version()
        try:
            version = self.get(name)
            verify(version, open_graph=False)
        except InputError as error:
            reason = f"the current model of profile {profile!r} cannot be used: {error}"
            return replace(self.shipped_version(), fallback_reason=reason)
        return version

    def current_name(self, profile: str = "default") -> str:
        """Return the name of the version a profile uses, without looking whether it is whole.

        Raises
        ------
        InputError
            If it chose none and no model ships.
        """
        return self._read_current(profile) or self.shipped_version().name

    def shipped_version(self) -> ModelVersion:
        """Return the model that ships.

        Raises
        ------
        InputError
            If it is not there: a broken installation.
        """
        pointer = self.shipped / "current"
        if not pointer.is_file():
            raise InputError(f"{self.shipped}: holds no shipped model; install the program again")
        return read_version(self.shipped / pointer.read_text(encoding="utf-8").strip())

    def add(self, folder: Path | str) -> ModelVersion:
        """Copy a complete model folder into the registry; it is not made current.

        Parameters
        ----------
        folder : path
            Holds `model.onnx`, `card.json` and what the card lists; the card's name becomes the
            version's.

        Raises
        ------
        InputError
            If it is incomplete, damaged or no model of ours, if the name is taken, or if the
            registry cannot be written to.
        """
        source = read_version(Path(folder))
        verify(source)
        with self.staging(source.name) as staged:
            for name in [CARD, *listed_files(source.card, source.path / CARD)]:
                shutil.copyfile(source.path / name, staged / name)
        return self.get(source.name)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Yield an empty folder that becomes the version `name` when the block ends in order.

        Whatever ends the block otherwise, nothing of it stays. Whoever fills the folder answers for
        what is in it: see `verify`.

        Raises
        ------
        InputError
            If the name cannot be one or is taken, or if the registry cannot be written to.
        """
        _check_name(name)
        with self._changing():
            self._check_free(name)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".adding-") as temporary:
                staged = Path(temporary) / name
                staged.mkdir()
                yield staged
                _platform.replace(staged, self._versions / name)

    def use(self, name: str, profile: str = "default") -> ModelVersion:
        """Make a version the current one of a profile.

        Raises
        ------
        InputError
            If there is no such version, it cannot be used, or the registry cannot be written to;
            nothing is changed then.
        """
        version = self.get(name)
        verify(version)
        with self._changing():
            before = self._read_current(profile) or self.shipped_version().name
            if before != name:
                self._write(profile, "history", [*self._read_history(profile), before])
            self._write(profile, "current", [name])
        return version

    def rollback(self, profile: str = "default") -> ModelVersion:
        """Make the version before the current one current again.

        Raises
        ------
        InputError
            If the profile has no earlier version that can be used, or the registry cannot be
            written to.
        """
        with self._changing():
            now = self._read_current(profile)
            history = self._read_history(profile)
            while history:
                name = history.pop()
                if name == now:  # a crash between the two files of `use` leaves it twice
                    continue
                with contextlib.suppress(InputError):
                    version = self.get(name)
                    verify(version)
                    self._write(profile, "current", [name])
                    self._write(profile, "history", history)
                    return version
        raise InputError(f"profile {profile!r} has no earlier model to go back to")

    def can_roll_back(self, profile: str = "default") -> bool:
        """Return whether a profile has used another version before the current one."""
        now = self.current_name(profile)
        return any(name != now for name in self._read_history(profile))

    def free_name(self, stem: str) -> str:
        """Return `stem`, or `stem` with the first number that makes it unused."""
        taken = self._taken()
        numbered = (f"{stem}-{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (stem, *numbered) if name.casefold() not in taken)

    def _taken(self) -> set[str]:
        # Folded: to most file systems of Windows and macOS, Fish and fish are one name.
        names = {version.name for version in self.versions()}
        names |= {folder.name for folder in _subfolders(self._versions)}
        return {name.casefold() for name in names}

    def _check_free(self, name: str) -> None:
        if name.casefold() in self._taken():
            raise InputError(
                f"a model called {name!r} exists already; give another name "
                f"(--name {self.free_name(name)})"
            )

    @property
    def _versions(self) -> Path:
        return self.root / "versions"

    def _profile_folder(self, profile: str) -> Path:
        _check_name(profile)
        return self.root / "profiles" / profile

    def _read_current(self, profile: str) -> str | None:
        file = self._profile_folder(profile) / "current"
        try:
            return file.read_text(encoding="utf-8").strip() or None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read_history(self, profile: str) -> list[str]:
        file = self._profile_folder(profile) / "history"
        return file.read_text(encoding="utf-8").split() if file.is_file() else []

    def _write(self, profile: str, what: str, lines: list[str]) -> None:
        folder = self._profile_folder(profile)
        folder.mkdir(parents=True, exist_ok=True)
        _platform.replace_file(folder / what, "".join(f"{line}\n" for line in lines).encode())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Make the root and take the turn to change it."""
        try:
            self._versions.mkdir(parents=True, exist_ok=True)
            with self._lock():
                yield
        except OSError as error:
            raise InputError(
                f"{self.root}: cannot be written to ({error.strerror or error}); "
                "the models are as they were"
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.root / ".lock", timeout=_LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"{self.root}: another program has been changing the models for "
                f"{_LOCK_TIMEOUT_S:.0f} s; try again"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _check_name(name: str) -> None:
    # Names become folders: nothing may lead out of the registry.
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InputError(
            f"{name!r} cannot be a name of a model or profile: letters, digits, '.', '_' and '-' "
            "only, beginning with a letter or digit, 100 at most"
        )


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _readable(folder: Path) -> ModelVersion | None:
    with contextlib.suppress(InputError):
        return read_version(folder)
    return None
