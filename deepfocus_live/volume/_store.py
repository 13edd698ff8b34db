"""The store that raw slices go through: on the medium before `set` returns."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from deepfocus_live import _platform

__all__ = ["DurableStore", "sync_tree", "write_atomically"]


def write_atomically(path: Path, data: bytes | bytearray | memoryview, *, sync: bool) -> None:
    """Write `data` to `path` so that every reader sees all of it or none.

    With `sync` it has reached the medium, under its name, when this returns.
    """
    new_folders = _make_folders(path.parent)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                _platform.sync_file(file.fileno())
        _platform.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        # A folder's own name lies in its parent, so that one is synced too.
        for folder in dict.fromkeys([path.parent, *(new.parent for new in new_folders)]):
            _platform.sync_directory(folder)


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` with its parents; return those that were not there, innermost first."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
    return missing


def sync_tree(root: Path) -> None:
    """Return when every file and folder below `root` is on the medium."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb+") as file:
                _platform.sync_file(file.fileno())
        _platform.sync_directory(folder)
    _platform.sync_directory(root.parent)


class DurableStore(LocalStore):
    """A `LocalStore` whose writes are synced before they return.

    zarr writes arrays through the asynchronous path and some metadata through
    the synchronous one: both are overridden.
    """

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write `value` durably under `key`."""
        self._check_writable()
        write_atomically(self.root / key, value.as_buffer_like(), sync=True)

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        if exclusive:
            await super()._set(key, value, exclusive=True)
            return
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(
            write_atomically, self.root / key, value.as_buffer_like(), sync=True
        )
