"""Reading a STACK in every form, what files get wrong, and bad input."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from deepfocus_live.errors import InputError
from deepfocus_live.frames import Calibration
from deepfocus_live.stacks import open_stack, open_stacks
from deepfocus_live.stacks._names import natural_key

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def numbered(shape: tuple[int, ...], dtype: str = "uint16") -> NDArray[Any]:
    """Return pixels that are all different, as far as the dtype allows."""
    return np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(dtype)


# --- TIFF ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"ome": True}, id="ome"),
        pytest.param({"imagej": True, "metadata": {"axes": "ZYX"}}, id="imagej"),
        pytest.param({"bigtiff": True, "compression": "zlib"}, id="bigtiff-zlib"),
        pytest.param({"compression": "lzw"}, id="lzw"),
        pytest.param({"byteorder": ">"}, id="big-endian"),
        pytest.param({"tile": (16, 16)}, id="tiled"),
    ],
)
def test_every_kind_of_tiff_reopens_with_the_same_pixels(
    tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    z_stack = numbered((5, 30, 40), dtype)
    tifffile.imwrite(tmp_path / "a.tif", z_stack, photometric="minisblack", **options)
    with open_stack(tmp_path / "a.tif") as stack:
        assert (stack.name, stack.shape, stack.dtype) == ("a", (5, 30, 40), np.dtype(dtype))
        assert len(stack) == 5
        np.testing.assert_array_equal(stack.read(), z_stack)
        np.testing.assert_array_equal(stack[-1], z_stack[4])
        for got, want in zip(stack, z_stack, strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.flags.writeable
            assert got.dtype.isnative


@pytest.mark.parametrize("options", [{"ome": True}, {"imagej": True}], ids=["ome", "imagej"])
@pytest.mark.parametrize("axes", ["TYX", "CYX"])
def test_a_stack_whose_writer_called_its_slices_otherwise_is_read_and_said(
    tmp_path: Path, options: dict[str, Any], axes: str
) -> None:
    z_stack = numbered((5, 8, 9))
    tifffile.imwrite(
        tmp_path / "a.tif",
        z_stack,
        metadata={"axes": axes, "mode": "grayscale"},
        photometric="minisblack",
        **options,
    )
    with open_stack(tmp_path / "a.tif") as stack:
        np.testing.assert_array_equal(stack.read(), z_stack)
        assert "read as slices" in stack.notes[0]


def test_channels_that_have_names_are_no_slices(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        numbered((2, 8, 9)),
        ome=True,
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["dapi", "gfp"]}},
    )
    with pytest.raises(InputError, match="2-D image"):
        open_stacks(tmp_path / "a.tif")


def test_a_closed_stack_reads_again(tmp_path: Path) -> None:
    z_stack = numbered((3, 8, 9))
    tifffile.imwrite(tmp_path / "a.tif", z_stack, photometric="minisblack")
    stack = open_stack(tmp_path / "a.tif")
    stack.close()
    np.testing.assert_array_equal(stack[1], z_stack[1])
    stack.close()
    with pytest.raises(IndexError, match="slices 0 to 2, not 3"):
        stack[3]


def test_ome_tiff_gives_a_stack_per_position_time_and_channel(tmp_path: Path) -> None:
    pixels = numbered((2, 3, 2, 4, 8, 9))  # position, t, c, z, y, x
    path = tmp_path / "run.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for image in pixels:
            writer.write(
                np.moveaxis(image, 1, 2),  # stored t z c: the reader must not assume an order
                photometric="minisblack",
                metadata={"axes": "TZCYX", "Channel": {"Name": ["dic", "gfp"]}},
            )
    stacks = open_stacks(path)
    assert [stack.name for stack in stacks][:3] == ["run-p0-t0-c0", "run-p0-t0-c1", "run-p0-t1-c0"]
    assert len(stacks) == 12
    for stack in stacks:
        want = pixels[stack.position, stack.time, stack.channel]
        np.testing.assert_array_equal(stack.read(), want)
        assert stack.channel_name == ("dic", "gfp")[stack.channel]
    stacks[0].close()


def test_imagej_hyperstack_is_split_by_time_and_channel(tmp_path: Path) -> None:
    pixels = numbered((2, 4, 3, 8, 9))  # t z c y x, as ImageJ stores it
    path = tmp_path / "hyper.tif"
    tifffile.imwrite(
        path,
        pixels,
        imagej=True,
        resolution=(4.0, 4.0),
        metadata={"axes": "TZCYX", "spacing": 0.5, "unit": "um"},
    )
    stacks = open_stacks(path)
    assert len(stacks) == 6
    for stack in stacks:
        np.testing.assert_array_equal(stack.read(), pixels[stack.time, :, stack.channel])
        assert stack.pixel_size_um == Calibration(0.25, "file")
        assert stack.z_step_um == Calibration(0.5, "file")
    stacks[0].close()


def test_imagej_stack_with_one_page_for_all_slices_is_read(tmp_path: Path) -> None:
    z_stack = numbered((6, 20, 30))
    path = tmp_path / "big.tif"
    with tifffile.TiffWriter(path, byteorder=">") as writer:  # as ImageJ does beyond 4 GB
        writer.write(
            z_stack[0],
            contiguous=False,
            metadata=None,
            photometric="minisblack",
            description="ImageJ=1.54\nimages=6\nslices=6\nunit=\\u00B5m\nspacing=2.0\n",
        )
    with path.open("ab") as file:
        file.write(z_stack[1:].astype(">u2").tobytes())
    with tifffile.TiffFile(path) as written:
        ends_with_first_plane = written.pages.first.dataoffsets[0] + 1200
    if ends_with_first_plane + 5 * 1200 != path.stat().st_size:
        pytest.skip("this tifffile does not end its file with the pixels")
    with open_stack(path) as stack:
        np.testing.assert_array_equal(stack.read(), z_stack)
        assert stack.z_step_um == Calibration(2.0, "file")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="holds fewer: it is truncated"):
        open_stack(path)


def test_three_equal_colour_channels_become_one(tmp_path: Path) -> None:
    z_stack = numbered((4, 20, 21), "uint8")
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([z_stack] * 3, axis=-1), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "planar.tif",
        np.stack([z_stack] * 3, axis=1),
        photometric="rgb",
        planarconfig="separate",
    )
    for name in ("rgb.tif", "planar.tif"):
        with open_stack(tmp_path / name) as stack:
            np.testing.assert_array_equal(stack.read(), z_stack)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "int64"])
def test_integers_that_fit_are_read_as_uint16(tmp_path: Path, dtype: str) -> None:
    # Label images of napari and others are often int32 or int64.
    z_stack = np.arange(2 * 6 * 7).reshape(2, 6, 7).astype(dtype)
    tifffile.imwrite(tmp_path / "labels.tif", z_stack, photometric="minisblack")
    with open_stack(tmp_path / "labels.tif") as stack:
        assert stack.dtype == np.uint16
        np.testing.assert_array_equal(stack.read(), z_stack)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_that_do_not_fit_are_refused_when_read(tmp_path: Path, value: int) -> None:
    z_stack = np.zeros((2, 6, 7), np.int32)
    z_stack[1, 2, 3] = value
    tifffile.imwrite(tmp_path / "a.tif", z_stack, photometric="minisblack")
    with open_stack(tmp_path / "a.tif") as stack:
        assert not stack[0].any()
        with pytest.raises(InputError, match=f"slice 1 has values from .*{value}.* 0 to 65535"):
            stack[1]


def test_booleans_are_read_as_uint8(tmp_path: Path) -> None:
    z_stack = np.indices((3, 6, 7)).sum(0) % 2 == 0
    tifffile.imwrite(tmp_path / "masks.tif", z_stack, photometric="minisblack")
    with open_stack(tmp_path / "masks.tif") as stack:
        assert stack.dtype == np.uint8
        np.testing.assert_array_equal(stack.read(), z_stack)


def test_a_colour_stack_is_refused_when_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", numbered((4, 20, 21, 3), "uint8"), photometric="rgb")
    with open_stack(tmp_path / "rgb.tif") as stack, pytest.raises(InputError, match="colour image"):
        stack[0]


# --- OME-XML that is wrong ----------------------------------------------------------------


def ome_tiff(
    path: Path, z_stack: NDArray[Any], pixels: str = "", inside: str = "", uuid: str = ""
) -> None:
    """Write a TIFF with hand-made OME-XML."""
    n_z, n_y, n_x = z_stack.shape
    description = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{uuid}>'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        f'SizeX="{n_x}" SizeY="{n_y}" SizeC="1" SizeT="1" SizeZ="{n_z}" {pixels}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{inside or "<TiffData/>"}'
        "</Pixels></Image></OME>"
    )
    with tifffile.TiffWriter(path) as writer:
        for z, z_slice in enumerate(z_stack):
            writer.write(
                z_slice,
                contiguous=False,
                metadata=None,
                description=description.encode() if z == 0 else None,
            )


def test_ome_xml_that_names_absent_files_still_gives_the_slices_that_are_here(
    tmp_path: Path,
) -> None:
    z_stack = numbered((4, 8, 9))
    inside = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="gone_{z}.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(4)
    )
    ome_tiff(tmp_path / "a.ome.tif", z_stack, inside=inside)
    with open_stack(tmp_path / "a.ome.tif") as stack:
        np.testing.assert_array_equal(stack.read(), z_stack)
        assert "0 planes in this file, which has 4 pages" in stack.notes[0]


def test_a_renamed_ome_tiff_is_read_in_the_order_of_its_xml(tmp_path: Path) -> None:
    z_stack = numbered((3, 8, 9))
    inside = "".join(
        f'<TiffData IFD="{2 - z}" FirstZ="{z}" PlaneCount="1">'
        '<UUID FileName="before.ome.tif">urn:uuid:1</UUID></TiffData>'
        for z in range(3)
    )
    ome_tiff(tmp_path / "after.ome.tif", z_stack, inside=inside)
    with open_stack(tmp_path / "after.ome.tif") as stack:
        np.testing.assert_array_equal(stack.read(), z_stack[::-1])
        assert stack.notes == ()


def test_slices_of_one_file_of_a_set_are_read_and_the_missing_are_said(tmp_path: Path) -> None:
    z_stack = numbered((3, 8, 9))
    inside = "".join(
        f'<TiffData IFD="{z % 3}" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="{"ab"[z // 3]}.ome.tif">urn:uuid:{z // 3}</UUID></TiffData>'
        for z in range(6)
    )
    ome_tiff(tmp_path / "b.ome.tif", z_stack, inside=inside)
    xml = (tmp_path / "b.ome.tif").read_bytes().replace(b'SizeZ="3"', b'SizeZ="6"')
    (tmp_path / "b.ome.tif").write_bytes(xml)
    with open_stack(tmp_path / "b.ome.tif") as stack:
        np.testing.assert_array_equal(stack.read(), z_stack)
        assert stack.notes == ("its OME-XML lists 6 slices, this file holds 3",)


def test_slice_positions_win_over_a_contradicting_z_step(tmp_path: Path) -> None:
    planes = "".join(
        f'<Plane TheZ="{z}" TheC="0" TheT="0" PositionZ="{-1.0 + 0.002 * z}" PositionZUnit="mm"/>'
        for z in range(4)
    )
    ome_tiff(
        tmp_path / "a.ome.tif",
        numbered((4, 8, 9)),
        pixels='PhysicalSizeZ="1.5" PhysicalSizeZUnit="µm" '
        'PhysicalSizeX="0.5" PhysicalSizeXUnit="μm"',
        inside="<TiffData/>" + planes,
    )
    with open_stack(tmp_path / "a.ome.tif") as stack:
        assert stack.z_step_um is not None
        assert stack.z_step_um.um == pytest.approx(2.0)
        assert stack.z_um == pytest.approx([-1000, -998, -996, -994])
        assert stack.pixel_size_um == Calibration(0.5, "file")
        assert stack.notes == (
            "the file's z-step is 1.5 µm, its slices are 2 µm apart: "
            "the slices' positions are used",
        )


@pytest.mark.parametrize(
    ("pixels", "step", "note"),
    [
        pytest.param('PhysicalSizeZ="0.3" PhysicalSizeZUnit="µm"', (0.3, "file"), None, id="said"),
        pytest.param('PhysicalSizeZ="300" PhysicalSizeZUnit="nm"', (0.3, "file"), None, id="nm"),
        pytest.param('PhysicalSizeZ="0.3"', (0.3, "assumed"), "µm is assumed", id="no-unit"),
        pytest.param('PhysicalSizeZ="0.3" PhysicalSizeZUnit="pixel"', None, None, id="pixel"),
        pytest.param('PhysicalSizeZ="0"', None, None, id="zero"),
        pytest.param("", None, None, id="nothing"),
    ],
)
def test_z_step_says_where_its_unit_is_from_and_is_never_guessed(
    tmp_path: Path, pixels: str, step: tuple[float, Any] | None, note: str | None
) -> None:
    ome_tiff(tmp_path / "a.ome.tif", numbered((3, 8, 9)), pixels=pixels)
    with open_stack(tmp_path / "a.ome.tif") as stack:
        if step is None:
            assert stack.z_step_um is None
            assert stack.z_um is None
        else:
            assert stack.z_step_um is not None
            assert stack.z_step_um.um == pytest.approx(step[0])
            assert stack.z_step_um.source == step[1]
            assert stack.z_um == pytest.approx([0, 0.3, 0.6])
        assert any(note in said for said in stack.notes) if note else stack.notes == ()


def test_malformed_ome_xml_is_said_and_the_pages_are_read(tmp_path: Path) -> None:
    z_stack = numbered((3, 8, 9))
    ome_tiff(tmp_path / "a.ome.tif", z_stack, pixels='broken="')
    with open_stack(tmp_path / "a.ome.tif") as stack:
        np.testing.assert_array_equal(stack.read(), z_stack)
        assert "malformed" in stack.notes[0]


# --- folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_folder_is_read_in_the_order_a_person_would_count(tmp_path: Path, suffix: str) -> None:
    z_stack = numbered((12, 8, 9))
    for z, z_slice in enumerate(z_stack):
        if suffix == ".tif":
            tifffile.imwrite(tmp_path / f"img_z{z}{suffix}", z_slice)
        else:
            Image.fromarray(z_slice).save(tmp_path / f"img_z{z}{suffix}")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._img_z0.tif").write_bytes(b"left by another system")
    stack = open_stack(tmp_path)
    assert stack.name == tmp_path.name
    assert stack.dtype == np.uint16
    assert stack.pixel_size_um is stack.z_step_um is None
    np.testing.assert_array_equal(stack.read(), z_stack)


def test_a_folder_of_stacks_has_each_file_as_a_position(tmp_path: Path) -> None:
    two_times = numbered((2, 3, 8, 9))
    tifffile.imwrite(tmp_path / "embryo_10.tif", two_times, imagej=True, metadata={"axes": "TZYX"})
    other = numbered((4, 6, 5))
    tifffile.imwrite(
        tmp_path / "embryo_2.tif", other, imagej=True, metadata={"axes": "ZYX", "spacing": 5}
    )
    tifffile.imwrite(tmp_path / "embryo_2.ome.tif", other + 1, metadata={"axes": "ZYX"})
    stacks = open_stacks(tmp_path)
    found = [(stack.name, stack.position, stack.time, stack.path.name) for stack in stacks]
    assert found == [
        ("embryo_2.ome.tif", 0, 0, "embryo_2.ome.tif"),
        ("embryo_2.tif", 1, 0, "embryo_2.tif"),
        ("embryo_10-t0", 2, 0, "embryo_10.tif"),
        ("embryo_10-t1", 2, 1, "embryo_10.tif"),
    ]
    np.testing.assert_array_equal(stacks[0].read(), other + 1)
    assert (stacks[1].z_step_um or Calibration(0, "none")).um == 5
    np.testing.assert_array_equal(stacks[3].read(), two_times[1])
    for stack in stacks:
        stack.close()


def test_rgb_pngs_with_equal_channels_become_grey(tmp_path: Path) -> None:
    z_stack = numbered((3, 8, 9), "uint8")
    for z, z_slice in enumerate(z_stack):
        Image.fromarray(np.stack([z_slice] * 3, axis=-1)).save(tmp_path / f"{z}.png")
    np.testing.assert_array_equal(open_stack(tmp_path).read(), z_stack)


def test_natural_order_puts_two_before_ten() -> None:
    names = ["z10.tif", "z2.tif", "Z1.tif", "a.tif", "z2b.tif", "10.tif", "9.tif"]
    assert sorted(names, key=natural_key) == [
        "9.tif",
        "10.tif",
        "a.tif",
        "Z1.tif",
        "z2.tif",
        "z2b.tif",
        "z10.tif",
    ]


# --- OME-Zarr -----------------------------------------------------------------------------

Version = str


def write_image(
    group: zarr.Group,
    pixels: NDArray[Any],
    version: Version,
    axes: str = "tczyx",
    unit: str | None = "micrometer",
    scale: tuple[float, ...] = (1, 1, 2.0, 0.5, 0.5),
    chunk_px: int = 16,
) -> None:
    """Write one OME-Zarr image of `version` into `group`."""
    array = group.create_array(
        "0",
        shape=pixels.shape,
        dtype=pixels.dtype,
        chunks=(1,) * (pixels.ndim - 2) + (chunk_px, chunk_px),
    )
    array[...] = pixels
    kinds = {"t": "time", "c": "channel"}
    listed = []
    for axis in axes:
        entry = {"name": axis, "type": kinds.get(axis, "space")}
        if unit is not None and axis in "zyx":
            entry["unit"] = unit
        listed.append(entry)
    scales = [
        {
            "version": version,
            "axes": listed,
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [
                        {"type": "scale", "scale": list(scale[-pixels.ndim :])}
                    ],
                }
            ],
        }
    ]
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
    else:
        group.attrs["multiscales"] = scales


def new_group(path: Path, version: Version) -> zarr.Group:
    return zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_bare_ome_zarr_image_gives_a_stack_per_time_and_channel(
    tmp_path: Path, version: Version
) -> None:
    pixels = numbered((2, 3, 5, 20, 22))
    write_image(new_group(tmp_path / "a.ome.zarr", version), pixels, version)
    stacks = open_stacks(tmp_path / "a.ome.zarr")
    assert [stack.name for stack in stacks][:2] == ["a-t0-c0", "a-t0-c1"]
    assert len(stacks) == 6
    for stack in stacks:
        np.testing.assert_array_equal(stack.read(), pixels[stack.time, stack.channel])
        assert stack.z_step_um == Calibration(2.0, "file")
        assert stack.pixel_size_um == Calibration(0.5, "file")
        assert stack.z_um == pytest.approx([0, 2, 4, 6, 8])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_zyx_image_without_units_is_one_stack_with_an_assumed_step(
    tmp_path: Path, version: Version
) -> None:
    pixels = numbered((5, 20, 22))
    group = new_group(tmp_path / "a.ome.zarr", version)
    write_image(group, pixels, version, axes="zyx", unit=None)
    stack = open_stack(tmp_path / "a.ome.zarr")
    assert (stack.name, stack.shape) == ("a", (5, 20, 22))
    np.testing.assert_array_equal(stack[3], pixels[3])
    assert stack.z_step_um == Calibration(2.0, "assumed")
    assert "µm is assumed" in stack.notes[0]


def test_a_scale_of_one_without_unit_is_no_calibration(tmp_path: Path) -> None:
    group = new_group(tmp_path / "a.zarr", "0.5")
    write_image(group, numbered((2, 8, 9)), "0.5", axes="zyx", unit=None, scale=(1, 1, 1))
    stack = open_stack(tmp_path / "a.zarr")
    assert stack.z_step_um is stack.pixel_size_um is stack.z_um is None


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_position_of_a_bioformats2raw_collection_is_read(
    tmp_path: Path, version: Version
) -> None:
    root = new_group(tmp_path / "a.zarr", version)
    marker = {"bioformats2raw.layout": 3}
    root.attrs.update({"ome": {"version": "0.5", **marker}} if version == "0.5" else marker)
    images = [numbered((1, 1, n_z, 20, 22)) for n_z in (3, 5, 1)]
    for index, pixels in enumerate(images):
        write_image(root.create_group(str(index)), pixels, version)
    stacks = open_stacks(tmp_path / "a.zarr")
    assert [stack.name for stack in stacks] == ["a-p0", "a-p1"]
    for stack in stacks:
        np.testing.assert_array_equal(stack.read(), images[stack.position][0, 0])
        assert stack.notes == ("1 of its 3 images have one slice: left out",)


def test_fields_of_a_plate_are_positions(tmp_path: Path) -> None:
    root = new_group(tmp_path / "p.zarr", "0.5")
    root.attrs["ome"] = {"version": "0.5", "plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}
    for place in ("A/1", "B/2"):
        well = root.create_group(place)
        well.attrs["ome"] = {"version": "0.5", "well": {"images": [{"path": "0"}]}}
        write_image(well.create_group("0"), numbered((1, 1, 3, 8, 9)), "0.5")
    assert [stack.name for stack in open_stacks(tmp_path / "p.zarr")] == ["p-p0", "p-p1"]


def test_a_run_directory_is_its_volume(tmp_path: Path) -> None:
    run = tmp_path / "2024-05-06_run"
    run.mkdir()
    root = new_group(run / "volume.ome.zarr", "0.5")
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    pixels = numbered((2, 1, 3, 8, 9))
    write_image(root.create_group("0"), pixels, "0.5")
    stacks = open_stacks(run)
    assert [stack.name for stack in stacks] == ["2024-05-06_run-t0", "2024-05-06_run-t1"]
    assert stacks[1].path == run
    np.testing.assert_array_equal(stacks[1].read(), pixels[1, 0])


# --- bad input ----------------------------------------------------------------------------


def _file(content: bytes, name: str = "a.tif") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _tiff(pixels: NDArray[Any], **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", pixels, photometric="minisblack", **options)
        return folder / "a.tif"

    return write


def _folder(*slices: tuple[str, NDArray[Any]]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for name, pixels in slices:
            tifffile.imwrite(folder / name, pixels, photometric="minisblack")
        return folder

    return write


def _two_sizes(folder: Path) -> Path:
    with tifffile.TiffWriter(folder / "a.tif") as writer:
        for side in (8, 8, 9):
            writer.write(np.zeros((8, side), np.uint8), contiguous=False)
    return folder / "a.tif"


def _zarr_without_image(folder: Path) -> Path:
    new_group(folder / "a.zarr", "0.5")
    return folder / "a.zarr"


def _broken_zarr(folder: Path) -> Path:
    group = new_group(folder / "a.zarr", "0.5")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": [{"path": "nowhere"}]}]}
    return folder / "a.zarr"


SLICE = np.zeros((8, 9), np.uint8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda folder: folder / "no.tif", "no such file", id="missing"),
        pytest.param(_file(b""), "empty", id="empty-file"),
        pytest.param(_file(b"hello, this is text"), "is not a TIFF", id="text-called-tif"),
        pytest.param(_file(b"II*\0" + b"\xff" * 40), "TIFF", id="garbage"),
        pytest.param(_file(b"hello", "a.czi"), "unsupported type .czi", id="unsupported"),
        pytest.param(_tiff(SLICE), "at least 2 slices", id="2-D-tiff"),
        pytest.param(_tiff(np.zeros((3, 8, 9))), "float64; stacks are", id="float64"),
        pytest.param(_tiff(np.zeros((3, 8, 9), np.complex64)), "complex64; stacks", id="complex"),
        pytest.param(_two_sizes, "slice 2 is 8 x 9 .* began with 8 x 8", id="sizes-in-tiff"),
        pytest.param(_folder(), "no images in this folder", id="empty-folder"),
        pytest.param(_folder(("a.tif", SLICE)), "one image, a.tif", id="one-image"),
        pytest.param(
            _folder(("a1.tif", SLICE), ("a2.tif", SLICE[:, 1:])),
            "slice a2.tif is 8 x 8 .* began with 8 x 9",
            id="sizes-in-folder",
        ),
        pytest.param(
            _folder(("a1.tif", SLICE), ("a2.tif", np.zeros((3, 8, 9), np.uint8))),
            "a2.tif holds several slices, a1.tif one",
            id="stack-in-folder",
        ),
        pytest.param(_zarr_without_image, "no OME-Zarr image", id="zarr-without-image"),
        pytest.param(_broken_zarr, "cannot be used", id="broken-zarr"),
    ],
)
def test_bad_input_gets_one_line_that_names_the_path(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        open_stacks(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_png_in_a_folder_is_named(tmp_path: Path) -> None:
    for z in range(3):
        Image.fromarray(SLICE).save(tmp_path / f"{z}.png")
    (tmp_path / "1.png").write_bytes(b"no png")
    with pytest.raises(InputError, match=r"1\.png: cannot be read as an image"):
        open_stacks(tmp_path)


@pytest.mark.parametrize("options", [{}, {"ome": True}, {"compression": "zlib"}, {"bigtiff": True}])
def test_a_truncated_tiff_is_never_taken_for_a_shorter_stack(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(
        path, ome=options.get("ome", False), bigtiff=options.get("bigtiff", False)
    ) as writer:
        for z_slice in numbered((6, 20, 20)):
            writer.write(z_slice, contiguous=False, compression=options.get("compression"))
    if "ome" in options:
        tifffile.imwrite(path, numbered((6, 20, 20)), ome=True)
    whole = path.read_bytes()
    for end in range(5, len(whole), len(whole) // 37):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError) as caught:
            open_stack(path)
        assert "\n" not in str(caught.value)


def test_a_slice_that_cannot_be_decoded_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbered((3, 40, 40)), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[1].dataoffsets[0], tiff.pages[1].databytecounts[0]
    damaged = bytearray(path.read_bytes())
    damaged[start : start + count] = b"\xff" * count
    path.write_bytes(bytes(damaged))
    with open_stack(path) as stack:
        stack[0], stack[2]
        with pytest.raises(InputError, match="slice 1 cannot be read") as caught:
            stack[1]
        assert "\n" not in str(caught.value)


def test_open_stack_refuses_several_and_names_them(tmp_path: Path) -> None:
    group = new_group(tmp_path / "a.zarr", "0.5")
    write_image(group, numbered((2, 1, 3, 8, 9)), "0.5")
    with pytest.raises(InputError, match=r"holds 2 stacks \(a-t0, a-t1\)"):
        open_stack(tmp_path / "a.zarr")


def test_opening_and_iterating_never_hold_the_volume(tmp_path: Path) -> None:
    z_stack = np.random.default_rng(0).integers(0, 9999, (30, 256, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", z_stack, photometric="minisblack")
    write_image(new_group(tmp_path / "a.zarr", "0.5"), z_stack, "0.5", axes="zyx", chunk_px=256)
    for name in ("a.tif", "a.zarr"):
        open_stack(tmp_path / name)[0]  # what importing and first use cost is not meant here
        tracemalloc.start()
        with open_stack(tmp_path / name) as stack:
            total = sum(int(z_slice.sum()) for z_slice in stack)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == int(z_stack.sum())
        assert peak < 8 * z_stack[0].nbytes < z_stack.nbytes / 3


# --- real files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "z_step_um", "pixel_size_um"),
    [
        ("organoid_A01.ome.tif", (11, 1048, 1328), "uint8", 200.576, 4.3229),
        ("yeast.ome.tif", (34, 116, 55), "uint16", 0.3, None),
        ("adherent_cell.ome.tif", (21, 165, 157), "uint16", 0.1, None),
    ],
)
def test_real_stacks_open_with_shape_and_calibration(
    name: str,
    shape: tuple[int, int, int],
    dtype: str,
    z_step_um: float,
    pixel_size_um: float | None,
) -> None:
    if not (SHARED / name).exists():
        pytest.skip("the shared data are not here")
    with open_stack(SHARED / name) as stack:
        assert (stack.shape, stack.dtype) == (shape, np.dtype(dtype))
        assert stack.z_step_um == Calibration(z_step_um, "file")
        assert stack.pixel_size_um == (pixel_size_um and Calibration(pixel_size_um, "file"))
        np.testing.assert_array_equal(stack[-1], tifffile.imread(SHARED / name)[-1])


def test_a_real_2d_slice_is_refused() -> None:
    path = SHARED / "zebrafish_slice.tif"
    if not path.exists():
        pytest.skip("the shared data are not here")
    with pytest.raises(InputError, match="a stack needs at least 2 slices"):
        open_stacks(path)
