"""The memory ring: who owns a slot when, and what each kind of death leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfocus_live.frames import FrameHeader
from deepfocus_live.ring import MemoryRing, RingError
from tests.small_disk import run_on_small_disk

Pixels = NDArray[np.unsignedinteger[Any]]
SHAPE = (24, 40)
SLOT_BYTES = SHAPE[0] * SHAPE[1] * 2


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[MemoryRing]:
    ring = MemoryRing.create(tmp_path / "a.ring", slots=4, slot_bytes=SLOT_BYTES, run_room=100)
    yield ring
    ring.close(remove=True)


def _pixels(seed: int, dtype: str = "uint16", shape: tuple[int, int] = SHAPE) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def _header(number: int, pixels: Pixels) -> bytes:
    header = FrameHeader.model_validate(
        {
            "run_id": "run",
            "sequence_number": number,
            "index": {"t": 0, "z": number},
            "height_px": pixels.shape[0],
            "width_px": pixels.shape[1],
            "dtype": str(pixels.dtype),
            "z_um": number / 3,
            "taken_at": 1.5,
        }
    )
    return header.model_dump_json(exclude_none=True).encode()


def _put(ring: MemoryRing, slot: int, number: int, pixels: Pixels | None = None) -> Pixels:
    pixels = _pixels(number) if pixels is None else pixels
    ring.put(slot, _header(number, pixels), pixels, number)
    return pixels


# ------------------------------------------------------------------ frames


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda a: a, id="contiguous"),
        pytest.param(lambda a: a[::-1, ::-1], id="flipped"),
        pytest.param(lambda a: a.T, id="transposed"),
        pytest.param(lambda a: a[1:18, 3:20], id="cropped"),
        pytest.param(lambda a: a[:1, :1], id="one-pixel"),
    ],
)
def test_frame_comes_out_as_it_went_in(
    ring: MemoryRing, dtype: str, view: Callable[[Pixels], Pixels]
) -> None:
    pixels = view(_pixels(7, dtype))
    _put(ring, 1, 7, pixels)
    header, out = ring.get(1)
    np.testing.assert_array_equal(out, pixels)
    assert out.dtype == pixels.dtype
    assert (header.sequence_number, header.index, header.z_um) == (7, {"t": 0, "z": 7}, 7 / 3)
    assert header.x_um is None


def test_what_was_read_stays_when_the_slot_is_filled_again(ring: MemoryRing) -> None:
    first = _put(ring, 0, 0)
    _, read = ring.get(0)
    ring.acknowledge(0, 0)
    _put(ring, 0, 1)
    np.testing.assert_array_equal(read, first)


def test_slots_do_not_run_into_each_other(ring: MemoryRing) -> None:
    stored = [_put(ring, slot, slot) for slot in range(ring.slots)]
    for slot, pixels in enumerate(stored):
        np.testing.assert_array_equal(ring.get(slot)[1], pixels)


def test_second_mapping_sees_the_frames_and_its_acknowledgement_is_seen(ring: MemoryRing) -> None:
    pixels = _put(ring, 2, 5)
    other = MemoryRing(ring.path)
    assert (other.slots, other.slot_bytes) == (ring.slots, ring.slot_bytes)
    assert other.waiting() == [(2, 5)]
    np.testing.assert_array_equal(other.get(2)[1], pixels)
    other.acknowledge(2, 5)
    assert ring.is_free(2)
    other.close()


def _consume(path: Path) -> list[tuple[int, int]]:
    ring = MemoryRing(path)
    sums = []
    for slot, number in ring.waiting():
        sums.append((number, int(ring.get(slot)[1].sum())))
        ring.acknowledge(slot, number)
    ring.close()
    return sums


def test_another_process_stores_what_this_one_put_in(ring: MemoryRing) -> None:
    sums = [(number, int(_put(ring, 3 - number, number).sum())) for number in range(3)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_consume, (ring.path,)) == sums
    assert ring.waiting() == []


# --------------------------------------------------------- who owns a slot


def test_slot_is_free_until_filled_and_again_once_acknowledged(ring: MemoryRing) -> None:
    assert all(ring.is_free(slot) for slot in range(ring.slots))
    for number in range(3):
        _put(ring, 0, number)
        assert not ring.is_free(0)
        assert ring.is_free(1)
        ring.acknowledge(0, number)
        assert ring.is_free(0)


def test_frame_not_acknowledged_cannot_be_overwritten(ring: MemoryRing) -> None:
    first = _put(ring, 0, 0)
    with pytest.raises(RingError, match="slot 0"):
        _put(ring, 0, 1)
    assert ring.waiting() == [(0, 0)]
    np.testing.assert_array_equal(ring.get(0)[1], first)


def test_empty_and_acknowledged_slots_hold_no_frame(ring: MemoryRing) -> None:
    with pytest.raises(RingError, match="slot 3 holds no frame"):
        ring.get(3)
    _put(ring, 3, 0)
    ring.acknowledge(3, 0)
    with pytest.raises(RingError, match="slot 3 holds no frame"):
        ring.get(3)


def test_acknowledgement_of_another_frame_changes_nothing(ring: MemoryRing) -> None:
    _put(ring, 0, 4)
    ring.acknowledge(0, 4)
    _put(ring, 0, 8)
    for number in (0, 4, 7, 9):
        ring.acknowledge(0, number)
    assert ring.waiting() == [(0, 8)]


def test_frames_wait_in_the_order_they_were_taken_not_in_that_of_their_slots(
    ring: MemoryRing,
) -> None:
    for slot, number in ((0, 6), (1, 3), (2, 9), (3, 4)):
        _put(ring, slot, number)
    assert ring.waiting() == [(1, 3), (3, 4), (0, 6), (2, 9)]
    ring.acknowledge(3, 4)
    assert ring.waiting() == [(1, 3), (0, 6), (2, 9)]


@pytest.mark.parametrize(
    ("header", "shape"),
    [
        pytest.param(b"{}", (SHAPE[0] + 1, SHAPE[1]), id="pixels"),
        pytest.param(b"x" * 4096, SHAPE, id="header"),
    ],
)
def test_what_is_larger_than_a_slot_is_refused_and_the_slot_stays_free(
    ring: MemoryRing, header: bytes, shape: tuple[int, int]
) -> None:
    neighbour = _put(ring, 2, 1)
    with pytest.raises(RingError, match="do not fit a slot"):
        ring.put(1, header, _pixels(0, shape=shape), 0)
    assert ring.is_free(1)
    np.testing.assert_array_equal(ring.get(2)[1], neighbour)


def test_pixels_that_are_not_what_the_header_says_are_refused(ring: MemoryRing) -> None:
    ring.put(0, _header(0, _pixels(0)), _pixels(0, shape=(2, 2)), 0)
    with pytest.raises(RingError, match="slot 0"):
        ring.get(0)


# ------------------------------------------------------------------ the run


def test_run_is_kept_with_the_frames(ring: MemoryRing) -> None:
    assert ring.run == b""
    ring.run = b'{"path": "here"}'
    _put(ring, 0, 0)
    other = MemoryRing(ring.path)
    assert other.run == b'{"path": "here"}'
    other.close()


def test_run_cannot_begin_while_frames_of_another_wait(ring: MemoryRing) -> None:
    ring.run = b"first"
    _put(ring, 0, 0)
    with pytest.raises(RingError, match="while frames of another wait"):
        ring.run = b"second"
    assert ring.run == b"first"
    ring.acknowledge(0, 0)
    ring.run = b"second"
    assert ring.run == b"second"


def test_acknowledgements_of_an_earlier_run_say_nothing_about_the_next(ring: MemoryRing) -> None:
    ring.run = b"first"
    for number in range(ring.slots):
        _put(ring, number, number)
        ring.acknowledge(number, number)
    ring.run = b"second"
    # The same numbers in the same slots: nothing but the run tells them apart.
    for number in range(ring.slots):
        _put(ring, number, number)
    assert ring.waiting() == [(number, number) for number in range(ring.slots)]


def test_run_that_does_not_fit_is_refused_and_the_slots_are_not_touched(ring: MemoryRing) -> None:
    fitting = b"x" * 4096  # whole pages are kept for it
    too_long = b"x" * 4097
    assert ring.fits(SLOT_BYTES, fitting)
    assert not ring.fits(SLOT_BYTES, too_long)
    assert not ring.fits(SLOT_BYTES + 1, b"")
    ring.run = fitting
    with pytest.raises(RingError, match="4097"):
        ring.run = too_long
    assert ring.run == fitting
    assert ring.waiting() == []
    assert all(ring.is_free(slot) for slot in range(ring.slots))


def test_folder_of_the_run_is_kept_until_the_next_run_begins(ring: MemoryRing) -> None:
    ring.run = b"first"
    assert ring.folder is None
    _put(ring, 0, 0)
    daemon = MemoryRing(ring.path)
    for folder in (Path("runs/größer"), Path("runs/a")):
        daemon.folder = folder  # also while frames wait
        assert ring.folder == folder
    assert (ring.run, ring.waiting()) == (b"first", [(0, 0)])
    daemon.acknowledge(0, 0)
    daemon.close()
    ring.run = b"second"
    assert ring.folder is None


def test_folder_with_too_long_a_name_is_refused(ring: MemoryRing) -> None:
    ring.run = b"the run"
    with pytest.raises(RingError, match="longer than"):
        ring.folder = Path("x" * 4096)
    assert (ring.folder, ring.run) == (None, b"the run")


def test_discarded_frames_make_room_and_can_no_longer_be_acknowledged(ring: MemoryRing) -> None:
    for slot in range(ring.slots):
        _put(ring, slot, slot)
    ring.discard()
    assert all(ring.is_free(slot) for slot in range(ring.slots))
    ring.acknowledge(0, 0)  # by a daemon that was just about to
    assert ring.is_free(0)
    _put(ring, 0, 7)
    assert ring.waiting() == [(0, 7)]


# ------------------------------------------------------------------ deaths

_DIES_WHILE_COPYING = """
import mmap, sys
from pathlib import Path
import numpy as np
from deepfocus_live.ring import MemoryRing
from tests.unit.test_ring_memory import SHAPE, _header, _put

