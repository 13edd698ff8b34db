"""`bench volume`: floors and rows from known times, realistic slices, all of it run small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepfocus_live.bench import Row, _rivals, _volume
from deepfocus_live.bench._volume import (
    Effort,
    LongRun,
    long_rows,
    measure,
    simulate_slices,
    speed_rows,
)
from deepfocus_live.config import StorageConfig
from deepfocus_live.errors import InputError

_TINY = Effort(side=64, slices=4, turns=1, long_side=32, long_stack=10, long_stacks=4, window=20)
_TIMES = {
    "durable": 10.0,
    "cached": 8.0,
    "disk": 9.5,
    "compression": 6.2,
    "both": 9.0,
    "tensorstore": 20.0,
}


def _rows(**times: float) -> list[Row]:
    rows = speed_rows("4 slices", 1000.0, 1.6, {**_TIMES, **times}, workers=3, codec="lz4")
    assert all(row.group == "volume" and row.name.startswith("4 slices, ") for row in rows)
    return rows


def test_durable_rate_is_judged_by_what_the_disk_gives_for_compressed_slices() -> None:
    disk, compression, both, *_ = _rows()
    assert (disk.value, disk.ratio) == pytest.approx((100.0, 0.95))
    assert disk.met
    assert not _rows(disk=8.9)[0].met  # 0.89 of it
    assert "1.60" in str(disk.reference)
    assert (compression.ratio, both.ratio) == pytest.approx((0.62, 0.9))
    assert (compression.goal, both.goal) == (None, None)


@pytest.mark.parametrize(("seconds", "binds"), [(7.0, "disk rate"), (6.0, "lz4 compression")])
def test_lower_of_the_two_floors_is_named(seconds: float, binds: str) -> None:
    times = {"disk": seconds, "compression": 13.0 - seconds}
    lower = [row.reference for row in _rows(**times) if "lower floor" in str(row.reference)]
    assert len(lower) == 1
    assert str(lower[0]).startswith(binds)


@pytest.mark.parametrize(("seconds", "met"), [(8.0, True), (8.3, False)])
def test_page_cache_is_judged_by_compression_alone(seconds: float, met: bool) -> None:
    row = _rows(cached=seconds)[3]
    assert "page cache" in row.name
    assert row.met is met


def test_others_stand_beside_ours_and_a_missing_one_says_how_to_get_it() -> None:
    *_, tensorstore, other = _rows()
    assert (tensorstore.value, tensorstore.ratio) == pytest.approx((50.0, 0.5))
    assert "synced" in tensorstore.name
    assert other.value is None
    assert "pip install ome-writers" in other.name


def test_cost_of_a_slice_is_compared_between_the_hundredth_and_the_last() -> None:
    effort = Effort(window=200)
    first, then = np.full(5000, 0.001), np.full(5000, 0.0012)
    first[:100] = 1.0  # what is made at the beginning counts for nothing
    then[-7] = 5.0  # nor does one stumble
    acknowledged = np.r_[first, then].cumsum().tolist()
    cost, *memory = long_rows("a slice", LongRun(acknowledged, 5, 2_000_005, 2_500_005), effort)
    assert (cost.value, cost.reference_value) == pytest.approx((1.2, 1.0))
    assert cost.met is False
    assert [(row.value, row.unit) for row in memory] == [(2.0, "MB"), (0.5, "MB")]
    assert [row.name.partition("slice ")[2] for row in memory] == [
        "100 to slice 10000",
        "10000 to slice 20000",
    ]
    even = LongRun(np.full(10_000, 0.001).cumsum().tolist(), 0, 0, 0)
    assert long_rows("a slice", even, effort)[0].met


def test_slices_are_12_bit_images_with_structure_and_noise() -> None:
    one, other = (z_slice.astype(float) for z_slice in simulate_slices(2, 128))
    assert (one != other).any()
    assert 0 < one.min()
    assert one.max() < 4095
    noise = (one[:, ::2] - one[:, 1::2]).std() / np.sqrt(2)
    shot = 0.4 * np.sqrt((one.mean() - 100) / 0.4)  # gain 0.4, offset 100
    assert shot < noise < 1.5 * shot
    assert one.std() > 3 * noise


def test_table_is_complete_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_rivals, "missing", lambda rival: rival == "ome-writers")
    monkeypatch.setattr(_rivals, "tensorstore", lambda _folder, stack, _workers: len(stack) / 1e3)
    rows = measure(_TINY)
    assert len({(row.name, row.reference) for row in rows}) == len(rows) == 9
    assert [row.name for row in rows if row.value is None] == [
        "4 slices of 64 × 64 uint16, by ome-writers (pip install ome-writers)"
    ]
    assert all(row.value for row in rows[:5])
    assert rows[4].value == pytest.approx(4 * 64 * 64 * 2 / 1e6 / 4e-3)
    assert "the last 20 of 40" in rows[6].name
    assert list(tmp_path.iterdir()) == []


def test_disk_that_refuses_ends_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("full")

    stack = simulate_slices(2, 16)
    monkeypatch.setattr(_volume.RunWriter, "write_frame", refuse)
    with pytest.raises(InputError, match="full"):
        _volume._store(tmp_path, stack, StorageConfig())


@pytest.mark.parametrize("rival", _rivals.RIVALS)
def test_others_write_every_slice(rival: str, tmp_path: Path) -> None:
    if _rivals.missing(rival):
        pytest.skip("not installed")
    write = {"tensorstore": _rivals.tensorstore, "ome-writers": _rivals.ome_writers}[rival]
    stack = simulate_slices(3, 32)
    assert 0 < write(tmp_path, stack, 2) < 60
    import zarr

    (path,) = tmp_path.iterdir()
    found: Any = zarr.open(path, mode="r")
    array = found if isinstance(found, zarr.Array) else found["0"]
    np.testing.assert_array_equal(np.asarray(array).reshape(3, 32, 32), stack)
