"""Raw slices on their short way to the disk: zarr's own bytes, and safe before they are said to be.

What a power cut would leave is reckoned: a name is kept once its folder was synced with it in it, a
file's contents once the file was.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from deepfocus_live import _platform
from deepfocus_live.volume import ImageLayout, RunWriter, create_image, open_levels
from deepfocus_live.volume._slices import SliceWriter, crc32_of
from deepfocus_live.volume._store import FolderSyncs
from tests.stored_frames import SAFE, header_of, pixels_of, run_spec


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("samples", [1, 3], ids=["grey", "colour"])
def test_file_of_a_slice_is_the_one_that_zarr_writes(
    tmp_path: Path, codec: str, dtype: str, samples: int
) -> None:
    store = LocalStore(tmp_path)
    layout = ImageLayout(
        "im", (2, 2, 3, 21, 31), dtype, ("a", "b"), codec=codec, samples_per_pixel=samples
    )
    create_image(store, "0", layout)
    array = open_levels(store, "0")[0]
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 200, (samples, 31, 21), dtype).transpose(0, 2, 1)  # not contiguous
    array[1, samples : 2 * samples, 2] = pixels
    by_zarr = tmp_path / "0/0/c/1/1/2/0/0"
    wanted = by_zarr.read_bytes()
    by_zarr.unlink()
    path = SliceWriter(array, None).write((1, 1, 2), pixels if samples == 3 else pixels[0])
    assert path == by_zarr
    assert path.read_bytes() == wanted
    np.testing.assert_array_equal(array[1, samples : 2 * samples, 2], pixels)


def test_slice_that_is_not_one_whole_chunk_is_refused(tmp_path: Path) -> None:
    layout = ImageLayout("im", (1, 1, 1, 20, 30), "uint16", ("a",))
    create_image(LocalStore(tmp_path), "", layout)
    writer = SliceWriter(open_levels(LocalStore(tmp_path), "")[0], None)
    for shape in ((30, 20), (20, 29), (2, 20, 30)):
        with pytest.raises(ValueError, match="a slice is"):
            writer.write((0, 0, 0), np.zeros(shape, np.uint16))
    assert not (tmp_path / "0/c").exists()


def test_array_of_other_codecs_is_refused(tmp_path: Path) -> None:
    blosc = BloscCodec(cname="lz4")
    array: Any = zarr.create_array(
        LocalStore(tmp_path), shape=(1, 1, 1, 4, 4), dtype="u2", compressors=[blosc, blosc]
    )
    with pytest.raises(ValueError, match="no run is compressed by"):
        SliceWriter(array, None)


@pytest.mark.parametrize("fast", [True, False])
def test_checksum_is_that_of_zlib(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagecodecs.DEFLATE, "available", fast)
    for pixels in (np.zeros((3, 4), np.uint16), pixels_of(0), pixels_of(1)[None]):
        assert crc32_of(pixels) == f"{zlib.crc32(pixels.tobytes()):08x}"
    assert len({crc32_of(np.full((2, 2), n, np.uint16)) for n in range(300)}) == 300


class _PowerCut:
    """Reckons what would be left if the power went now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self._root = root
        self._names: dict[Path, set[str]] = {}
        self._sizes: dict[int, int] = {}
        self._sync_file, self._sync_directory = _platform.sync_file, _platform.sync_directory
        monkeypatch.setattr(_platform, "sync_file", self._file)
        monkeypatch.setattr(_platform, "sync_directory", self._folder)
        self._replace = _platform.replace
        monkeypatch.setattr(_platform, "replace", self._named)
        self.torn: list[Path] = []
        """Names given to files that were not safe yet: a power cut could leave them torn."""

    def _file(self, fd: int) -> None:
        before = os.fstat(fd)
        name = os.readlink(f"/proc/self/fd/{fd}")
        if "/c/" in name and Path(name).parts[-3] == "0":
            time.sleep(0.02)  # the others find folders that this slice's worker made
        self._sizes[before.st_ino] = before.st_size

    def _folder(self, path: Path) -> None:
        names = set(os.listdir(path))
        time.sleep(0.001)
        self._names[Path(path)] = names

    def _named(self, source: Path | str, target: Path) -> None:
        file = os.stat(source)
        if self._sizes.get(file.st_ino) != file.st_size:
            self.torn.append(target)
        self._replace(source, target)

    def leaves(self, path: Path) -> bool:
        """Return whether a file would be there, whole."""
        kept = self._sizes.get(path.stat().st_ino) == path.stat().st_size
        while kept and path != self._root:
            kept = path.name in self._names.get(path.parent, ())
            path = path.parent
        return kept

    def left_of(self, path: Path) -> bytes:
        return path.read_bytes()[: self._sizes.get(path.stat().st_ino, 0)]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file was synced")
def test_power_cut_after_any_acknowledgement_leaves_slice_folders_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_spec(images=[{"name": "here", "size_t": 12, "size_z": 4}])
    writer = RunWriter.create(tmp_path, spec, SAFE, about={})
    array = writer.path / "volume.ome.zarr/0/0"
    cut = _PowerCut(monkeypatch, array)
    lost: list[str] = []
    done = threading.Semaphore(0)

    def store(number: int) -> None:
        t, z = divmod(number, 4)
        header = header_of(number, {"t": t, "z": z})
        stored = writer.write_frame(header, pixels_of(number))
        chunk = array / "c" / str(t) / "0" / str(z) / "0/0"

        def acknowledged(error: BaseException | None) -> None:
            if error is not None or not cut.leaves(chunk):
                lost.append(f"slice {number}: {error}")
            if b'"sequence_number":%d,' % number not in cut.left_of(writer.path / "frames.jsonl"):
                lost.append(f"line {number}")
            done.release()

        writer.journal_frame(header, stored, acknowledged)

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(store, range(48)))
    for _ in range(48):
        assert done.acquire(timeout=20)
    writer.close()
    assert lost == cut.torn == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no call that syncs a folder")
def test_folder_that_cannot_be_synced_keeps_its_slices_unacknowledged_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter.create(tmp_path, run_spec(), SAFE, about={})
    really_sync, refused = _platform.sync_directory, threading.Event()
    synced: list[Path] = []

    def sync(path: Path) -> None:
        if not refused.is_set() and path.name == "c":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.append(path)
        really_sync(path)

    monkeypatch.setattr(_platform, "sync_directory", sync)
    answers: list[BaseException | None] = []
    for attempt in (1, 2):
        stored = writer.write_frame(header_of(0), pixels_of(0))
        assert not stored.duplicate
        writer.journal_frame(header_of(0), stored, answers.append)
        while len(answers) < attempt:
            time.sleep(0.001)
        refused.set()
    writer.close()
    assert [getattr(error, "errno", None) for error in answers] == [errno.EIO, None]
    assert writer.frames_durable == 1
    # Nothing is new in it at the second attempt, yet its name for the slice's folder is owed.
    assert writer.path / "volume.ome.zarr/0/0/c" in synced
    assert b'"frame"' in (writer.path / "frames.jsonl").read_bytes()


def test_folders_are_synced_once_for_all_that_came_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(_platform, "sync_directory", synced.append)
    folders = FolderSyncs()
    for z in range(3):
        folders.make(tmp_path / "c" / str(z))
        folders.add(tmp_path / "c" / str(z))
    folders.sync()
    assert sorted(synced) == [tmp_path, *(tmp_path / "c" / name for name in ("", "0", "1", "2"))]
    synced.clear()
    folders.make(tmp_path / "c" / "1")
    folders.sync()
    folders.close()
    assert synced == []