ring = MemoryRing.create(Path(sys.argv[1]), slots=3, slot_bytes=1 << 20, run_room=100)
_put(ring, 0, 0)
_put(ring, 1, 1)
ring.acknowledge(1, 1)
# The second half of these pixels lies behind the end of their file: to copy it is death.
with open(sys.argv[2], "w+b") as file:
    file.truncate(1 << 20)
    pixels = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint16).reshape(512, 1024)
    file.truncate(1 << 19)
    ring.put(int(sys.argv[3]), _header(2, pixels), pixels, 2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not cut a mapped file")
@pytest.mark.parametrize("slot", [pytest.param(1, id="used-before"), pytest.param(2, id="fresh")])
def test_slot_of_a_producer_that_died_while_copying_is_still_free(
    tmp_path: Path, slot: int
) -> None:
    path = tmp_path / "dead.ring"
    arguments = [str(path), str(tmp_path / "pixels"), str(slot)]
    died = subprocess.run([sys.executable, "-c", _DIES_WHILE_COPYING, *arguments], timeout=60)
    assert died.returncode == -signal.SIGBUS
    ring = MemoryRing(path)
    assert ring.is_free(slot)
    assert ring.waiting() == [(0, 0)]
    np.testing.assert_array_equal(ring.get(0)[1], _pixels(0))
    # It can be used as if nothing had been.
    pixels = _put(ring, slot, 9)
    np.testing.assert_array_equal(ring.get(slot)[1], pixels)
    ring.close()


_WAITS_WITH_FRAMES = """
import sys, time
from pathlib import Path
from deepfocus_live.ring import MemoryRing
from tests.unit.test_ring_memory import SLOT_BYTES, _put

ring = MemoryRing.create(Path(sys.argv[1]), slots=4, slot_bytes=SLOT_BYTES, run_room=100)
ring.run = b"the run"
for number in range(3):
    _put(ring, number, number)
print("ready", flush=True)
time.sleep(60)
"""


def test_frames_of_a_killed_producer_can_be_stored_by_whoever_opens_its_ring(
    tmp_path: Path,
) -> None:
    path = tmp_path / "killed.ring"
    producer = subprocess.Popen(
        [sys.executable, "-c", _WAITS_WITH_FRAMES, str(path)], stdout=subprocess.PIPE
    )
    with producer:
        assert producer.stdout is not None
        assert producer.stdout.readline().strip() == b"ready"
        ring = MemoryRing(path)
        assert ring.producer.pid == producer.pid
        assert ring.producer.alive()
        producer.kill()
    assert not ring.producer.alive()
    assert ring.run == b"the run"
    assert ring.waiting() == [(0, 0), (1, 1), (2, 2)]
    for slot, number in ring.waiting():
        np.testing.assert_array_equal(ring.get(slot)[1], _pixels(number))
    ring.close(remove=True)
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="killed by a signal")
@pytest.mark.parametrize("fallocate", [True, False], ids=["fallocate", "without"])
def test_ring_whose_maker_was_killed_half_way_is_refused_and_known_as_debris(
    tmp_path: Path, fallocate: bool
) -> None:
    path = tmp_path / "half.ring"
    script = [sys.executable, "-m", "tests.left_behind", str(path), str(fallocate)]
    with subprocess.Popen(script, cwd=Path(__file__).parents[2]) as maker:
        assert maker.wait(60) == -signal.SIGKILL
    with pytest.raises(RingError, match="not a whole ring"):
        MemoryRing(path)
    assert MemoryRing.is_debris(path)


