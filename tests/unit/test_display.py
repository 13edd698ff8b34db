"""What range of counts a viewer shows: that of what was taken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from deepfocus_live.config import StorageConfig
from deepfocus_live.frames import Placement
from deepfocus_live.volume import RunWriter, VolumeFile
from deepfocus_live.volume._display import DisplayRange, _range_of
from deepfocus_live.volume._layout import ImageLayout, create_image
from tests.ome_zarr import assert_store_is_valid
from tests.stored_frames import run_spec

LAYOUT = ImageLayout(
    name="stack", shape=(1, 2, 3, 64, 80), dtype="uint16", channels=("BF", "GFP"), labels=()
)


def _range(store: Path, channel: int = 0, path: str = "") -> tuple[float, float]:
    ome: Any = zarr.open_group(str(store), path=path or None, mode="r").attrs["ome"]
    window = ome["omero"]["channels"][channel]["window"]
    assert (window["min"], window["max"]) == (0, 65535)
    return window["start"], window["end"]


def _slice(low: int, high: int) -> NDArray[np.uint16]:
    return np.linspace(low, high, 64 * 80).round().astype(np.uint16).reshape(64, 80)


def test_range_is_that_of_the_slices_of_each_channel_and_written_only_where_it_grows(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path / "a.zarr")
    create_image(store, "", LAYOUT)
    display = DisplayRange(store, "")
    assert _range(tmp_path / "a.zarr") == (0, 65535)
    assert display.look(0, _slice(100, 4100))
    assert _range(tmp_path / "a.zarr") == pytest.approx((104, 4096), abs=1)
    assert _range(tmp_path / "a.zarr", 1) == (0, 65535)
    # Within a tenth, and within what is shown: nothing is written.
    assert not display.look(0, _slice(100, 4400))
    assert not display.look(0, _slice(2000, 2100))
    # Wider at one end: the other end stays.
    assert display.look(0, _slice(2000, 9000))
    assert _range(tmp_path / "a.zarr") == pytest.approx((104, 8993), abs=1)
    # Who goes on with the image starts from what it shows.
    again = DisplayRange(store, "")
    assert not again.look(0, _slice(3000, 9000))
    assert again.look(1, np.full((64, 80), 7, np.uint16))
    assert _range(tmp_path / "a.zarr", 1) == (7, 8)
    assert_store_is_valid(tmp_path / "a.zarr", labels=False)


def test_hot_pixels_do_not_darken_the_rest() -> None:
    pixels = _slice(100, 4100)
    pixels[::16, ::40] = 65535  # one in 640
    pixels[5, 5] = 0
    low, high = _range_of(pixels)
    assert low > 95
    assert high == 65535, "more than a thousandth of the pixels is no fault of the camera's"
    pixels = _slice(100, 4100)
    pixels[3, 7] = pixels[9, 9] = 65535
    assert _range_of(pixels)[1] < 4100


def test_image_without_a_display_is_left_as_it_is(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "a.zarr")
    zarr.create_group(store, attributes={"ome": {"version": "0.5"}})
    assert not DisplayRange(store, "").look(0, _slice(0, 9))


def test_run_and_volume_file_show_what_they_hold(tmp_path: Path) -> None:
    writer = RunWriter.create(
        tmp_path / "runs", run_spec(), StorageConfig(durability="process"), about={}
    )
    writer.write_pyramid(Placement(0, 0, 0, 0), np.full((24, 40), 900, np.uint16))
    writer.close()
    assert _range(writer.path / "volume.ome.zarr", path="0") == (900, 901)
    layout = ImageLayout("a", (1, 1, 3, 64, 80), "uint16", ("BF",), labels=())
    with VolumeFile(tmp_path / "b.ome.zarr", [layout]) as file:
        file.write_slice(0, 1, _slice(100, 4100))
    assert _range(tmp_path / "b.ome.zarr") == pytest.approx((104, 4096), abs=1)