def _stamped(path: Path, pid: int) -> None:
    with path.open("r+b") as file:
        file.seek(32)
        file.write(pid.to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("spoil", "debris"),
    [
        pytest.param(lambda path: None, False, id="whole"),
        pytest.param(lambda path: _stamped(path, 0), False, id="whole-of-the-dead"),
        pytest.param(lambda path: _cut(path, 4096), False, id="half-made-by-the-living"),
        pytest.param(
            lambda path: (_cut(path, 4096), _stamped(path, 0)), True, id="half-made-by-the-dead"
        ),
        pytest.param(lambda path: path.write_bytes(b""), False, id="empty-just-now"),
        pytest.param(
            lambda path: (path.write_bytes(b""), os.utime(path, (1, 1))), True, id="empty-long-ago"
        ),
        pytest.param(
            lambda path: (_other_version(path), _stamped(path, 0)), False, id="another-version"
        ),
        pytest.param(lambda path: path.unlink(), False, id="gone"),
    ],
)
def test_debris_is_only_what_nobody_can_ever_make_whole(
    ring: MemoryRing, tmp_path: Path, spoil: Callable[[Path], object], debris: bool
) -> None:
    copy = tmp_path / "copy.ring"
    copy.write_bytes(ring.path.read_bytes())
    spoil(copy)
    assert MemoryRing.is_debris(copy) == debris


def test_ring_holds_a_frame_from_its_commitment_to_its_acknowledgement(ring: MemoryRing) -> None:
    assert not ring.holds(1, 5)
    _put(ring, 1, 5)
    assert ring.holds(1, 5)
    assert not any(ring.holds(*wrong) for wrong in ((1, 4), (0, 5), (-1, 5), (4, 5), (1, 2**63)))
    ring.acknowledge(1, 5)
    assert not ring.holds(1, 5)


# ------------------------------------------------------------------- files


def test_ring_belongs_to_the_process_that_made_it(ring: MemoryRing) -> None:
    assert MemoryRing(ring.path).producer.alive()
    if sys.platform != "win32":
        assert ring.path.stat().st_mode & 0o777 == 0o600


def test_ring_in_the_place_of_another_is_refused_and_that_one_stays(ring: MemoryRing) -> None:
    pixels = _put(ring, 0, 0)
    with pytest.raises(FileExistsError):
        MemoryRing.create(ring.path, slots=2, slot_bytes=10, run_room=10)
    other = MemoryRing(ring.path)
    np.testing.assert_array_equal(other.get(0)[1], pixels)
    other.close()


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _other_version(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\x63")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"dfl-ring"), id="shorter-than-a-head"),
        pytest.param(lambda path: path.write_bytes(bytes(8192)), id="zeros"),
        pytest.param(lambda path: path.write_bytes(b"no ring at all\n" * 1000), id="text"),
        pytest.param(lambda path: _cut(path, 4096), id="cut-after-its-head"),
        pytest.param(lambda path: _cut(path, 20000), id="cut-in-a-slot"),
        pytest.param(_other_version, id="another-version"),
    ],
)
def test_file_that_is_no_whole_ring_is_refused(
    ring: MemoryRing, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    copy = tmp_path / "copy.ring"
    copy.write_bytes(ring.path.read_bytes())
    MemoryRing(copy).close()  # as it is, it is one
    spoil(copy)
    with pytest.raises(RingError, match=r"copy\.ring: not a "):
        MemoryRing(copy)


def test_ring_without_room_on_the_disk_is_refused_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    script = """
from pathlib import Path
from deepfocus_live.ring import MemoryRing

MemoryRing.create(Path("fits.ring"), slots=4, slot_bytes=4096, run_room=100).close(remove=True)
try:
    MemoryRing.create(Path("large.ring"), slots=400, slot_bytes=4096, run_room=100)
except OSError as error:
    print(error.strerror, sorted(path.name for path in Path().iterdir()))
"""
    said = run_on_small_disk(script, tmp_path, size_kb=256)
    assert said.strip() == "No space left on device []"
